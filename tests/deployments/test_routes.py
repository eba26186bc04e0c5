"""Every route of every application asks for a token and a role: found by asking the applications themselves."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from deployments.access import PUBLIC
from deployments.application import Application
from deployments.tokens import Role

APPLICATIONS = yaml.safe_load((Path(__file__).parents[2] / "serve_config.yaml").read_text())["applications"]
PUBLIC_ROUTES = {
    ("index", "GET", "/"),
    ("inference", "GET", "/health/live"),
    ("inference", "GET", "/health/ready"),
    *((entry["name"], "GET", path) for entry in APPLICATIONS for path in ("/health", "/openapi.json", "/docs")),
}


class Route(NamedTuple):
    application: str
    method: str
    path: str
    needed: str | None


@pytest.fixture
def quiet() -> Iterator[None]:
    """Takes back what a replica does to the log of its process."""
    rooms = [
        logging.getLogger(room) for room in ("compute", "registry", "jobs", "solver", "deployments", "dask_bridge")
    ]
    before = [(room, room.handlers[:], room.level, room.propagate) for room in rooms]
    yield
    for room, handlers, level, propagate in before:
        room.handlers[:], room.propagate = handlers, propagate
        room.setLevel(level)


def _application(entry: dict[str, Any], config_path: Path) -> Application:
    """The application as a replica makes it."""
    module = importlib.import_module(entry["import_path"].partition(":")[0])
    replicas = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and item.__module__ == module.__name__ and hasattr(item, "__serve_build_asgi_app__")
    ]
    replicas = [each for each in replicas if each.__base__ not in replicas]  # not the variants of another
    assert len(replicas) == 1
    args = module.build.__annotations__["args"].model_validate({**entry["args"], "config_path": str(config_path)})
    app: Application = replicas[0](args).__serve_build_asgi_app__()
    return app


def _routes(name: str, app: Application) -> Iterator[Route]:
    for route in app.router.routes:
        path, methods = getattr(route, "path", None), getattr(route, "methods", None)
        assert path is not None, f"{route!r} has no path of its own: teach this test and deployments.access about it"
        assert methods, f"{route!r} has no methods"
        for method in sorted(methods - {"HEAD"}):
            needed = app.rules.get((method, path))
            yield Route(name, method, path, needed)


def test_every_route_refuses_without_a_token_and_with_too_small_a_role(
    quiet: None, serve_url: str, served_config_path: Path, client: Callable[..., httpx.Client]
) -> None:
    routes = [
        (entry["route_prefix"].rstrip("/"), route)
        for entry in APPLICATIONS
        for route in _routes(entry["name"], _application(entry, served_config_path))
    ]
    assert {("models", "POST", "/upload"), ("solver", "POST", "/solve"), ("index", "GET", "/")} <= {
        route[:3] for _, route in routes
    }
    undeclared = [route for _, route in routes if route.needed is None]
    assert not undeclared, "routes without a role in their application's table"
    assert {route[:3] for _, route in routes if route.needed == PUBLIC} == PUBLIC_ROUTES

    nobody, clients = client(serve_url, None), {role: client(serve_url, role) for role in Role}
    forged = {"Authorization": f"Bearer tw_{'0' * 16}_{'A' * 43}"}
    for prefix, route in routes:
        url = prefix + re.sub(r"\{[^}]+\}", "x", route.path)
        methods = ["GET", "HEAD"] if route.method == "GET" else [route.method]
        for method in methods:
            if route.needed == PUBLIC:
                assert nobody.request(method, url).status_code == 200, route
                continue
            assert route.needed is not None
            for headers in ({}, forged):
                refused = nobody.request(method, url, headers=headers, content=b"{}" if method == "POST" else None)
                assert refused.status_code == 401, route
                assert refused.headers["www-authenticate"].startswith("Bearer")
            for role in Role:
                if role.covers(Role(route.needed)):
                    continue
                assert clients[role].request(method, url).status_code == 403, (route, role)


def test_a_token_of_the_role_is_let_in(serve_url: str, client: Callable[..., httpx.Client]) -> None:
    for url, role in (("/models/", "read"), ("/models/search", "read"), ("/models/x", "read"), ("/models/x", "write")):
        assert client(serve_url, role).get(url).status_code in (200, 404)
    assert client(serve_url, "write").patch("/models/x", json={}).status_code == 404
    assert client(serve_url, "admin").delete("/models/x").status_code == 404
    assert client(serve_url, "write").delete("/models/x").status_code == 403
    assert client(serve_url, "read").patch("/models/x", json={}).status_code == 403


def test_what_no_application_has_still_asks_for_a_token(serve_url: str, client: Callable[..., httpx.Client]) -> None:
    for url in ("/nothing", "/models/x/y/z", "/solver/nothing", "/models/docs/x", "/models/health/", "/Models/"):
        for method in ("GET", "POST", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
            status = client(serve_url, None).request(method, url).status_code
            assert status == 401, (method, url, status)
        assert client(serve_url, "read").get(url).status_code == 404


@pytest.mark.parametrize("prefix", ["/", "/models/", "/solver/"])
def test_every_application_checks_host_and_origin_first(
    serve_url: str, client: Callable[..., httpx.Client], prefix: str
) -> None:
    admin = client(serve_url, "admin")
    for path in (prefix, prefix + "health"):
        assert admin.get(path, headers={"Host": "rebound.example"}).status_code == 421
        assert admin.get(path, headers={"Origin": "https://evil.example"}).status_code == 403
    assert admin.get(prefix + "health", headers={"Origin": "https://app.example"}).status_code == 200
