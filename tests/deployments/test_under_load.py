"""What changes while requests come: replicas, versions of the application, aliases; no request is lost."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pandas as pd
import pytest

from compute import Config
from deployments.inference_app import Inference, InferenceAppArgs, build
from deployments.port_requests import ONGOING, all_requests
from deployments.replicas import deployment_options
from deployments.tokens import Role
from jobs import train_model
from registry import get_model_registry

ROWS = pd.DataFrame({"x": np.arange(50.0), "z": np.arange(50.0) % 7})


class Asked(NamedTuple):
    """One request: when it was sent, and what came."""

    at: float
    status: int
    version: str


@pytest.fixture(scope="module")
def two_versions(ray_cluster: str, served_config: Config) -> str:
    """A name with two versions, the first of which is the champion."""
    name = "under-load"
    for factor in (1, 2):
        train_model(
            ROWS.assign(y=ROWS["x"] * factor), "y", model_type="xgboost", name=name, model_params={"n_estimators": 5},
            config=served_config, distribute_data=False,
        )  # fmt: skip
    get_model_registry(served_config).set_alias(name, "champion", 1)
    return name


@pytest.fixture(scope="module")
def load(two_versions: str, tokens: dict[Role, str]) -> Callable[..., Any]:
    """Asks an application all the time, with so many clients that wait for each answer; gives what came."""

    @contextlib.contextmanager
    def run(url: str, clients: int, rows: int = 1) -> Iterator[list[Asked]]:
        stop, asked, wrong = threading.Event(), [], []
        tensor = {"name": "input", "shape": [rows, 2], "datatype": "FP64", "data": [3.0, 4.0] * rows}
        body = json.dumps({"inputs": [tensor]})

        def ask() -> None:
            try:
                with httpx.Client(headers={"Authorization": f"Bearer {tokens[Role.READ]}"}, timeout=120) as client:
                    while not stop.is_set():
                        at = time.monotonic()
                        answer = client.post(f"{url}/models/{two_versions}/infer", content=body)
                        version = answer.json()["model_version"] if answer.status_code == 200 else answer.text
                        asked.append(Asked(at, answer.status_code, version))
            except httpx.TransportError as error:
                wrong.append(error)

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield asked
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not wrong
        assert {one.status for one in asked} == {200}, next(
            (one for one in asked if one.status != 200), "nothing asked"
        )

    return run


@pytest.fixture
def elastic(served_config_path: Path, tmp_path: Path) -> Path:
    """The configuration of an application that has up to two replicas, and none when it is idle."""
    scaling = {
        "min_workers": 0, "max_workers": 2, "scale_up_delay": 1, "scale_down_delay": 5, "target_utilization": 0.5,
    }  # fmt: skip
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(served_config_path.read_text()), "scaling": scaling}))
    return file


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_moved_alias_counts_within_a_second_and_no_request_fails(
    inference_url: str, two_versions: str, load: Callable[..., Any], served_config: Config
) -> None:
    registry = get_model_registry(served_config)
    with load(inference_url, 4) as asked:
        deadline = time.monotonic() + 60
        while len(asked) < 50:  # the first waits for the libraries of the model
            assert time.monotonic() < deadline, f"{len(asked)} answers in a minute"
            time.sleep(0.1)
        for turn in range(6):
            version, before = str(2 - turn % 2), len(asked)
            registry.set_alias(two_versions, "champion", int(version))
            moved = time.monotonic()
            time.sleep(3)
            late = [one for one in asked[before:] if one.at > moved + 1]
            assert len(late) > 20
            assert {one.version for one in late} == {version}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rolling_redeploy_loses_no_request(
    serve: Any, deploy: Callable[[str], str], load: Callable[..., Any], served_config_path: Path
) -> None:
    base = deploy("index")
    args = InferenceAppArgs(config_path=str(served_config_path), cpus=0.02, replicas=2)
    # For the other tests, replicas end sooner than HAProxy need have heard of it; by default they listen for 30 s more.
    listening = {"env_vars": {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10"}}

    def run(models: int) -> None:
        options = deployment_options(args, None)
        options["ray_actor_options"] = {**options["ray_actor_options"], "runtime_env": listening}
        replica = serve.deployment(name="Inference", **options)(serve.ingress()(Inference))
        bound = replica.bind(args.model_copy(update={"cache_models": models}))
        serve.run(bound, name="rolling", route_prefix="/rolling")

    run(6)
    with load(f"{base.rstrip('/')}/rolling", 8) as asked:
        run(7)
        run(8)
        time.sleep(15)  # until the last of the old ones have gone
    assert len(asked) > 50
    serve.delete("rolling")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_idle_application_goes_to_zero_and_comes_back_and_a_busy_one_grows(
    serve: Any, deploy: Callable[[str], str], load: Callable[..., Any], elastic: Path
) -> None:
    base = deploy("index")
    args = InferenceAppArgs(config_path=str(elastic), cpus=0.02, max_ongoing_requests=4)
    serve.run(build(args), name="elastic", route_prefix="/elastic", blocking=False)
    _until(serve, "elastic", 0)
    deadline = time.monotonic() + 60
    while httpx.get(f"{base.rstrip('/')}/elastic/health/live", timeout=60).status_code != 200:
        assert time.monotonic() < deadline, "Serve's own proxy, which wakes it, does not hear of it"
        time.sleep(1)
    _until(serve, "elastic", 0)
    for _ in range(2):  # gone, and back
        with load(f"{base.rstrip('/')}/elastic", 1):
            _until(serve, "elastic", 1)
        _until(serve, "elastic", 0)
    with load(f"{base.rstrip('/')}/elastic", 16):
        _until(serve, "elastic", 2)
    _until(serve, "elastic", 0)
    serve.delete("elastic")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_application_grows_with_the_requests_at_its_data_port(
    serve: Any, deploy: Callable[[str], str], load: Callable[..., Any], elastic: Path
) -> None:
    deploy("index")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    args = InferenceAppArgs(config_path=str(elastic), cpus=0.02, max_ongoing_requests=4, data_port=port)
    serve.run(build(args), name="ported", route_prefix="/ported")
    _until(serve, "ported", 1)
    with load(f"http://127.0.0.1:{port}/v2", 16, rows=10_000):
        _until(serve, "ported", 2)
    _until(serve, "ported", 1)  # and never less: who else would listen?
    serve.delete("ported")


def _until(serve: Any, application: str, replicas: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        (deployment,) = serve.status().applications[application].deployments.values()
        found = deployment.replica_states
        if found.get("RUNNING", 0) == sum(found.values()) == replicas:
            return
        assert time.monotonic() < deadline, f"{found}, not {replicas}"
        time.sleep(0.5)


def test_requests_at_ports_of_the_replicas_count_too(serve: Any) -> None:
    from ray.serve.config import AutoscalingConfig, AutoscalingContext

    known: dict[str, Any] = dict.fromkeys(AutoscalingContext.__init__.__annotations__)
    known.pop("return", None)
    known |= {
        "current_num_replicas": 2,
        "total_num_requests": 8.0,
        "aggregated_metrics": {ONGOING: {"one": 30.0, "other": 42.0}},
        "config": AutoscalingConfig(target_ongoing_requests=20),
    }
    assert all_requests(AutoscalingContext(**known)) == (4.0, {})
