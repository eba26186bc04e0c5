"""Webhooks over HTTP, told by the process that keeps the models, which may be killed at any moment."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from compute import Config
from deployments.tokens import Role
from registry import ModelRegistry, get_model_registry
from registry.actor import RemoteCatalog
from tests.receiver import Message, Receiver


@pytest.fixture(scope="module")
def registry(ray_cluster: str, served_config: Config) -> ModelRegistry:
    return get_model_registry(served_config)


@pytest.fixture(scope="module")
def register(registry: ModelRegistry) -> Callable[[str], str]:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    return lambda name: registry.register_model(model, "linear", name=name)


@pytest.fixture
def name() -> str:
    return f"told-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def http(models_url: str, client: Callable[..., httpx.Client]) -> Iterator[httpx.Client]:
    http = client(models_url, Role.ADMIN)
    yield http
    for webhook in http.get("/webhooks").json()["webhooks"]:
        http.delete(f"/webhooks/{webhook['webhook_id']}")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


def test_a_webhook_is_made_shown_tried_and_taken_away(
    http: httpx.Client, receiver: Receiver, register: Callable[[str], str], name: str
) -> None:
    made = http.post("/webhooks", json={"url": receiver.url, "names": [name]})
    assert made.status_code == 201, made.text
    webhook = made.json()
    secret = webhook.pop("secret")
    assert secret.startswith("whsec_")
    path = f"/webhooks/{webhook['webhook_id']}"
    assert made.headers["location"] == f"/models{path}"
    assert http.get(path).json() == webhook
    assert http.get("/webhooks").json() == {"webhooks": [webhook]}
    assert secret not in http.get("/webhooks").text + http.get(path).text

    trial = http.post(f"{path}/test")
    assert (trial.status_code, trial.json()["delivered"], trial.json()["status"]) == (200, True, 204)
    assert receiver.wait(1)[0].json["type"] == "webhook.test"
    model_id = register(name)
    assert receiver.wait(2)[1].json["data"]["model_id"] == model_id

    assert http.delete(path).status_code == 204
    for method, url in (("GET", path), ("DELETE", path), ("POST", f"{path}/test")):
        refused = http.request(method, url)
        assert (refused.status_code, refused.json()["code"]) == (404, "webhook-not-found")
    register(name)
    time.sleep(0.3)
    assert len(receiver.messages) == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"url": 1}, 422),
        ({"url": "ftp://127.0.0.1/"}, 422),
        ({"url": "http://user:secret@127.0.0.1/"}, 422),
        ({"url": "http://169.254.169.254/latest/meta-data/"}, 403),
        ({"url": "http://localhost:8265/api/jobs/"}, 403),
        ({"url": "http://127.0.0.1/", "kinds": ["model.exploded"]}, 422),
        ({"url": "http://127.0.0.1/", "names": "x"}, 422),
        ({"url": "http://127.0.0.1/", "secret": "mine"}, 422),
        ([], 422),
    ],
)
def test_what_may_not_be_called_is_refused(http: httpx.Client, body: Any, status: int) -> None:
    refused = http.post("/webhooks", json=body)
    assert refused.status_code == status, refused.text
    if status == 403:
        assert "security.webhook_hosts" in refused.json()["detail"]
    assert http.get("/webhooks").json() == {"webhooks": []}


def test_webhooks_are_for_admins(models_url: str, client: Callable[..., httpx.Client], receiver: Receiver) -> None:
    for role in (Role.READ, Role.WRITE):
        http = client(models_url, role)
        assert http.get("/webhooks").status_code == 403
        assert http.post("/webhooks", json={"url": receiver.url}).status_code == 403


def test_why_one_fails_is_shown(
    http: httpx.Client, receiver: Receiver, register: Callable[[str], str], name: str
) -> None:
    receiver.answer = lambda handler, message: 503
    path = http.post("/webhooks", json={"url": receiver.url, "names": [name]}).headers["location"]
    path = path.removeprefix("/models")
    register(name)
    deadline = time.monotonic() + 20
    while (shown := http.get(path).json())["failures"] == 0:
        assert time.monotonic() < deadline
    assert shown["reason"] == "it answered 503"
    assert shown["failing_since"] is not None
    trial = http.post(f"{path}/test").json()
    assert (trial["delivered"], trial["reason"]) == (False, "it answered 503")


def test_nothing_is_lost_when_the_process_is_killed_before_it_noted_the_answer(
    http: httpx.Client,
    receiver: Receiver,
    register: Callable[[str], str],
    registry: ModelRegistry,
    served_config: Config,
    name: str,
) -> None:
    http.post("/webhooks", json={"url": receiver.url, "names": [name]})
    pid = RemoteCatalog(served_config).call("pid")
    killed = []

    def kill_once(handler: Any, message: Message) -> int:
        if not killed and message.json["data"]["version"] == 2:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        return 204

    receiver.answer = kill_once
    ids = [register(name) for _ in range(4)]
    # Nobody asks the registry anything: it comes back, and goes on, by itself.
    messages = receiver.wait(5, 60)
    told = [message.json["data"]["model_id"] for message in messages]
    assert killed == [pid]
    assert list(dict.fromkeys(told)) == ids
    repeated = {message.id for message in messages if message.json["data"]["model_id"] == ids[1]}
    assert told.count(ids[1]) >= 2
    assert len(repeated) == 1
    assert RemoteCatalog(served_config).call("pid") != pid


def test_what_happened_while_the_process_was_away_is_told(
    http: httpx.Client, receiver: Receiver, registry: ModelRegistry, served_config: Config, name: str
) -> None:
    from sklearn.linear_model import LinearRegression

    from registry.catalog import ModelCatalog

    model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    http.post("/webhooks", json={"url": receiver.url, "names": [name]})
    registry.register_model(model, "linear", name=name)
    receiver.wait(1)
    other = ModelCatalog.of(served_config)  # as another writer of the same store
    first = registry.resolve(name)
    os.kill(RemoteCatalog(served_config).call("pid"), signal.SIGKILL)
    other.set_alias(name, "champion", 1, uuid.uuid4().hex)
    message = receiver.wait(2, 60)[1]
    assert (message.json["type"], message.json["data"]["model_id"]) == ("model.aliased", first.model_id)
