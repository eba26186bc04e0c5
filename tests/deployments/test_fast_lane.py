"""Predictions by the lane through the door are those of the ordinary way, and it lets nobody in whom that refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from compute import Config, load_config
from deployments.application import Application
from deployments.models_api import models_api
from deployments.scoring import Scorer
from deployments.tokens import Role, TokenStore
from deployments.v2_api import v2_api
from deployments.v2_service import V2Service
from jobs import train_model
from registry import ModelRegistry, get_model_registry, open_store

ROWS = pd.DataFrame({"x": np.arange(50.0), "z": np.arange(50.0) % 7})
TENSOR = {"name": "input", "shape": [2, 2], "datatype": "FP64", "data": [3.0, 4.0, None, 1.0]}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "predict": ("/small/predict", {"rows": [{"x": 3.0, "z": 4.0}, {"x": None, "z": 1.0}]}),
    "infer": ("/models/small/infer", {"inputs": [TENSOR]}),
    "version": ("/models/small/versions/1/infer", {"inputs": [TENSOR]}),
}
Use = Callable[[httpx.AsyncClient, str, Any], Awaitable[None]]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration without a cluster, and a model."""
    config, place = load_config(), tmp_path_factory.mktemp("lane")
    config = config.model_copy(
        update={
            "storage": config.storage.model_copy(update={"uri": str(place / "state")}),
            "compute": config.compute.model_copy(update={"backend": "local"}),
            "security": config.security.model_copy(
                update={"max_body": 100_000, "allowed_origins": ("https://app.example",)}
            ),
        }
    )
    train_model(
        ROWS.assign(y=ROWS["x"] * 2), "y", model_type="xgboost", name="small", model_params={"n_estimators": 5},
        config=config, distribute_data=False,
    )  # fmt: skip
    return config


@pytest.fixture(scope="module")
def tokens_here(here: Config) -> TokenStore:
    return TokenStore(open_store(here.storage.uri, here))


@pytest.fixture(scope="module")
def ask(here: Config, tokens_here: TokenStore) -> Callable[[str, Use], None]:
    """Runs what a client does with one of the requests, on the application that has its route."""
    registry: ModelRegistry = get_model_registry(here)
    secret = tokens_here.create("lane", Role.READ, timedelta(hours=1)).secret

    def run(name: str, use: Use) -> None:
        async def session() -> None:
            scorer = Scorer(registry)
            app: Application = models_api(registry, scorer, here, 1) if name == "predict" else v2_api(
                V2Service(registry, scorer), here
            )  # fmt: skip
            headers = {"Authorization": f"Bearer {secret}"}
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers=headers
            ) as client:
                await use(client, *ASKED[name])

        asyncio.run(session())

    return run


@pytest.mark.parametrize("name", ASKED)
def test_plain_requests_and_others_are_answered_alike(ask: Callable[[str, Use], None], name: str) -> None:
    async def use(client: httpx.AsyncClient, path: str, body: Any) -> None:
        plain = await client.post(path, json=body)
        # The first is a page's; the next has a header twice; the last says nothing of its length.
        others = [
            await client.post(path, json=body, headers={"Origin": "https://app.example"}),
            await client.post(path, json=body, headers=[("x-more", "1"), ("x-more", "2")]),
            await client.post(path, content=_chunks(plain.request.content)),
        ]
        assert plain.status_code == 200, plain.text
        assert plain.headers["cache-control"] == "no-store"
        for other in others:
            assert other.status_code == 200, other.text
            assert other.content == plain.content
            for header in ("content-type", "cache-control", "x-content-type-options"):
                assert other.headers[header] == plain.headers[header]

    ask(name, use)


@pytest.mark.parametrize("name", ASKED)
def test_the_lane_lets_nobody_in_whom_the_door_refuses(
    ask: Callable[[str, Use], None], tokens_here: TokenStore, name: str
) -> None:
    async def use(client: httpx.AsyncClient, path: str, body: Any) -> None:
        for _ in range(2):  # the second time, with all that the lane has seen
            assert (await client.post(path, json=body)).status_code == 200
            for headers, status in [
                ({"Authorization": ""}, 401),
                ({"Authorization": "Bearer tw_" + "0" * 16 + "_" + "A" * 43}, 401),
                ({"Authorization": "Basic x"}, 401),
                ({"Host": "rebound.example"}, 421),
                ({"Origin": "https://evil.example"}, 403),
                ({"X-Request-Timeout": "soon"}, 400),
            ]:
                refused = await client.post(path, json=body, headers=headers)
                assert refused.status_code == status, (headers, refused.text)
            assert (await client.post(path, content=b" " * 100_001)).status_code == 413
        short = tokens_here.create("short", Role.READ, timedelta(hours=1))
        bearer = {"Authorization": f"Bearer {short.secret}"}
        assert (await client.post(path, json=body, headers=bearer)).status_code == 200
        tokens_here.revoke(short.record.id)
        await asyncio.sleep(1.1)
        assert (await client.post(path, json=body, headers=bearer)).status_code == 401

    ask(name, use)


