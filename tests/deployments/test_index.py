"""The page at `/`, and Serve as the tests start it."""

from __future__ import annotations

from collections.abc import Callable

import httpx


def test_the_page_links_to_what_is_served_and_needs_no_token(
    deploy: Callable[[str], str], client: Callable[..., httpx.Client]
) -> None:
    nobody = client(deploy("index"), None)
    page = nobody.get("/")
    assert page.status_code == 200
    for link in ("/models/docs", "/solver/docs", "/models/health"):
        assert f'href="{link}"' in page.text
    assert nobody.get("/health").json() == {"status": "ok"}
    assert nobody.get("/anything-else").status_code == 401
    assert client(deploy("index"), "read").get("/anything-else").status_code == 404
    assert nobody.get("/", headers={"Host": "evil.example"}).status_code == 421


def test_the_request_id_comes_back_once(deploy: Callable[[str], str], client: Callable[..., httpx.Client]) -> None:
    response = client(deploy("index"), None).get("/", headers={"X-Request-ID": "trace-7"})
    assert response.headers.get_list("x-request-id") == ["trace-7"]
    refused = client(deploy("index"), None).get("/nothing", headers={"X-Request-ID": "trace-8"})
    assert refused.json()["request_id"] == "trace-8"
