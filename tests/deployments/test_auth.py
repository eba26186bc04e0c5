"""The door in front of every application, on an application of its own."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest
import uvicorn
from fastapi import Request
from pydantic import BaseModel

from compute import Config, load_config
from compute.errors import ColumnMissing, ComputeError, StorageError
from deployments.access import PUBLIC
from deployments.application import Application
from deployments.rendering import JSONResponse
from deployments.tokens import Role, TokenStore
from registry import open_store


class Body(BaseModel):
    number: int


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    default = load_config()
    state = tmp_path_factory.mktemp("auth").as_uri()
    return default.model_copy(update={"storage": default.storage.model_copy(update={"uri": state})})


@pytest.fixture(scope="module")
def store(config: Config) -> TokenStore:
    return TokenStore(open_store(config.storage.uri, config))


@pytest.fixture(scope="module")
def app(config: Config) -> Application:
    security = config.security.model_copy(
        update={"max_body": 1000, "max_upload": 5000, "allowed_origins": ("https://app.example",)}
    )
    app = Application(
        title="Test",
        description="",
        rules={
            ("GET", "/open"): PUBLIC,
            ("GET", "/read"): Role.READ,
            ("POST", "/write"): Role.WRITE,
            ("POST", "/typed"): Role.READ,
            ("DELETE", "/admin"): Role.ADMIN,
            ("POST", "/upload"): Role.WRITE,
            ("GET", "/fail/{how}"): Role.READ,
        },
        config=config.model_copy(update={"security": security}),
        uploads=frozenset({"/upload"}),
        echo_request_id=True,
    )

    async def answer(request: Request) -> JSONResponse:
        return JSONResponse({"size": len(await request.body())})

    async def typed(body: Body) -> JSONResponse:
        return JSONResponse(body.model_dump())

    async def fail(how: str) -> JSONResponse:
        raise {
            "unexpected": ZeroDivisionError("secret inside"),
            "ours": ColumnMissing("no feature 'x'", context={"feature": "x", "value": float("nan"), "odd": object()}),
            "storage": StorageError("nothing at s3://bucket", "See http://s3:1", {"uri": "s3://bucket"}),
        }[how]

    for method, path in [("GET", "/open"), ("GET", "/read"), ("POST", "/write"), ("DELETE", "/admin")]:
        app.add_api_route(path, answer, methods=[method])
    app.add_api_route("/upload", answer, methods=["POST"])
    app.add_api_route("/undeclared", answer, methods=["GET"])
    app.add_api_route("/typed", typed, methods=["POST"])
    app.add_api_route("/fail/{how}", fail, methods=["GET"])
    return app


@pytest.fixture(scope="module")
def bearer(store: TokenStore) -> dict[str, dict[str, str]]:
    return {
        role: {"Authorization": f"Bearer {store.create(f'test-{role}', role, timedelta(hours=1)).secret}"}
        for role in Role
    }


@pytest.fixture(scope="module")
def http(app: Application) -> Iterator[httpx.Client]:
    """A client of the application on the server that Serve uses; to the application it is on port 8000."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", ws="none"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = listener.getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Host": "127.0.0.1:8000"}, timeout=10) as client:
        yield client
    server.should_exit = True
    thread.join()


def call(app: Application, kind: str = "http", **scope: Any) -> list[dict[str, Any]]:
    """What the application sends for a scope that a well-behaved server would not pass on."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    whole = {"type": kind, "method": "POST", "path": "/write", "root_path": "", "query_string": b"", **scope}
    asyncio.run(app(whole, receive, send))
    return sent


def _wait_for(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Wait for what is logged after the answer went out."""
    deadline = time.monotonic() + 5
    while text not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.005)
    assert text in caplog.text


def _problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert {"type", "title", "detail", "code", "request_id"} <= body.keys()
    return body


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Basic YTpi",
        "Bearer tw_0000000000000000_0000000000000000000000000000000000000000000",
        "Bearer x y",
        "tw_0000000000000000_0000000000000000000000000000000000000000000",
    ],
)
def test_without_a_valid_token_every_answer_is_401(http: httpx.Client, header: str | None) -> None:
    for path in ("/read", "/nothing/here", "/undeclared", "/openapi.jsonx"):
        response = http.get(path, headers={} if header is None else {"Authorization": header})
        _problem(response, 401)
        assert response.headers["www-authenticate"].startswith('Bearer realm="tablework"')