def test_the_lane_takes_no_path_that_belongs_to_another_route(ask: Callable[[str, Use], None]) -> None:
    async def use(client: httpx.AsyncClient, path: str, body: Any) -> None:
        for _ in range(2):
            assert (await client.post(path, json=body)).status_code == 200
            other = await client.post("/uploads/predict", json=body)  # the end of an upload of that id
            assert other.status_code == 403, other.text
            assert (await client.post(f"/{'long' * 100}/predict", json=body)).status_code == 422

    ask("predict", use)


@pytest.mark.parametrize("name", ASKED)
def test_what_is_waited_for_no_longer_is_not_begun(ask: Callable[[str, Use], None], name: str) -> None:
    async def use(client: httpx.AsyncClient, path: str, body: Any) -> None:
        assert (await client.post(path, json=body, headers={"X-Request-Timeout": "30"})).status_code == 200
        long_ago = {"X-Request-Timeout": "2", "X-Request-Start": "t=1700000000000"}
        for headers in ({}, {"Origin": "https://app.example"}):
            late = await client.post(path, json=body, headers={**long_ago, **headers})
            assert late.status_code == 504, late.text
            assert "X-Request-Timeout" in late.text

    ask(name, use)


@pytest.mark.parametrize("name", ["predict", "infer"])
def test_both_ways_follow_the_traffic_of_a_name(here: Config, ask: Callable[[str, Use], None], name: str) -> None:
    registry = get_model_registry(here)
    shared = f"shared-{name}"
    for offset in (0, 100):
        registry.register_model(LinearRegression().fit(ROWS, ROWS["x"] + offset), "linear", name=shared, example=ROWS)
    registry.set_traffic(shared, {1: 50, 2: 50}, shadow=1, sticky="X-User-Id")

    async def use(client: httpx.AsyncClient, path: str, body: Any) -> None:
        path, found = path.replace("small", shared), []
        body = {"rows": [{"x": 3.0, "z": 4.0}]} if name == "predict" else {"inputs": [{**TENSOR, "data": [1, 2, 3, 4]}]}
        for user in map(str, range(20)):
            key = {"X-User-Id": user}
            plain = await client.post(path, json=body, headers=key)
            page = await client.post(path, json=body, headers={**key, "Origin": "https://app.example"})
            assert plain.status_code == 200, plain.text
            assert page.content == plain.content
            found.append(plain.json()["version" if name == "predict" else "model_version"])
        assert len(set(found)) == 2
        await asyncio.sleep(1.2)  # until the counts are told
        results = registry.traffic_results(shared)["results"]
        assert {arm: each["requests"] for arm, each in results["arms"].items()} == {
            str(version): 2 * sum(str(one) == str(version) for one in found) for version in (1, 2)
        }
        assert results["shadow"]["requests"] + results["shadow"].get("skipped", 0) == 40

    ask(name, use)


def test_each_request_is_a_line_in_the_log_and_none_can_be_forged(
    ask: Callable[[str, Use], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def use(client: httpx.AsyncClient, path: str, body: Any) -> None:
        for _ in range(3):
            await client.post(path, json=body)
        await client.post("/models/small%0aevent=request%20status=200/infer", json=body)
        await asyncio.sleep(0.3)

    with caplog.at_level("INFO", "deployments.request_log"):
        ask("infer", use)
    lines = "\n".join(record.getMessage() for record in caplog.records).splitlines()
    found = [line for line in lines if "event=request" in line]
    assert len(found) == 4
    assert sum("path=/models/small/infer status=200" in line and "token=lane/" in line for line in found) == 3
    assert sum("status=404" in line for line in found) == 1


async def _chunks(content: bytes) -> Any:
    yield content
