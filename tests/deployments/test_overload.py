"""What happens when there is more to do than there are places and time: refusals at once, and no work for nobody."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pandas as pd
import pytest

from compute import Config
from deployments.ingress import AT_ONCE, CROWDED, FEW, WAITING
from deployments.tokens import Role
from jobs import train_model

ROWS = pd.DataFrame({"x": np.arange(50.0), "z": np.arange(50.0) % 7})
ROW = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP64", "data": [3.0, 4.0]}]}
MANY = {"inputs": [{"name": "input", "shape": [80_000, 2], "datatype": "FP64", "data": [7, 3] * 80_000}]}


@pytest.fixture(scope="module")
def slow(ray_cluster: str, served_config: Config) -> str:
    """A model that takes a second for what `MANY` asks."""
    train_model(
        ROWS.assign(y=ROWS["x"] * 2), "y", model_type="random_forest", name="overload-slow",
        model_params={"n_estimators": 200}, config=served_config, distribute_data=False,
    )  # fmt: skip
    return "overload-slow"


@pytest.fixture(scope="module")
def bearer(tokens: dict[Role, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens[Role.READ]}"}


def test_what_finds_no_place_is_refused_at_once_and_what_has_one_is_answered(
    inference_url: str, small: str, bearer: dict[str, str]
) -> None:
    where = urlsplit(f"{inference_url}/models/{small}/infer")
    body = b'{"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP64", "data": [3.0, 4.0]}]}'
    body += b" " * 300_000  # more than HAProxy's buffer, so that it passes on what has come
    head = (
        f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: {bearer['Authorization']}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )

    async def begin() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(head.encode() + body[:200_000])
        return reader, writer

    async def flood() -> tuple[list[bytes], float]:
        lines, took = await fill(AT_ONCE + WAITING)
        # For a while after that, fewer are let in, and so answered sooner.
        more, _ = await fill(FEW)
        return lines + more, took

    async def fill(places: int) -> tuple[list[bytes], float]:
        slow = [await begin() for _ in range(places)]
        await asyncio.sleep(3)  # until HAProxy has them all, also on a busy machine
        async with httpx.AsyncClient(headers=bearer, timeout=30) as client:
            began = time.perf_counter()
            refused = await client.post(where.geturl(), json=ROW)
            took = time.perf_counter() - began
            if places > AT_ONCE:  # who asks whether the server lives is told, although no place is free
                live = await client.get(f"{inference_url}/health/live", timeout=5)
                assert (live.status_code, live.json()) == (200, {"live": True})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json().keys() == {"error"}
        for _, writer in slow:
            writer.write(body[200_000:])
        lines = [await asyncio.wait_for(reader.readline(), 60) for reader, _ in slow]
        for _, writer in slow:
            writer.close()
        return lines, took

    async def later() -> list[bytes]:
        slow = [await begin() for _ in range(AT_ONCE)]
        for _, writer in slow:
            writer.write(body[200_000:])
        lines = [await asyncio.wait_for(reader.readline(), 60) for reader, _ in slow]
        for _, writer in slow:
            writer.close()
        return lines

    time.sleep(2 * CROWDED)  # after whatever came before
    httpx.post(where.geturl(), json=ROW, headers=bearer, timeout=60).raise_for_status()
    lines, took = asyncio.run(flood())
    assert set(lines) == {b"HTTP/1.1 200 OK\r\n"}
    assert took < 5
    assert httpx.post(where.geturl(), json=ROW, headers=bearer, timeout=60).status_code == 200
    time.sleep(2 * CROWDED)
    assert set(asyncio.run(later())) == {b"HTTP/1.1 200 OK\r\n"}


def test_a_wait_counts_from_the_arrival_at_the_ingress_whatever_the_client_says(
    inference_url: str, models_url: str, small: str, bearer: dict[str, str]
) -> None:
    for url, body in (
        (f"{inference_url}/models/{small}/infer", ROW),
        (f"{models_url}/{small}/predict", {"rows": [{"x": 3.0, "z": 4.0}]}),
    ):
        long_ago = {**bearer, "X-Request-Start": "t=1700000000000"}
        found = httpx.post(url, json=body, headers={**long_ago, "X-Request-Timeout": "30"}, timeout=60)
        assert found.status_code == 200, found.text
        late = httpx.post(url, json=body, headers={**bearer, "X-Request-Timeout": "1e-6"}, timeout=60)
        assert late.status_code == 504, late.text
        assert "X-Request-Timeout" in late.text


def test_what_nobody_waits_for_any_more_is_dropped(inference_url: str, slow: str, bearer: dict[str, str]) -> None:
    where = urlsplit(f"{inference_url}/models/{slow}/infer")
    body = json.dumps(MANY).encode()
    head = (
        f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: {bearer['Authorization']}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )

    def ask(**more: str) -> tuple[int, float]:
        began = time.perf_counter()
        answer = httpx.post(where.geturl(), content=body, headers={**bearer, **more}, timeout=120)
        return answer.status_code, time.perf_counter() - began

    async def ask_and_leave() -> None:
        _, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(head.encode() + body)
        await writer.drain()
        await asyncio.sleep(0.3)
        writer.close()

    async def crowd() -> None:
        await asyncio.gather(*(ask_and_leave() for _ in range(40)))

    ask()  # loads it
    status, alone = ask()
    assert status == 200
    status, took = ask(**{"X-Request-Timeout": str(alone / 4)})
    assert status == 504
    assert took < alone
    asyncio.run(crowd())
    status, took = ask()
    assert status == 200
    assert took < 12 * alone, f"{took:.1f} s after a crowd that left, {alone:.1f} s alone"  # two at once: 20 and more


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_who_stalls_in_the_middle_of_a_long_body_is_cut_off(
    inference_url: str, small: str, bearer: dict[str, str]
) -> None:
    where = urlsplit(f"{inference_url}/models/{small}/infer")
    head = f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 160000\r\n\r\n"
    # One more than there are places: what comes after them waits until these are given up.
    stalled = [socket.create_connection((where.hostname, where.port)) for _ in range(AT_ONCE + 1)]
    for each in stalled:
        each.sendall(head.encode() + b" " * 80_000)
    time.sleep(1)
    began = time.monotonic()
    assert httpx.post(where.geturl(), json=ROW, headers=bearer, timeout=60).status_code == 200
    assert time.monotonic() - began < 45
    for each in stalled:
        each.close()


def test_a_port_that_is_taken_is_named(served_config_path: Path) -> None:
    from compute.errors import ResourcesUnavailable
    from deployments.data_port import DataPort

    async def nothing(*_: Any) -> None:
        """No application."""

    async def listen() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(ResourcesUnavailable, match=str(port)):
                DataPort(nothing, "/v2", "127.0.0.1", port, 4)

    asyncio.run(listen())