def test_a_token_counts_in_one_header_only(http: httpx.Client, bearer: dict[str, dict[str, str]]) -> None:
    value = bearer["admin"]["Authorization"]
    token = value.removeprefix("Bearer ")
    assert http.get("/read", headers={"Authorization": f"bearer  {token}"}).status_code == 200
    for name in ("token", "access_token", "Authorization"):
        assert http.get("/read", params={name: token}).status_code == 401
    assert http.get("/read", headers={"Cookie": f"Authorization={token}"}).status_code == 401
    twice = http.get("/read", headers=[("Authorization", value), ("Authorization", value)])
    assert twice.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/read", {"read", "write", "admin"}),
        ("POST", "/write", {"write", "admin"}),
        ("DELETE", "/admin", {"admin"}),
        ("GET", "/undeclared", {"admin"}),
    ],
)
def test_roles_include_the_smaller_ones_and_an_undeclared_route_needs_an_admin(
    http: httpx.Client, bearer: dict[str, dict[str, str]], method: str, path: str, allowed: set[str]
) -> None:
    for role, headers in bearer.items():
        response = http.request(method, path, headers=headers)
        if role in allowed:
            assert response.status_code == 200
        else:
            body = _problem(response, 403)
            assert body["context"]["role"] == role
            assert "insufficient_scope" in response.headers["www-authenticate"]


def test_what_is_public_needs_no_token_and_takes_no_other_method(http: httpx.Client) -> None:
    for path in ("/open", "/health", "/openapi.json", "/docs"):
        assert http.get(path).status_code == 200
        assert http.post(path).status_code == 401


def test_the_documentation_page_loads_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    schema = http.get("/openapi.json").json()
    assert schema["paths"]["/write"]["post"]["x-role"] == "write"
    assert schema["paths"]["/undeclared"]["get"]["x-role"] == "admin"
    assert schema["paths"]["/open"]["get"]["security"] == []


def test_an_unknown_path_is_404_and_a_wrong_method_405_for_whoever_has_a_token(
    http: httpx.Client, bearer: dict[str, dict[str, str]]
) -> None:
    for path in ("/nothing", "//read", "/read/", "/..%2fread", "/%00", "/read%00", "/fail/a%2fb"):
        _problem(http.get(path, headers=bearer["read"]), 404)
    response = http.post("/read", headers=bearer["read"])
    _problem(response, 405)
    assert response.headers["allow"] == "GET"
    _problem(http.options("/read", headers=bearer["read"]), 405)


def test_head_is_get_without_the_body(http: httpx.Client, bearer: dict[str, dict[str, str]]) -> None:
    got, head = (http.request(method, "/read", headers=bearer["read"]) for method in ("GET", "HEAD"))
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert http.head("/read").status_code == 401
    assert http.head("/undeclared", headers=bearer["write"]).status_code == 403


