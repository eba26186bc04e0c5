"""Durable tasks on a Ray cluster: the detached actor is killed, and nothing it accepted is lost or answered twice."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute import Config, TaskState
from compute.errors import Conflict, InvalidField, TaskNotFinished, TaskNotFound
from registry import get_task_registry, open_store
from registry.task_actor import get_actor
from registry.task_client import TaskRegistry
from registry.task_record import new_task_id
from tests.environment import environment
from tests.registry.task_entries import ENTRY


@pytest.fixture
def tasks(ray_cluster: str, config: Config) -> Iterator[TaskRegistry]:
    import ray

    yield get_task_registry(ENTRY, config)
    ray.kill(get_actor(config))


def kill(config: Config) -> None:
    """Kill the actor's process, as the kernel does when memory is short."""
    import ray

    pid = ray.get(get_actor(config).__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.02)


def test_a_task_runs_on_the_cluster(tasks: TaskRegistry) -> None:
    record = tasks.submit("t", {"do": "echo", "value": 7}, caller="ann", idempotency_key="k")
    assert tasks.submit("t", {"do": "echo", "value": 7}, caller="ann", idempotency_key="k").task_id == record.task_id
    done = tasks.wait(record.task_id, 60)
    assert done.state is TaskState.SUCCEEDED
    assert tasks.result(done)["echo"] == 7
    with pytest.raises(TaskNotFinished):
        tasks.cancel(record.task_id)
    with pytest.raises(Conflict):
        tasks.submit("t", {"do": "echo", "value": 8}, caller="ann", idempotency_key="k")
    with pytest.raises(TaskNotFound):
        tasks.get(new_task_id())
    with pytest.raises(InvalidField):
        tasks.get("../x")
    found = tasks.find("ann", "k")
    assert found is not None
    assert found.task_id == record.task_id
    assert tasks.find("bob", "k") is None


def test_the_client_travels(tasks: TaskRegistry) -> None:
    import ray

    @ray.remote
    def submit(client: TaskRegistry) -> str:
        return client.submit("t", {"do": "echo"}).task_id

    task_id = ray.get(submit.remote(tasks))
    assert pickle.loads(pickle.dumps(tasks)).wait(task_id, 60).state is TaskState.SUCCEEDED


def test_cancel_stops_the_work_and_frees_the_worker(tasks: TaskRegistry) -> None:
    import ray

    # Replicas of Serve, where earlier tests started it, take fractions of the cluster's CPUs for good.
    free = int(ray.available_resources()["CPU"])
    assert free
    ids = [tasks.submit("t", {"do": "sleep", "seconds": 600}).task_id for _ in range(free)]
    end = time.monotonic() + 60
    while not all(tasks.progress(task_id) for task_id in ids):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert [tasks.cancel(task_id).state for task_id in ids] == [TaskState.CANCELLED] * free
    # Every free CPU of the cluster was taken: this one runs only if they are free again.
    assert tasks.wait(tasks.submit("t", {"do": "echo"}).task_id, 30).state is TaskState.SUCCEEDED


def test_a_task_that_takes_too_long_is_stopped(tasks: TaskRegistry) -> None:
    record = tasks.wait(tasks.submit("t", {"do": "sleep", "seconds": 600}, timeout=1.0).task_id, 60)
    assert record.state is TaskState.TIMED_OUT
    assert tasks.wait(tasks.submit("t", {"do": "echo"}).task_id, 30).state is TaskState.SUCCEEDED


def test_waiting_gives_up_in_time_and_the_task_goes_on(tasks: TaskRegistry) -> None:
    task_id = tasks.submit("t", {"do": "sleep", "seconds": 2.0}).task_id
    assert not tasks.wait(task_id, 0.1).state.finished
    assert tasks.wait(task_id, 60).state is TaskState.SUCCEEDED


@pytest.mark.slow
def test_killed_again_and_again_the_actor_ends_each_task_exactly_once(
    tasks: TaskRegistry, config: Config, tmp_path: Path
) -> None:
    chance = random.Random(7)
    ids: list[str] = []
    kinds: list[str] = []
    for round_ in range(4):
        for number in range(6):
            payload: dict[str, Any] = {"do": "echo", "value": number, "note": str(tmp_path)}
            if number == 5:
                payload = {"do": "sleep", "seconds": 1.0, "note": str(tmp_path)}
            kinds.append(payload["do"])
            # Calls that the kill cuts off are repeated by Ray; the same task must come out of them.
            ids.append(tasks.submit("t", payload, idempotency_key=f"{round_}-{number}").task_id)
        time.sleep(chance.uniform(0.0, 0.5))
        kill(config)
    records = [tasks.wait(task_id, 90) for task_id in ids]
    assert [record.state for record in records] == [TaskState.SUCCEEDED] * 24
    assert len(set(ids)) == 24
    for record, kind in zip(records, kinds, strict=True):
        assert ("slept" if kind == "sleep" else "echo") in tasks.result(record)
        assert record.attempts >= record.runs >= 1
    # Every run that was cut off and ran again left no second committed result.
    assert {record.result["key"] for record in records if record.result} <= set(
        open_store(config.storage.uri, config).list("tasks/results/")
    )
    again = [tasks.submit("t", {"do": "x"}, idempotency_key="new").task_id, tasks.get(ids[0]).task_id]
    assert again[1] == ids[0]


def test_progress_is_seen_from_outside(tasks: TaskRegistry) -> None:
    task_id = tasks.submit("t", {"do": "sleep", "seconds": 2}).task_id
    end = time.monotonic() + 30
    while (report := tasks.progress(task_id)) is None or report["message"] == "begun":
        assert time.monotonic() < end
        time.sleep(0.02)
    assert (report["fraction"], report["message"]) == (0.25, "sleeping")
    tasks.cancel(task_id)


_CLUSTER = """
import sys
import ray
from compute import load_config
from registry import get_task_registry
ray.init(address="local", num_cpus=2, namespace="tests", include_dashboard=False, log_to_driver=False)
tasks = get_task_registry("tests.registry.task_entries:run", load_config())
if sys.argv[1] == "submit":
    for number in range(5):
        print(tasks.submit("t", {"do": "sleep", "seconds": 3.0, "note": sys.argv[2]}).task_id, flush=True)
    sys.stdin.read()
for task_id in sys.argv[2:]:
    record = tasks.wait(task_id, 100)
    print(record.state.value, record.runs, tasks.result(record)["slept"], flush=True)
"""


@pytest.mark.slow
def test_a_lost_cluster_loses_no_task(config: Config, tmp_path: Path) -> None:
    """All of it is killed at once, head included; another one over the same storage goes on."""
    command = [sys.executable, "-c", _CLUSTER]
    first = subprocess.Popen(
        [*command, "submit", str(tmp_path)],
        env=environment(config),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdin is not None
    ids: list[str] = []
    while len(ids) < 5:
        line = first.stdout.readline()
        assert line, "it ended before it had submitted"
        ids += [line.strip()] if line.startswith("task-") else []
    time.sleep(2)  # some of them run now
    first.kill()  # Ray's own processes end with the one that started them
    first.wait()
    first.stdin.close()
    first.stdout.close()
    done = subprocess.run(
        [*command, "wait", *ids], env=environment(config), capture_output=True, text=True, timeout=200, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("SUCCEEDED")]
    assert [line[2] for line in lines] == ["3.0"] * 5
    assert max(int(line[1]) for line in lines) <= 2
