"""Whatever is killed, and however often: each task that was accepted ends once, with one result."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from compute import Config, load_config
from deployments.ingress import ingress_variables
from deployments.tokens import Role, TokenStore
from jobs import train_model
from registry import open_store
from registry.entry import decode_entry
from tests.environment import environment
from tests.solver.conftest import flights

CLUSTER = """
import sys, time, warnings
warnings.simplefilter("ignore")
import ray
from ray import serve
from deployments.solver_app import SolverAppArgs, build
ray.init(address="local", num_cpus=4, namespace="kills", include_dashboard=False, log_to_driver=False)
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
args = SolverAppArgs(config_path=sys.argv[2], replicas=1, cpus=0.1, max_ongoing_requests=64)
serve.run(build(args), name="solver", route_prefix="/solver")
print("up", flush=True)
time.sleep(1e6)
"""
_PATIENCE = 300
VICTIMS = ["replica"] * 3 + ["actor"] * 3 + ["worker"] * 3 + ["head"]


class Cluster:
    """A Ray cluster with the solver on it, in processes of their own, that comes back when its head is killed."""

    def __init__(self, config_path: Path, config: Config) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._path, self._config = config_path, config
        self.start()

    def start(self) -> None:
        # Apart from that of the cluster which the other tests share: no two can have one port.
        self._ingress = tempfile.TemporaryDirectory(prefix="ingress-")
        self._driver = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(self.port), str(self._path)],
            env=environment(self._config) | ingress_variables(Path(self._ingress.name)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._driver.stdout is not None
        assert "up" in self._driver.stdout.readline()

    def processes(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._driver.pid).children(recursive=True)
        return []

    def stop(self) -> None:
        ours = self.processes()
        self._driver.kill()
        for process in ours:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(ours, timeout=20)
        self._driver.wait()
        assert self._driver.stdout is not None
        self._driver.stdout.close()
        self._ingress.cleanup()

    def kill(self, victim: str, chance: random.Random) -> bool:
        """Kill one process of a kind; False when there is none now."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                title = " ".join(process.cmdline())
                kinds = {
                    "replica": "ServeReplica:solver" in title,
                    "actor": "ray::TaskActor" in title,
                    "worker": title.startswith(("ray::IDLE", "ray::execute", "ray::_", "ray::run")),
                    "head": "gcs_server" in title,
                }
                if kinds[victim]:
                    found.append(process)
        if not found:
            return False
        with suppress(psutil.NoSuchProcess):
            chance.choice(found).send_signal(signal.SIGKILL)
        if victim == "head":
            self.stop()
            self.start()
        return True


@pytest.fixture
def cluster(config: Config, tmp_path: Path) -> Iterator[tuple[Cluster, Config, str]]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"storage": {"uri": config.storage.uri, "data_uri": config.storage.data_uri}}))
    config = load_config(path)
    token = TokenStore(open_store(config.storage.uri, config)).create("kills", Role.WRITE, timedelta(hours=3)).secret
    train_model(flights(200), "delay", model_type="linear", name="delays", config=config)
    made = Cluster(path, config)
    yield made, config, token
    made.stop()


def submitted(client: httpx.Client, number: int) -> str:
    """Submit a question until it is accepted; what was cut off is sent again under the same key."""
    row = {"distance": 100 + number, "carrier": "UA", "night": False}
    body = {"query_data": {"type": "prediction", "model": "delays:1", "entities": [row]}}
    while True:
        with suppress(httpx.HTTPError):
            answer = client.post("/solve", json=body, headers={"Idempotency-Key": f"k{number}"})
            if answer.status_code == 202:
                return str(answer.json()["task_id"])
            assert answer.status_code in (404, 408, 429, 500, 502, 503, 504), answer.text
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize(("tasks", "kills"), [(150, 8), (2000, 100)])
def test_killed_at_random_each_accepted_task_ends_once_with_one_result(
    cluster: tuple[Cluster, Config, str], tasks: int, kills: int
) -> None:
    made, config, token = cluster
    chance = random.Random(kills)
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{made.port}/solver", headers={"Authorization": f"Bearer {token}"}, timeout=30
    )
    ids: dict[int, set[str]] = {number: set() for number in range(tasks)}
    failures: list[Exception] = []

    def submit(lane: int) -> None:
        try:
            for number in range(lane, tasks, 4):
                for _ in range(2 if number % 10 == 0 else 1):
                    ids[number].add(submitted(client, number))
        except Exception as error:  # noqa: BLE001  (told below, in the test's own thread)
            failures.append(error)

    lanes = [threading.Thread(target=submit, args=(lane,)) for lane in range(4)]
    for lane in lanes:
        lane.start()
    killed: Counter[str] = Counter()
    while killed.total() < kills:
        # Spread over the tasks: what was killed has come back, and accepts again, before the next is.
        due = time.monotonic() + _PATIENCE
        while sum(map(bool, ids.values())) < killed.total() * tasks // kills:
            assert time.monotonic() < due, f"no task was accepted for {_PATIENCE} s after {killed}"
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 1.0))
        victim = chance.choice(VICTIMS)
        killed[victim] += made.kill(victim, chance)
    for lane in lanes:
        lane.join()
    assert not failures, failures
    assert {len(found) for found in ids.values()} == {1}, "no duplicates by key"
    assert len(set.union(*ids.values())) == tasks

    for number, found in ids.items():
        (task_id,) = found
        status = _ended(client, task_id)
        assert status["state"] == "SUCCEEDED", (killed, status)
        assert status["result"]["predictions"] == pytest.approx([(100 + number) / 100 + 10], abs=1.0)
    store = open_store(config.storage.uri, config)
    ends: Counter[str] = Counter()
    for key in store.list("tasks/log/"):
        sequence = int(key.rpartition("/")[2].removesuffix(".json"))
        for event in decode_entry(store.get(key), sequence, key):
            if event["event"] == "finished":
                ends[event["task_id"]] += 1
    assert set(ends.values()) == {1}
    assert len(ends) == tasks
    client.close()


def _ended(client: httpx.Client, task_id: str) -> dict[str, Any]:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        with suppress(httpx.HTTPError):
            answer = client.get(f"/task/{task_id}", params={"wait": 20})
            if answer.status_code == 200 and answer.json()["state"] not in ("PENDING", "RUNNING"):
                found: dict[str, Any] = answer.json()
                return found
        time.sleep(0.2)
    raise AssertionError(f"the task {task_id} does not end")