def test_a_revoked_or_expired_token_stops_working_within_a_second(
    http: httpx.Client, store: TokenStore, bearer: dict[str, dict[str, str]]
) -> None:
    revoked = store.create("revoked", "read", None)
    expiring = store.create("expiring", "read", timedelta(seconds=1))
    for secret in (revoked.secret, expiring.secret):
        assert http.get("/read", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    store.revoke(revoked.record.id)
    time.sleep(2.0)
    for secret, why in ((revoked.secret, "revoked"), (expiring.secret, "expired")):
        assert why in _problem(http.get("/read", headers={"Authorization": f"Bearer {secret}"}), 401)["detail"]
    assert http.get("/read", headers=bearer["read"]).status_code == 200


def test_a_token_that_is_made_later_works_even_if_it_was_tried_before(http: httpx.Client, store: TokenStore) -> None:
    for _ in range(3):
        secret = store.create("later", "read", None).secret
        assert http.get("/read", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("LOCALHOST", 200),
        ("localhost:1", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.", 421),
        ("[::2]", 421),
        ("localhost@evil.example", 400),
        ("localhost/..", 400),
        ("localhost:80:80", 400),
        ("::1", 400),
        ("", 400),
    ],
)
def test_only_requests_for_this_server_are_answered(
    http: httpx.Client, bearer: dict[str, dict[str, str]], host: str, status: int
) -> None:
    for path in ("/read", "/open"):
        response = http.get(path, headers={**bearer["read"], "Host": host})
        assert response.status_code == status
        if status != 200:
            _problem(response, status)


@pytest.mark.parametrize("hosts", [[], [b"localhost", b"localhost"]])
def test_a_request_has_one_host_header(app: Application, hosts: list[bytes]) -> None:
    assert call(app, headers=[(b"host", host) for host in hosts])[0]["status"] == 400


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8000", 200),
        ("https://127.0.0.1:8000", 200),
        ("https://app.example", 200),
        ("https://app.example.evil", 403),
        ("http://app.example", 403),
        ("http://127.0.0.1:9000", 403),
        ("http://localhost:8000", 403),
        ("file://127.0.0.1:8000", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_only_pages_of_allowed_origins_get_answers(
    http: httpx.Client, bearer: dict[str, dict[str, str]], origin: str, status: int
) -> None:
    response = http.get("/read", headers={**bearer["read"], "Origin": origin})
    assert response.status_code == status
    shared = response.headers.get("access-control-allow-origin")
    assert shared == ("https://app.example" if origin == "https://app.example" else None)


def test_an_allowed_page_may_ask_first_and_reads_refusals_too(http: httpx.Client) -> None:
    ask = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answer = http.options("/write", headers=ask)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in answer.headers
    assert http.options("/write", headers={**ask, "Origin": "https://evil.example"}).status_code == 403
    assert http.options("/write", headers={"Access-Control-Request-Method": "POST"}).status_code == 401
    refused = http.post("/write", headers={"Origin": "https://app.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example"


def _chunks(size: int) -> Iterator[bytes]:
    while size > 0:
        yield b"x" * min(size, 300)
        size -= 300


def test_bodies_are_limited_announced_or_not(http: httpx.Client, bearer: dict[str, dict[str, str]]) -> None:
    for path, limit in (("/write", 1000), ("/upload", 5000)):
        for make in (lambda size: b"x" * size, _chunks):
            send: Callable[[int], Any] = make
            fits = http.post(path, content=send(limit), headers=bearer["write"])
            assert (fits.status_code, fits.json()) == (200, {"size": limit})
            body = _problem(http.post(path, content=send(limit + 1), headers=bearer["write"]), 413)
            assert body["context"]["limit"] == limit


def test_a_framework_that_reads_the_body_itself_cannot_turn_413_into_400(
    http: httpx.Client, bearer: dict[str, dict[str, str]]
) -> None:
    headers = {**bearer["write"], "Content-Type": "application/json"}
    assert http.post("/typed", content=b'{"number": 1}', headers=headers).json() == {"number": 1}
    _problem(http.post("/typed", content=_chunks(2000), headers=headers), 413)


@pytest.mark.parametrize(("length", "status"), [("-1", 400), ("abc", 400), ("1e3", 400), ("9" * 5000, 413), ("1", 200)])
def test_a_content_length_that_is_none_is_refused(
    app: Application, bearer: dict[str, dict[str, str]], length: str, status: int
) -> None:
    headers = [(b"host", b"localhost"), (b"authorization", bearer["write"]["Authorization"].encode())]
    assert call(app, headers=[*headers, (b"content-length", length.encode())])[0]["status"] == status


def test_a_body_of_the_wrong_shape_is_422_and_one_that_is_not_json_400(
    http: httpx.Client, bearer: dict[str, dict[str, str]]
) -> None:
    headers = {**bearer["read"], "Content-Type": "application/json"}
    body = _problem(http.post("/typed", content=b'{"number": "secret-value"}', headers=headers), 422)
    assert body["context"]["faults"][0]["where"] == ["body", "number"]
    assert "secret-value" not in str(body)
    _problem(http.post("/typed", content=b'{"number": ', headers=headers), 400)
    _problem(http.post("/typed", content=b'{"number": NaN}', headers=headers), 422)
    _problem(http.post("/typed", content=b"", headers=headers), 422)


def test_errors_are_problems_and_tell_nothing_of_our_insides(
    http: httpx.Client, bearer: dict[str, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    body = _problem(http.get("/fail/unexpected", headers=bearer["read"]), 500)
    assert "secret inside" not in str(body)
    assert "ZeroDivisionError" not in str(body)
    assert "secret inside" in caplog.text
    assert body["request_id"] in caplog.text

    response = http.get("/fail/ours", headers=bearer["read"])
    body = _problem(response, 422)
    assert body["context"]["feature"] == "x"
    assert body["context"]["value"] is None
    assert "NaN" not in response.text

    response = http.get("/fail/storage", headers=bearer["read"])
    body = _problem(response, 503)
    assert response.headers["retry-after"] == "1"
    assert "s3:" not in response.text
    assert "nothing at s3://bucket" in caplog.text
    assert body["detail"].endswith(f"under request id {body['request_id']}.")


def test_who_was_not_let_in_learns_nothing_of_a_storage_that_fails(
    http: httpx.Client, store: TokenStore, config: Config
) -> None:
    created = store.create("unreadable", Role.READ, timedelta(hours=1))
    root = Path(unquote(urlsplit(config.storage.uri).path))
    (file,) = root.glob(f"**/*{created.record.id}*")
    file.unlink()
    file.symlink_to(file)  # a loop: nothing that can be read
    response = http.get("/read", headers={"Authorization": f"Bearer {created.secret[:-4]}AAAA"})
    _problem(response, 503)
    assert str(root) not in response.text
    assert created.record.id not in response.text
    file.unlink()


def test_an_error_that_ray_brought_is_answered_as_its_cause(ray_cluster: str) -> None:
    import ray

    from deployments.problems import problem

    @ray.remote
    def inner() -> None:
        raise ColumnMissing("no feature 'x'", context={"feature": "x"})

    @ray.remote
    def outer() -> None:
        ray.get(inner.remote())

    for task in (inner, outer):
        with pytest.raises(ComputeError) as caught:
            ray.get(task.remote())
        response = problem(caught.value, "r1")
        assert response.status_code == 422
        assert b'"feature":"x"' in response.body
        assert b"Traceback" not in response.body


def test_a_request_id_is_taken_when_it_is_sane_and_made_otherwise(
    http: httpx.Client, bearer: dict[str, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deployments")
    kept = http.get("/read", headers={**bearer["read"], "X-Request-ID": "trace-1"})
    assert kept.headers["x-request-id"] == "trace-1"
    _wait_for("request_id=trace-1", caplog)
    for bad in ("a b", "x" * 129, "a=1\tstatus=200", "é".encode().decode("latin-1")):
        made = http.get("/read", headers=[*bearer["read"].items(), ("X-Request-ID", bad.encode("latin-1"))])
        assert re.fullmatch(r"[0-9a-f]{32}", made.headers["x-request-id"])
    made = {http.get("/nothing").headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2


def test_the_access_log_names_the_token_and_holds_no_secret(
    http: httpx.Client, bearer: dict[str, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deployments")
    http.get("/read", params={"token": "in-the-query"}, headers=bearer["read"])
    http.get("/forged%0aevent=request%20status=200", headers=bearer["read"])
    _wait_for("status=404", caplog)
    # What other tests asked for may be logged only now.
    logged = [record.getMessage() for record in caplog.records if record.name == "deployments.request_log"]
    lines = [line for line in logged if "path=/read " in line or "path=/forged" in line]
    assert re.search(r"method=GET path=/read status=422 ms=[\d.]+ token=test-read/[0-9a-f]{16} request_id=", lines[0])
    assert "path=/forged%0Aevent%3Drequest%20status%3D200 status=404" in lines[1]
    assert bearer["read"]["Authorization"].removeprefix("Bearer ") not in caplog.text
    assert "in-the-query" not in caplog.text


def test_websockets_are_refused(app: Application, bearer: dict[str, dict[str, str]]) -> None:
    headers = [(b"host", b"localhost"), (b"authorization", bearer["admin"]["Authorization"].encode())]
    sent = call(app, "websocket", path="/read", headers=headers)
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]
