"""Requests that HAProxy hands to a replica past Serve: the same answers below any path, and replicas come and go."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deployments.inference_app import InferenceAppArgs, build
from deployments.ingress import SHORT_PATH
from deployments.tokens import Role

ROW = {"inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP64", "data": [3.0, 4.0]}]}


def servers(application: str) -> dict[str, str]:
    """How HAProxy reaches each replica of an application."""
    (file,) = Path(os.environ["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent.glob("*/haproxy.cfg")
    lines = file.read_text().splitlines()
    words = [line.split() for line in lines]
    return {each[1]: each[2] for each in words if each[:1] == ["server"] and f"REPLICA_{application}-" in each[1]}


def until(done: Callable[[], bool], patience: float = 60) -> None:
    deadline = time.monotonic() + patience
    while not done():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def test_both_ways_answer_the_same_below_any_path(
    serve: Any, deploy: Callable[[str], str], small: str, tokens: dict[Role, str], served_config_path: Path
) -> None:
    base = deploy("index").rstrip("/")
    args = InferenceAppArgs(config_path=str(served_config_path), cpus=0.02)
    serve.run(build(args), name="shortcut", route_prefix="/here/and/there")
    serve.run(build(args.model_copy(update={"short_path": False})), name="longcut", route_prefix="/long")
    until(lambda: len(servers("longcut")) == 1)
    # Serve writes the configuration, and what it starts as HAProxy changes it.
    until(lambda: [way[:6] for way in servers("shortcut").values()] == ["unix@/"])
    assert not next(iter(servers("longcut").values())).startswith("unix@")

    # Whoever says that the application lies elsewhere is not believed.
    headers = {"Authorization": f"Bearer {tokens[Role.READ]}", "X-Route-Prefix": "/here", "X-Request-ID": "mine-1"}
    answers: list[Any] = []
    with httpx.Client(timeout=60) as client:
        for path in ("/here/and/there", "/long"):
            infer = client.post(f"{base}{path}/models/{small}/infer", json=ROW, headers=headers)
            assert infer.status_code == 200, infer.text
            answers.append(infer.json())
            assert infer.headers.get_list("x-request-id") == ["mine-1"]
            assert client.get(f"{base}{path}/models/{small}", headers=headers).json()["name"] == small
            assert client.get(f"{base}{path}/health/live").json() == {"live": True}
            assert client.get(f"{base}{path}/models/{small}").status_code == 401
            assert client.post(f"{base}{path}/models/{small}/infer", json=ROW).status_code == 401
            assert client.get(f"{base}{path}/nowhere", headers=headers).status_code == 404
    assert answers[0] == answers[1]
    (way,) = servers("shortcut").values()
    listening = Path(way.removeprefix("unix@"))
    assert listening.is_socket()
    assert listening.parent == Path(os.environ[SHORT_PATH])
    for name in ("shortcut", "longcut"):
        serve.delete(name)
    assert not listening.exists()


@pytest.mark.slow
def test_the_other_replica_answers_when_one_is_killed_and_a_new_one_takes_its_place(
    serve: Any, deploy: Callable[[str], str], small: str, tokens: dict[Role, str], served_config_path: Path
) -> None:
    base = deploy("index").rstrip("/")
    args = InferenceAppArgs(config_path=str(served_config_path), cpus=0.02, replicas=2)
    serve.run(build(args), name="killed", route_prefix="/killed")
    until(lambda: len(servers("killed")) == 2)
    before = servers("killed").keys()
    url, headers = f"{base}/killed/models/{small}/infer", {"Authorization": f"Bearer {tokens[Role.READ]}"}
    with httpx.Client(timeout=60, headers=headers) as client:
        assert {client.post(url, json=ROW).status_code for _ in range(20)} == {200}
        one = next(each for each in psutil.process_iter(["cmdline"]) if _is_replica(each, "killed"))
        one.send_signal(signal.SIGKILL)
        one.wait(10)
        statuses = []
        while not _replaced(before):
            statuses.append(client.post(url, json=ROW).status_code)
        # HAProxy asks another replica when one refuses the connection; no client hears of it.
        assert set(statuses) == {200}
        assert {client.post(url, json=ROW).status_code for _ in range(20)} == {200}
    serve.delete("killed")


def _is_replica(process: psutil.Process, application: str) -> bool:
    return f"ServeReplica:{application}:" in " ".join(process.info["cmdline"] or ())


def _replaced(before: Set[str]) -> bool:
    now = servers("killed").keys()
    return len(now) == 2 and now != before
