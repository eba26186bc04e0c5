"""Webhooks against a real receiver: what is told, in which order, when it fails, and where nothing goes."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compute import Config
from compute.config import Security
from compute.errors import ConfigurationError, Conflict, InvalidField, UriNotAllowed, WebhookNotFound
from registry import webhook_delivery
from registry.catalog import ModelCatalog
from registry.egress import Unreachable, check_url, post
from registry.models import Draft, new_id
from registry.records import Artifact
from registry.webhook_service import WebhookService
from registry.webhooks import DEFAULT_KINDS, MAX_WEBHOOKS, WebhookLog, new_secret, new_webhook_id
from tests.receiver import Message, Receiver

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
LOCAL = Security(webhook_hosts=("127.0.0.1",))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture
def catalog(config: Config) -> ModelCatalog:
    return ModelCatalog.of(config)


@pytest.fixture
def serve(receiver: Receiver) -> Iterator[Callable[..., WebhookService]]:
    """Makes services that tell; they stop before the receiver does."""
    made: list[WebhookService] = []

    def start(catalog: ModelCatalog, security: Security = LOCAL) -> WebhookService:
        made.append(WebhookService(catalog, security))
        made[-1].start()
        return made[-1]

    yield start
    for service in made:
        service.stop()


@pytest.fixture
def service(catalog: ModelCatalog, serve: Callable[..., WebhookService]) -> WebhookService:
    return serve(catalog)


def _register(catalog: ModelCatalog, name: str = "delays") -> str:
    artifact = Artifact(digest=f"sha256:{'0' * 64}", size=1)
    draft = Draft(model_id=new_id(), name=name, model_type="xgboost", format="xgboost-ubj", artifact=artifact)
    return catalog.register(draft).model_id


def _create(service: WebhookService, receiver: Receiver, **fields: Any) -> tuple[str, str]:
    webhook_id, secret = new_webhook_id(), new_secret()
    service.create(webhook_id, secret, receiver.url, fields.get("kinds"), fields.get("names"))
    return webhook_id, secret


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _verify(message: Message, secret: str) -> bool:
    """With the very function that the README gives to receivers."""
    [block] = [
        block for block in re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE) if "hmac" in block
    ]
    given: dict[str, Any] = {}
    exec(block, given)
    return bool(given["is_from_us"](message.headers, message.body, secret))


def test_changes_are_told_in_order_and_signed(
    catalog: ModelCatalog, service: WebhookService, receiver: Receiver
) -> None:
    before = _register(catalog)
    webhook_id, secret = _create(service, receiver)
    model_id = _register(catalog)
    catalog.update(model_id, {"metrics": {"rmse": 1.0}}, None, "1")  # of a kind that is not told by default
    catalog.set_alias("delays", "champion", 2, "2")
    catalog.update(model_id, {"status": "deprecated"}, None, "3")
    catalog.delete(model_id, None, "4", force=True)
    catalog.restore(model_id, "5")
    messages = receiver.wait(5)
    assert [message.json["type"] for message in messages] == [
        "model.registered",
        "model.aliased",
        "model.status_changed",
        "model.deleted",
        "model.restored",
    ]
    assert {message.json["data"]["model_id"] for message in messages} == {model_id}
    assert before != model_id
    assert messages[1].json["data"]["changed"] == {"alias": "champion", "version": 2, "previous": None}
    assert all(_verify(message, secret) for message in messages)
    assert not _verify(messages[0]._replace(body=messages[0].body + b" "), secret)
    assert not _verify(messages[0], new_secret())
    old = {**messages[0].headers, "webhook-timestamp": "1614265330"}
    assert not _verify(messages[0]._replace(headers=old), secret)
    assert len({message.id for message in messages}) == 5
    assert all("." not in message.id for message in messages)
    _until(lambda: service.get(webhook_id).position == catalog.changes().position)
    assert service.get(webhook_id).failures == 0


def test_only_what_was_asked_for_is_told(catalog: ModelCatalog, service: WebhookService, receiver: Receiver) -> None:
    _create(service, receiver, kinds=["model.deleted"], names=["mine"])
    for name in ("other", "mine", "other"):
        catalog.delete(_register(catalog, name), None, new_id(), force=False)
    [message] = receiver.wait(1)
    assert (message.json["type"], message.json["data"]["name"]) == ("model.deleted", "mine")
    time.sleep(0.3)
    assert len(receiver.messages) == 1


def test_a_receiver_that_fails_gets_everything_in_order_when_it_is_well(
    catalog: ModelCatalog, service: WebhookService, receiver: Receiver
) -> None:
    answers = iter([500, 302, 204])
    receiver.answer = lambda handler, message: next(answers, 200)
    webhook_id, _ = _create(service, receiver)
    ids = [_register(catalog) for _ in range(3)]
    receiver.wait(1)
    _until(lambda: service.get(webhook_id).failures == 1)
    failing = service.get(webhook_id)
    assert failing.reason == "it answered 500"
    assert failing.failing_since is not None
    messages = receiver.wait(5)
    assert [message.json["data"]["model_id"] for message in messages] == [ids[0], ids[0], *ids]
    assert len({message.id for message in messages[:3]}) == 1
    _until(lambda: service.get(webhook_id).failures == 0)
    assert service.get(webhook_id).failing_since is None


def test_a_receiver_that_is_away_gets_everything_when_it_is_back(
    catalog: ModelCatalog, service: WebhookService, receiver: Receiver
) -> None:
    receiver.stop()
    webhook_id, _ = _create(service, receiver)
    ids = [_register(catalog) for _ in range(2)]
    _until(lambda: service.get(webhook_id).failures > 0)
    assert "refused" in (service.get(webhook_id).reason or "")
    receiver.start()
    assert [message.json["data"]["model_id"] for message in receiver.wait(2)] == ids


def test_a_receiver_that_hangs_holds_up_no_other(
    catalog: ModelCatalog, service: WebhookService, receiver: Receiver
) -> None:
    release = threading.Event()
    slow = Receiver()
    try:
        slow.answer = lambda handler, message: 204 if release.wait(30) else None
        _create(service, slow)
        _create(service, receiver)
        for _ in range(3):
            _register(catalog)
        receiver.wait(3)
        assert len(slow.messages) == 1
        release.set()
        slow.wait(3)
    finally:
        release.set()
        slow.stop()


def test_another_process_goes_on_where_the_first_was(
    catalog: ModelCatalog,
    service: WebhookService,
    receiver: Receiver,
    config: Config,
    serve: Callable[..., WebhookService],
) -> None:
    first = _register(catalog)
    _create(service, receiver)
    told = _register(catalog)
    receiver.wait(1)
    second = ModelCatalog.of(config)  # whose deliverer runs beside the first: at least once, for both tell
    serve(second)
    later = _register(second)
    _until(lambda: receiver.messages[-1].json["data"]["model_id"] == later)
    found = [message.json["data"]["model_id"] for message in receiver.messages]
    assert list(dict.fromkeys(found)) == [told, later]
    assert first not in found
    by_model = {(message.json["data"]["model_id"], message.id) for message in receiver.messages}
    assert len(by_model) == 2  # a repetition has the id of the first


def test_who_fails_for_too_long_is_disabled_and_a_test_that_arrives_enables(
    catalog: ModelCatalog, receiver: Receiver, serve: Callable[..., WebhookService]
) -> None:
    service = serve(catalog, Security(webhook_hosts=("127.0.0.1",), webhook_days=1e-6))
    receiver.answer = lambda handler, message: 500
    webhook_id, _ = _create(service, receiver)
    missed = _register(catalog)
    _until(lambda: service.get(webhook_id).status == "disabled")
    disabled = service.get(webhook_id)
    assert "it failed" in (disabled.reason or "")
    assert "it answered 500" in (disabled.reason or "")
    count = len(receiver.messages)
    later = _register(catalog)
    trial = service.test(webhook_id)
    assert (trial.delivered, trial.status) == (False, 500)
    assert service.get(webhook_id).status == "disabled"
    receiver.answer = lambda handler, message: 204
    assert service.test(webhook_id).delivered
    messages = receiver.wait(count + 4)[count:]
    assert [message.json["type"] for message in messages[:2]] == ["webhook.test"] * 2
    assert [message.json["data"]["model_id"] for message in messages[2:]] == [missed, later]
    _until(lambda: service.get(webhook_id).status == "active")


def test_who_answers_410_wants_to_hear_no_more(
    catalog: ModelCatalog, service: WebhookService, receiver: Receiver
) -> None:
    receiver.answer = lambda handler, message: 410
    webhook_id, _ = _create(service, receiver)
    _register(catalog)
    _until(lambda: service.get(webhook_id).status == "disabled")
    assert len(receiver.messages) == 1


def test_who_was_deleted_is_told_nothing(catalog: ModelCatalog, service: WebhookService, receiver: Receiver) -> None:
    kept, _ = _create(service, receiver)
    gone, _ = _create(service, receiver)
    service.delete(gone)
    _register(catalog)
    receiver.wait(1)
    time.sleep(0.3)
    assert len(receiver.messages) == 1
    assert [webhook.webhook_id for webhook in service.list()] == [kept]
    for call in (service.get, service.delete, service.test):
        with pytest.raises(WebhookNotFound):
            call(gone)


def test_what_was_compacted_before_it_was_told_is_owned_up_to(
    config: Config, receiver: Receiver, serve: Callable[..., WebhookService]
) -> None:
    catalog = ModelCatalog(ModelCatalog.of(config).store, snapshot_every=2)
    webhook_id, _ = _create(WebhookService(catalog, LOCAL), receiver)
    for _ in range(9):
        _register(catalog)
        catalog.journal.wait_for_snapshot()
    catalog.journal.compact(0.0)
    service = serve(ModelCatalog.of(config))  # as after a restart: this one remembers the newest entries
    [message] = receiver.wait(1)
    assert message.json["type"] == "webhook.missed"
    assert message.json["data"]["after"] == "1.0"
    _until(lambda: service.get(webhook_id).position == message.json["data"]["position"])
    later = _register(catalog)
    assert receiver.wait(2)[1].json["data"]["model_id"] == later


def test_secrets_are_in_no_log_and_no_listing(
    catalog: ModelCatalog, service: WebhookService, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answer = lambda handler, message: 500
    webhook_id, secret = _create(service, receiver)
    _register(catalog)
    _until(lambda: service.get(webhook_id).failures > 0)
    service.test(webhook_id)
    shown = caplog.text + repr(service.list()) + repr(service._log.subscription(webhook_id))
    assert webhook_id in shown
    assert secret not in shown
    assert secret.removeprefix("whsec_") not in shown


@pytest.mark.parametrize(
    "fields",
    [
        {"kinds": []},
        {"kinds": ["model.exploded"]},
        {"kinds": "model.deleted"},
        {"kinds": [1]},
        {"names": "delays"},
        {"names": ["../x"]},
        {"names": [None]},
    ],
)
def test_bad_kinds_and_names_are_refused(service: WebhookService, receiver: Receiver, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidField):
        _create(service, receiver, **fields)
    assert service.list() == []


def test_a_repeated_creation_is_one_webhook_and_there_is_an_end_to_them(service: WebhookService) -> None:
    webhook_id, secret = new_webhook_id(), new_secret()
    first = service.create(webhook_id, secret, "http://127.0.0.1:9/", None, None)
    assert service.create(webhook_id, secret, "http://127.0.0.1:9/", None, None) == first
    assert first.kinds == DEFAULT_KINDS
    for _ in range(MAX_WEBHOOKS - 1):
        service._log.create(new_webhook_id(), secret, "http://127.0.0.1:9/", None, None, "1.0")
    with pytest.raises(Conflict, match="100"):
        service.create(new_webhook_id(), secret, "http://127.0.0.1:9/", None, None)


def test_webhooks_outlive_the_process(catalog: ModelCatalog, receiver: Receiver, config: Config) -> None:
    service = WebhookService(catalog, LOCAL)
    webhook_id, secret = _create(service, receiver, names=["delays"])
    again = WebhookLog(ModelCatalog.of(config).store)
    assert again.get(webhook_id) == service.get(webhook_id)
    assert again.subscription(webhook_id).secret == secret


# Where messages may go


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "http://127.0.0.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://127.1/",
        "http://169.254.169.254/latest/meta-data/",
        "https://hooks.example.evil.example/",
        "https://hooks.example./",
        "https://evil.example/?x=hooks.example",
        "https://10.200.0.1/",
    ],
)
def test_hosts_that_are_not_listed_are_refused_with_the_key_to_set(url: str) -> None:
    with pytest.raises(UriNotAllowed, match=r"security\.webhook_hosts") as refused:
        check_url(url, ("hooks.example", "10.0.0.0/9"))
    assert refused.value.context["key"] == "security.webhook_hosts"


@pytest.mark.parametrize(
    "url",
    [
        None,
        7,
        "",
        "hooks.example",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "https://user:secret@hooks.example/",
        "https://user@hooks.example/",
        "https://hooks.example/#x",
        "https://hooks.example:0/",
        "https://hooks.example:99999/",
        "https://hooks.example/a b",
        "https://hooks.example\\@evil.example/",
        "https://hooks.example/\r\nX: y",
        "https://hooks.example/\0",
        "https://hoöks.example/",
        "https://[::1/",
        "https://hooks.example/" + "x" * 2000,
    ],
)
def test_what_is_no_url_of_http_is_refused(url: Any) -> None:
    with pytest.raises(InvalidField):
        check_url(url, ("hooks.example",))


def test_a_listed_name_at_a_private_address_is_refused_unless_the_address_is_listed(receiver: Receiver) -> None:
    url = receiver.url.replace("127.0.0.1", "localhost")
    with pytest.raises(UriNotAllowed, match="private address"):
        post(url, b"{}", {}, ("localhost",))
    assert receiver.messages == []
    assert post(url, b"{}", {}, ("localhost", "127.0.0.0/8", "::1")).status == 204


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    target = Receiver()
    try:

        def redirect(handler: Any, message: Message) -> None:
            handler.send_response(307)
            handler.send_header("Location", target.url)
            handler.end_headers()

        receiver.answer = redirect
        assert post(receiver.url, b"{}", {}, ("127.0.0.1",)).status == 307
        assert target.messages == []
    finally:
        target.stop()


def test_an_answer_without_end_is_cut(receiver: Receiver) -> None:
    def drip(handler: Any, message: Message) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(200):
            handler.wfile.write(b"X: y\r\n")
            handler.wfile.flush()
            time.sleep(0.05)

    receiver.answer = drip
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"no answer within 0\.5 s"):
        post(receiver.url, b"{}", {}, ("127.0.0.1",), timeout=0.5)
    assert time.monotonic() - started < 3


def test_of_a_large_answer_no_more_than_the_beginning_is_read(receiver: Receiver) -> None:
    sent = []

    def flood(handler: Any, message: Message) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            for _ in range(1000):
                handler.wfile.write(b"x" * 1_000_000)
                sent.append(1)
        except OSError:
            sent.append(0)

    receiver.answer = flood
    assert post(receiver.url, b"{}", {}, ("127.0.0.1",), timeout=10).status == 200
    _until(lambda: 0 in sent)
    assert len(sent) < 100


def test_what_is_not_http_is_told_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(Unreachable, match="BadStatusLine"):
            post(f"http://127.0.0.1:{server.getsockname()[1]}/", b"{}", {}, ("127.0.0.1",))


def test_the_proxies_of_the_environment_are_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert post(receiver.url, b"{}", {}, ("127.0.0.1",)).status == 204


@pytest.mark.parametrize("host", ["https://hooks.example", "hooks.example:443", "hooks.example/x", "", "a b", "*"])
def test_a_configured_host_that_is_none_stops_the_start(
    host: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compute import load_config

    file = tmp_path / "config.json"
    file.write_text(f'{{"security": {{"webhook_hosts": ["{host}"]}}}}')
    with pytest.raises(ConfigurationError, match=r"security\.webhook_hosts"):
        load_config(file)
    file.write_text('{"security": {"webhook_hosts": ["hooks.example", "10.0.0.0/8", "::1", "[fd00::]/8"]}}')
    assert len(load_config(file).security.webhook_hosts) == 4


def test_the_pauses_grow_and_differ() -> None:
    pauses = [[webhook_delivery._pause(failures) for _ in range(20)] for failures in (0, 3, 30)]
    assert all(0.5 <= pause <= 1.0 for pause in pauses[0])
    assert all(4.0 <= pause <= 8.0 for pause in pauses[1])
    assert all(1800 <= pause <= 3600 for pause in pauses[2])
    assert all(len(set(each)) > 1 for each in pauses)
