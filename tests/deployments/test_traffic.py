"""Traffic of a name as clients see it: canaries, sticky experiments, a shadow, and a rollback by itself."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from compute import Config
from registry import ModelRegistry, get_model_registry

FRAME = pd.DataFrame({"x": np.arange(20.0)})
BODY = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [3.0]}]}


@pytest.fixture(scope="module")
def registry(ray_cluster: str, served_config: Config) -> ModelRegistry:
    return get_model_registry(served_config)


@pytest.fixture
def name(registry: ModelRegistry) -> str:
    """A name with the versions 1, which is champion and gives x, and 2, which gives x + 100."""
    name = f"traffic-{uuid.uuid4().hex[:8]}"
    for offset in (0, 100):
        model = LinearRegression().fit(FRAME, FRAME["x"] + offset)
        registry.register_model(model, "linear", name=name, example=FRAME)
    registry.set_alias(name, "champion", 1)
    return name


@pytest.fixture
def infer(inference_url: str, client: Callable[..., httpx.Client]) -> Callable[..., str]:
    """Asks a name over V2 and gives the version that answered."""
    http = client(inference_url)

    def ask(name: str, body: Any = BODY, **headers: str) -> str:
        answer = http.post(f"/models/{name}/infer", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        version: str = answer.json()["model_version"]
        return version

    return ask


@pytest.fixture
def models(models_url: str, client: Callable[..., httpx.Client]) -> httpx.Client:
    return client(models_url)


def _soon(check: Callable[[], Any], within: float = 20.0) -> Any:
    deadline = time.monotonic() + within
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found


def test_a_change_counts_within_a_second_and_no_request_fails(
    name: str, infer: Callable[..., str], models: httpx.Client
) -> None:
    assert infer(name) == "1"
    answer = models.put(f"/traffic/{name}", json={"arms": {"2": 1}, "reason": "a try"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["revision"] == 1
    time.sleep(1.0)
    assert {infer(name) for _ in range(5)} == {"2"}
    row = {"rows": [{"x": 3.0}]}
    assert models.post(f"/{name}/predict", json=row).json()["predictions"] == [pytest.approx(103)]
    # Who says which version gets that one.
    assert infer(f"{name}@champion") == infer(f"{name}/versions/1") == "1"
    assert models.delete(f"/traffic/{name}").status_code == 204
    time.sleep(1.0)
    assert {infer(name) for _ in range(5)} == {"1"}
    assert models.get(f"/traffic/{name}").json()["plan"] is None


def test_a_canary_gets_its_share_and_a_key_sticks_to_its_arm(
    name: str, infer: Callable[..., str], models: httpx.Client
) -> None:
    plan = {"arms": {"champion": 70, "2": 30}, "sticky": "X-User-Id"}
    assert models.put(f"/traffic/{name}", json=plan).status_code == 200
    time.sleep(1.0)
    found = Counter(infer(name) for _ in range(200))
    assert 30 <= found["2"] <= 95
    users = {user: infer(name, **{"X-User-Id": user}) for user in map(str, range(40))}
    assert set(users.values()) == {"1", "2"}
    for user, version in users.items():
        assert infer(name, **{"x-user-id": user}) == version
        assert infer(name, {**BODY, "parameters": {"X-User-Id": user}}) == version
        row = {"rows": [{"x": 0.0}]}
        answer = models.post(f"/{name}/predict", json=row, headers={"X-User-Id": user}).json()
        assert str(answer["version"]) == version

    def counted() -> Any:
        arms = models.get(f"/traffic/{name}").json()["results"]["arms"]
        done = {arm: each["requests"] for arm, each in arms.items()}
        return arms if sum(done.values()) == 200 + 4 * 40 else None

    arms = _soon(counted)
    assert set(arms) == {"champion", "2"}
    assert all(each["errors"] == 0 and 0 < each["latency"]["p50"] < 10 for each in arms.values())


def test_a_shadow_is_compared_and_never_seen(name: str, infer: Callable[..., str], models: httpx.Client) -> None:
    assert models.put(f"/traffic/{name}", json={"arms": {"1": 1}, "shadow": "2"}).status_code == 200
    time.sleep(1.0)
    assert {infer(name) for _ in range(10)} == {"1"}
    shadow = _soon(
        lambda: (
            (found := models.get(f"/traffic/{name}").json()["results"]["shadow"])
            and found["requests"] + found.get("skipped", 0) >= 10
            and found
        )
    )
    assert shadow["disagreement"] == 1.0
    assert shadow["mean_difference"] == pytest.approx(100)


def test_an_arm_that_fails_is_rolled_back_by_itself(
    name: str, infer: Callable[..., str], models: httpx.Client, registry: ModelRegistry
) -> None:
    wide = FRAME.assign(other=1.0)
    model = LinearRegression().fit(wide, wide["x"])
    registry.register_model(model, "linear", name=name, example=wide)  # asks for a feature that nobody sends
    rule = {"to": "1", "error_rate": 0.2, "min_requests": 5}
    plan = {"arms": {"1": 50, "3": 50}, "rollback": rule}
    assert models.put(f"/traffic/{name}", json=plan).status_code == 200
    time.sleep(1.0)
    row, statuses = {"rows": [{"x": 3.0}]}, Counter[int]()

    def given_up() -> Any:
        statuses.update([models.post(f"/{name}/predict", json=row).status_code for _ in range(5)])
        told = models.get(f"/traffic/{name}").json()
        return told if told["revision"] == 2 else None

    told = _soon(given_up)
    assert set(statuses) == {200, 422}
    assert told["plan"]["arms"] == {"1": 100.0}
    assert "to 3 failed" in told["reason"]
    time.sleep(1.0)
    assert {infer(name) for _ in range(10)} == {"1"}
    changes = models.get("/traffic/" + name).json()
    assert changes["results"]["arms"].keys() <= {"1"}


def test_a_plan_over_http_says_what_is_wrong(name: str, models: httpx.Client) -> None:
    for body, status, said in (
        ({}, 422, "arms is not an object"),
        ({"arms": {"1": 1}, "shaddow": "2"}, 422, "there is no field 'shaddow'"),
        ({"arms": {"1": -1}}, 422, "traffic.arms.1"),
        ({"arms": {"9": 1}}, 404, "9"),
        ({"arms": {"1": 1}, "revision": 3}, 412, "revision 0"),
    ):
        answer = models.put(f"/traffic/{name}", json=body)
        assert answer.status_code == status, answer.text
        assert said in answer.json()["detail"]
    assert models.get("/traffic/never-made").status_code == 404
    assert models.put("/traffic/never-made", json={"arms": {"1": 1}}).status_code == 404
