"""The event stream, as its clients see it: through Serve, and, where time matters, through a server of this process."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import httpx
import pytest
import uvicorn

from compute import Config
from deployments import events, feed
from deployments.models_api import models_api
from deployments.scoring import Scorer
from deployments.tokens import Role, TokenStore
from registry import ChangePage, ModelRegistry, get_model_registry


class Event(NamedTuple):
    """One event of a stream; without a kind, a sign of life."""

    id: str
    kind: str
    data: dict[str, Any]


class Follower:
    """An event stream that is read in a thread, as EventSource does it."""

    def __init__(self, http: httpx.Client, **options: Any) -> None:
        self.events: list[Event] = []
        self.signs = 0
        self.last_id = ""
        self.status = 0
        self.ended = threading.Event()
        self._open = threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(http, options), daemon=True)
        self._thread.start()
        assert self._open.wait(20)

    def _run(self, http: httpx.Client, options: dict[str, Any]) -> None:
        try:
            with http.stream("GET", "/events", **{"timeout": 30, **options}) as self.response:
                self.status = self.response.status_code
                fields: dict[str, str] = {}
                for line in self.response.iter_lines():
                    if line.startswith(":"):
                        self.signs += 1
                    elif line:
                        name, _, value = line.partition(": ")
                        fields[name] = value
                    else:
                        self._take(fields)
                        fields = {}
        except (httpx.StreamError, httpx.TransportError) as error:
            self.error = error  # also when the test hangs up
        finally:
            self._open.set()
            self.ended.set()

    def _take(self, fields: dict[str, str]) -> None:
        self.last_id = fields.get("id", self.last_id)
        if "data" in fields:
            self.events.append(Event(self.last_id, fields["event"], json.loads(fields["data"])))
        self._open.set()

    def close(self) -> None:
        """Hang up."""
        if not self.ended.is_set():
            self.response.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def wait(self, count: int, seconds: float = 20.0) -> list[Event]:
        deadline = time.monotonic() + seconds
        while len(self.events) < count:
            assert time.monotonic() < deadline, f"{len(self.events)} events of {count} came in {seconds} s"
            time.sleep(0.01)
        return list(self.events)


@pytest.fixture
def connect() -> Iterator[Callable[[str, str], httpx.Client]]:
    """Makes clients of as many connections as they like: `connect(url, secret)`."""
    made: list[httpx.Client] = []

    def start(url: str, secret: str) -> httpx.Client:
        headers, limits = {"Authorization": f"Bearer {secret}"}, httpx.Limits(max_connections=None)
        made.append(httpx.Client(base_url=url, headers=headers, timeout=30, limits=limits))
        return made[-1]

    yield start
    for http in made:
        http.close()


@pytest.fixture
def follow(connect: Callable[[str, str], httpx.Client]) -> Iterator[Callable[..., Follower]]:
    """Makes followers, which hang up at the end."""
    made: list[Follower] = []

    def start(http: httpx.Client, **options: Any) -> Follower:
        made.append(Follower(http, **options))
        return made[-1]

    yield start
    for follower in made:
        follower.close()


@pytest.fixture(scope="module")
def registry(ray_cluster: str, served_config: Config) -> ModelRegistry:
    return get_model_registry(served_config)


@pytest.fixture(scope="module")
def register(registry: ModelRegistry) -> Callable[..., str]:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    return lambda name, **options: registry.register_model(model, "linear", name=name, **options)


@pytest.fixture
def name() -> str:
    return f"event-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def http(models_url: str, client: Callable[..., httpx.Client]) -> httpx.Client:
    return client(models_url, Role.READ)


def test_what_happens_is_told_as_it_happens(
    http: httpx.Client,
    registry: ModelRegistry,
    register: Callable[..., str],
    name: str,
    follow: Callable[..., Follower],
) -> None:
    follower = follow(http, params={"name": name})
    assert follower.status == 200
    assert follower.response.headers["content-type"].startswith("text/event-stream")
    model_id = register(name)
    asked = time.monotonic()
    follower.wait(1)
    assert time.monotonic() - asked < 2
    registry.set_alias(name, "champion", 1)
    registry.update_model_metadata(model_id, {"status": "deprecated"})
    registry.delete_model(model_id, force=True)
    registry.restore_model(model_id)
    told = follower.wait(5)
    assert [event.kind for event in told] == [
        "model.registered",
        "model.aliased",
        "model.status_changed",
        "model.deleted",
        "model.restored",
    ]
    for event in told:
        assert event.data["kind"] == event.kind
        assert event.data["position"] == event.id
        assert (event.data["model_id"], event.data["name"], event.data["version"]) == (model_id, name, 1)


def test_who_comes_back_misses_nothing_and_hears_nothing_twice(
    http: httpx.Client, register: Callable[..., str], name: str, follow: Callable[..., Follower]
) -> None:
    first = follow(http, params={"name": name})
    ids = [register(name) for _ in range(3)]
    seen = first.wait(3)
    ids += [register(name) for _ in range(2)]
    for headers, params in (({"Last-Event-ID": seen[1].id}, {}), ({}, {"after": seen[1].id})):
        again = follow(http, headers=headers, params={"name": name, **params})
        assert [event.data["model_id"] for event in again.wait(3)] == ids[2:]
    # What a browser says when it comes back is newer than the address that it first asked for.
    both = follow(http, headers={"Last-Event-ID": seen[2].id}, params={"name": name, "after": "1.0"})
    assert [event.data["model_id"] for event in both.wait(2)] == ids[3:]
    everything = follow(http, params={"after": "1.0", "kind": "model.registered"})
    names = [event.data["model_id"] for event in everything.wait(5) if event.data["name"] == name]
    deadline = time.monotonic() + 20
    while len(names) < 5 and time.monotonic() < deadline:
        names = [event.data["model_id"] for event in list(everything.events) if event.data["name"] == name]
    assert names == ids


def test_a_stream_without_events_has_a_position_to_come_back_to(
    http: httpx.Client, register: Callable[..., str], name: str, follow: Callable[..., Follower]
) -> None:
    quiet = follow(http, params={"name": "nothing-of-this-name"})
    register(name)
    back = follow(http, headers={"Last-Event-ID": quiet.last_id}, params={"name": name})
    assert [event.data["name"] for event in back.wait(1)] == [name]


def test_only_kinds_and_names_that_were_asked_for_are_told(
    http: httpx.Client,
    registry: ModelRegistry,
    register: Callable[..., str],
    name: str,
    follow: Callable[..., Follower],
) -> None:
    follower = follow(http, params={"kind": "model.aliased,model.deleted", "name": [name, f"{name}-2"]})
    for each in (name, f"{name}-2", f"{name}-3"):
        model_id = register(each)
        registry.set_alias(each, "champion", 1)
        registry.delete_model(model_id, force=True)
    told = [(event.kind, event.data["name"]) for event in follower.wait(4)]
    kinds = ("model.aliased", "model.deleted")
    assert told == [(kind, each) for each in (name, f"{name}-2") for kind in kinds]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("?kind=model.exploded", 422, "invalid-field"),
        ("?after=x", 422, "invalid-field"),
        ("?after=0.0", 422, "invalid-field"),
        ("?after=1.0%0d%0aX:y", 422, "invalid-field"),
        ("?after=999999999.0", 410, "position-gone"),
    ],
)
def test_what_cannot_be_followed_is_a_problem(http: httpx.Client, query: str, status: int, code: str) -> None:
    response = http.get(f"/events{query}")
    assert (response.status_code, response.json()["code"]) == (status, code)
    if status == 410:
        assert "Begin without a position" in response.json()["detail"]
        assert response.json()["context"]["newest"]
    assert http.get("/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_head_says_what_there_is_and_ends(http: httpx.Client) -> None:
    response = http.head("/events", timeout=10)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("text/event-stream")


def test_many_followers_hear_the_same_and_predictions_go_on(
    models_url: str,
    tokens: dict[Role, str],
    register: Callable[..., str],
    name: str,
    follow: Callable[..., Follower],
    connect: Callable[[str, str], httpx.Client],
) -> None:
    http = connect(models_url, tokens[Role.READ])
    followers = [follow(http, params={"name": name}) for _ in range(40)]
    ids = [register(name) for _ in range(5)]
    assert http.get(f"/{ids[0]}").status_code == 200
    for follower in followers:
        assert [event.data["model_id"] for event in follower.wait(5)] == ids


def test_curl_follows(models_url: str, tokens: dict[Role, str], register: Callable[..., str], name: str) -> None:
    command = ["curl", "-sN", f"{models_url}/events?name={name}", "-H", f"Authorization: Bearer {tokens[Role.READ]}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        try:
            assert curl.stdout.readline() == f"retry: {events.RETRY}\n"
            model_id = register(name)
            lines = [curl.stdout.readline() for _ in range(5)]
        finally:
            curl.terminate()
    assert lines[3] == "event: model.registered\n"
    assert json.loads(lines[4].removeprefix("data: "))["model_id"] == model_id


# What takes time, on a server of this process that has less patience


@pytest.fixture
def run(registry: ModelRegistry, served_config: Config) -> Iterator[Callable[..., str]]:
    """Starts servers: `run(max_streams)` gives the address."""
    servers = []

    def start(max_streams: int = 8, followed: ModelRegistry = registry) -> str:
        app = models_api(followed, Scorer(followed), served_config, max_streams)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = {"host": "127.0.0.1", "port": port, "log_level": "warning", "timeout_graceful_shutdown": 1}
        server = uvicorn.Server(uvicorn.Config(app, **options))  # type: ignore[arg-type]
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{port}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join()


def test_a_silent_stream_gives_signs_of_life_and_ends_with_its_token(
    run: Callable[..., str],
    token_store: TokenStore,
    monkeypatch: pytest.MonkeyPatch,
    follow: Callable[..., Follower],
    connect: Callable[[str, str], httpx.Client],
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.2)
    token = token_store.create("short-lived", Role.READ, timedelta(hours=1))
    http = connect(run(), token.secret)
    follower = follow(http, params={"name": "nothing-of-this-name"})
    time.sleep(1.0)
    assert follower.signs >= 2
    assert not follower.ended.is_set()
    token_store.revoke(token.record.id)
    assert follower.ended.wait(5)
    assert http.get("/events").status_code == 401


def test_there_is_a_number_of_streams_and_one_that_ends_makes_room(
    run: Callable[..., str],
    tokens: dict[Role, str],
    monkeypatch: pytest.MonkeyPatch,
    follow: Callable[..., Follower],
    connect: Callable[[str, str], httpx.Client],
) -> None:
    monkeypatch.setattr(events, "LIFETIME", 1.0)
    monkeypatch.setattr(events, "HEARTBEAT", 0.2)
    http = connect(run(max_streams=2), tokens[Role.READ])
    followers = [follow(http) for _ in range(2)]
    refused = http.get("/events")
    assert (refused.status_code, refused.json()["context"]) == (429, {"limit": 2})
    assert "retry-after" in refused.headers
    assert all(follower.ended.wait(10) for follower in followers)
    assert follow(http).status == 200


def test_who_does_not_read_is_sent_no_more_than_a_limit_and_goes_on_from_there(
    run: Callable[..., str],
    tokens: dict[Role, str],
    monkeypatch: pytest.MonkeyPatch,
    register: Callable[..., str],
    name: str,
    follow: Callable[..., Follower],
    connect: Callable[[str, str], httpx.Client],
) -> None:
    monkeypatch.setattr(events, "MAX_BYTES", 3000)
    ids = [register(name) for _ in range(20)]
    http = connect(run(), tokens[Role.READ])
    found: list[str] = []
    position, streams = "1.0", 0
    while len(found) < 20:
        follower = follow(http, headers={"Last-Event-ID": position}, params={"name": name})
        deadline = time.monotonic() + 20
        while not follower.ended.is_set() and len(found) + len(follower.events) < 20:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        found += [event.data["model_id"] for event in follower.events]
        position, streams = follower.last_id, streams + 1
    assert found == ids


class _Counting(ModelRegistry):
    """Counts the questions for changes."""

    asked = 0

    def changes(self, after: str | None = None, limit: int = 100, wait: float = 0.0) -> ChangePage:
        self.asked += wait > 0
        return super().changes(after, limit, wait)


def test_however_many_follow_the_registry_is_asked_once(
    run: Callable[..., str],
    tokens: dict[Role, str],
    served_config: Config,
    register: Callable[..., str],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    follow: Callable[..., Follower],
    connect: Callable[[str, str], httpx.Client],
) -> None:
    monkeypatch.setattr(feed, "_WAIT", 0.5)
    counting = _Counting(served_config)
    http = connect(run(32, counting), tokens[Role.READ])
    followers = [follow(http, params={"name": name}) for _ in range(20)]
    time.sleep(0.6)
    before = counting.asked
    model_id = register(name)
    for follower in followers:
        assert follower.wait(1)[0].data["model_id"] == model_id
    assert counting.asked - before <= 3
    for follower in followers:
        follower.close()
    deadline = time.monotonic() + 10
    while True:  # and when all have left, it is asked no more
        before = counting.asked
        time.sleep(1.2)
        if counting.asked == before:
            break
        assert time.monotonic() < deadline
