"""Durable tasks without Ray: run through the local backend, by this process, and by the next one when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from compute import Config, TaskState, get_compute_manager
from compute.errors import InvalidField, Overloaded, TaskExpired, TaskNotFinished
from registry import TaskRecord, get_task_registry, open_store
from registry.task_client import TaskRegistry
from registry.task_record import new_task_id
from registry.task_service import TaskService
from registry.tasks import TaskTable
from tests.environment import environment
from tests.registry.task_entries import ENTRY


@pytest.fixture
def local(config: Config) -> Config:
    """A configuration that asks for the local backend, whether or not the session has a cluster."""
    compute = config.compute.model_copy(update={"backend": "local", "local_workers": 2})
    return config.model_copy(update={"compute": compute})


@pytest.fixture
def tasks(local: Config) -> Iterator[TaskRegistry]:
    registry = get_task_registry(ENTRY, local)
    yield registry
    registry.close()


def runs(directory: Path, task_id: str) -> int:
    file = directory / task_id
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def test_a_task_runs_and_its_result_is_kept(tasks: TaskRegistry) -> None:
    submitted = tasks.submit("echo", {"do": "echo", "value": [1, None, "ü"]}, caller="ann")
    assert submitted.state is TaskState.PENDING
    record = tasks.wait(submitted.task_id, 30)
    assert (record.state, record.kind, record.caller, record.attempts) == (TaskState.SUCCEEDED, "echo", "ann", 1)
    assert record.submitted_at <= (record.started_at or 0) <= (record.finished_at or 0)
    assert tasks.result(record) == {"echo": [1, None, "ü"], "task_id": submitted.task_id}
    assert tasks.get(submitted.task_id) == record


def test_a_large_question_lies_beside_the_journal_and_goes_with_its_task(tasks: TaskRegistry, local: Config) -> None:
    store = open_store(local.storage.uri, local)
    record = tasks.submit("echo", {"do": "echo", "value": "x" * 100_000})
    assert "json" not in record.payload
    assert list(store.list("tasks/payloads/")) == [record.payload["key"]]
    done = tasks.wait(record.task_id, 30)
    assert len(tasks.result(done)["echo"]) == 100_000
    assert sum(store.size(key) for key in store.list("tasks/log/")) < 10_000


@pytest.mark.parametrize(
    ("payload", "code", "text"),
    [
        ({"do": "refuse"}, "column-missing", "row 3 has no feature 'x'"),
        ({"do": "break"}, "task-failed", "a bug"),
        ({"do": "unserialisable"}, "invalid-field", "JSON"),
    ],
)
def test_a_failure_is_told(tasks: TaskRegistry, payload: dict[str, Any], code: str, text: str) -> None:
    record = tasks.wait(tasks.submit("t", payload).task_id, 30)
    assert record.state is TaskState.FAILED
    assert record.error is not None
    assert (record.error["code"], text in record.error["detail"]) == (code, True)
    assert record.result is None


def test_a_task_that_takes_too_long_is_stopped(tasks: TaskRegistry) -> None:
    started = time.monotonic()
    record = tasks.wait(tasks.submit("t", {"do": "sleep", "seconds": 60}, timeout=1.0).task_id, 30)
    assert record.state is TaskState.TIMED_OUT
    assert record.error is not None
    assert record.error["code"] == "task-timed-out"
    assert time.monotonic() - started < 20


def test_a_task_whose_worker_dies_is_tried_again_and_then_failed(local: Config, tmp_path: Path) -> None:
    defaults = local.task_defaults.model_copy(update={"retries": 1, "backoff_factor": 1.0})
    tasks = get_task_registry(ENTRY, local.model_copy(update={"task_defaults": defaults}))
    try:
        record = tasks.wait(tasks.submit("t", {"do": "die", "note": str(tmp_path)}).task_id, 60)
        assert record.state is TaskState.FAILED
        assert record.error is not None
        assert record.error["code"] == "worker-lost"
        assert runs(tmp_path, record.task_id) == record.attempts == 2
    finally:
        tasks.close()


def test_a_running_task_is_cancelled_and_its_worker_free_again(tasks: TaskRegistry) -> None:
    task_id = tasks.submit("t", {"do": "sleep", "seconds": 600}).task_id
    wait_until(lambda: (tasks.progress(task_id) or {}).get("message") == "sleeping")
    assert tasks.get(task_id).state is TaskState.RUNNING
    assert tasks.cancel(task_id).state is TaskState.CANCELLED
    assert tasks.cancel(task_id).state is TaskState.CANCELLED  # again says the same
    after = [tasks.submit("t", {"do": "echo"}).task_id for _ in range(4)]
    assert [tasks.wait(each, 30).state for each in after] == [TaskState.SUCCEEDED] * 4
    assert tasks.get(task_id).state is TaskState.CANCELLED


def test_a_task_that_has_ended_cannot_be_cancelled(tasks: TaskRegistry) -> None:
    task_id = tasks.wait(tasks.submit("t", {"do": "echo"}).task_id, 30).task_id
    with pytest.raises(TaskNotFinished, match="SUCCEEDED"):
        tasks.cancel(task_id)


def test_a_repetition_is_the_same_task_and_leaves_nothing_behind(tasks: TaskRegistry, local: Config) -> None:
    big = {"do": "echo", "value": "x" * 10_000}
    ids = {tasks.submit("t", big, idempotency_key="k").task_id for _ in range(3)}
    assert len(ids) == 1
    assert len(list(open_store(local.storage.uri, local).list("tasks/payloads/"))) == 1


def test_too_many_open_tasks_are_refused_and_those_accepted_run(local: Config) -> None:
    service = TaskService(local, name="r", manager=lambda: get_compute_manager(config=local), slots=1, max_open=3)
    fields = {"kind": "t", "entry": ENTRY, "fingerprint": "f", "payload": {"json": {"do": "sleep", "seconds": 0.5}}}
    try:
        accepted = [service.accept(new_task_id(), **fields) for _ in range(3)]
        with pytest.raises(Overloaded, match="3 tasks are open"):
            service.accept(new_task_id(), **fields)
        for record in accepted:
            assert service.finished(record.task_id).result(30).state is TaskState.SUCCEEDED
        assert service.accept(new_task_id(), **fields).state is TaskState.PENDING
    finally:
        service.close()


def test_one_caller_leaves_room_for_others() -> None:
    table = TaskTable(60, max_open=100)

    def submit(caller: str) -> None:
        fields = {"kind": "t", "entry": ENTRY, "payload": {"sha256": "f"}, "fingerprint": "f", "runner": "r"}
        table.apply(table.accept(new_task_id(), caller=caller, now=time.time(), **fields))

    def fill(caller: str) -> int:
        before = table.open_count
        with suppress(Overloaded):
            while True:
                submit(caller)
        return table.open_count - before

    assert [fill("greedy"), fill("next"), fill("last")] == [90, 9, 1]
    with pytest.raises(Overloaded, match="100 tasks are open"):
        submit("another")
    again = TaskTable(60, max_open=100)
    again.load(table.dump())
    table = again
    table.apply(table.cancel(next(table.open_tasks()).task_id, now=time.time()))
    with pytest.raises(Overloaded, match="89 tasks of yours are open"):
        submit("greedy")
    submit("another")


def test_results_are_kept_for_the_configured_days_and_then_removed(local: Config) -> None:
    days = local.monitoring.metrics_retention.model_copy(update={"days": 1 / 86_400})
    short = local.model_copy(update={"monitoring": local.monitoring.model_copy(update={"metrics_retention": days})})
    service = TaskService(short, name="r", manager=lambda: get_compute_manager(config=short))
    store = open_store(local.storage.uri, local)
    try:
        payload = {"do": "echo", "value": 1}
        task_id = service.accept(
            new_task_id(), kind="t", entry=ENTRY, fingerprint="f", payload={"json": payload, "size": 1}
        ).task_id
        assert service.finished(task_id).result(30).state is TaskState.SUCCEEDED
        assert len(list(store.list("tasks/results/"))) == 1
        wait_until(lambda: service.runner.sweep() == 1)
        assert list(store.list("tasks/results/")) == []
        with pytest.raises(TaskExpired, match="no longer remembered"):
            service.get(task_id)
    finally:
        service.close()


def test_two_runners_of_one_storage_run_each_task_once(local: Config, tmp_path: Path) -> None:
    services = [
        TaskService(local, name=f"r{i}", manager=lambda: get_compute_manager(config=local), lease=2.0) for i in range(2)
    ]
    payload = {"json": {"do": "echo", "note": str(tmp_path)}}
    try:
        ids = [
            services[i % 2].accept(new_task_id(), kind="t", entry=ENTRY, fingerprint="f", payload=payload).task_id
            for i in range(20)
        ]
        for i, task_id in enumerate(ids):
            assert services[i % 2].finished(task_id).result(60).state is TaskState.SUCCEEDED
        assert [runs(tmp_path, task_id) for task_id in ids] == [1] * 20
    finally:
        for service in services:
            service.close()


_CHILD = """
import sys, time
from compute import get_compute_manager, load_config
from registry.task_record import new_task_id
from registry.task_service import TaskService
from registry.tasks import TaskTable
config = load_config()
tasks = TaskService(config, name="first", manager=lambda: get_compute_manager(config=config), lease=2.0)
payload = {"json": {"do": "sleep", "seconds": float(sys.argv[1]), "note": sys.argv[2]}}
for _ in range(3):
    task_id = new_task_id()
    tasks.accept(task_id, kind="t", entry="tests.registry.task_entries:run", fingerprint="f", payload=payload)
    print(task_id, flush=True)
"""


def test_what_a_killed_process_left_open_goes_on_in_the_next(local: Config, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD + "time.sleep(600)", "3", str(tmp_path)],
        env={**environment(local), "COMPUTE_COMPUTE__BACKEND": "local", "COMPUTE_COMPUTE__LOCAL_WORKERS": "2"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    ids = [process.stdout.readline().strip() for _ in range(3)]
    wait_until(lambda: any(runs(tmp_path, task_id) for task_id in ids))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    service = TaskService(local, name="next", manager=lambda: get_compute_manager(config=local), lease=2.0)
    try:
        # The lease of the one that was killed runs out first.
        records = [service.finished(task_id).result(60) for task_id in ids]
        assert [record.state for record in records] == [TaskState.SUCCEEDED] * 3
        assert all(record.runner == "next" for record in records)
        results = json.dumps([record.result for record in records])
        assert len(set(results.split('"key"'))) == 4
    finally:
        service.close()


def test_a_process_that_ends_lets_go_of_its_tasks_at_once(local: Config, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, "20", str(tmp_path)],
        env={**environment(local), "COMPUTE_COMPUTE__BACKEND": "local"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    ids = done.stdout.split()
    service = TaskService(local, name="next", manager=lambda: get_compute_manager(config=local))
    try:
        wait_until(lambda: any(service.get(task_id).runner == "next" for task_id in ids))
        for task_id in ids:
            service.cancel(task_id)
    finally:
        service.close()


def test_the_late_commit_of_a_run_that_was_given_up_is_refused_and_its_result_removed(local: Config) -> None:
    """A runner that was taken for dead comes back with a result, after the task has been run by another."""
    late = TaskService(local, name="late", manager=lambda: get_compute_manager(config=local))
    other = TaskService(local, name="other", manager=lambda: get_compute_manager(config=local))
    try:
        payload = {"json": {"do": "sleep", "seconds": 1.5}}
        task_id = late.accept(new_task_id(), kind="t", entry=ENTRY, fingerprint="f", payload=payload).task_id
        wait_until(lambda: late.get(task_id).state is TaskState.RUNNING)
        late.log.lease("late", 0.0)
        run = other.log.start(task_id, "other")
        other.log.finish(task_id, TaskState.SUCCEEDED, run=run.runs, result={"key": "tasks/results/x.json"})
        store = open_store(local.storage.uri, local)
        wait_until(lambda: not late.runner.busy)
        assert late.get(task_id).result == {"key": "tasks/results/x.json"}
        assert list(store.list(f"tasks/results/{task_id}")) == []
    finally:
        late.close()
        other.close()


def test_submitting_from_many_threads_loses_nothing(tasks: TaskRegistry) -> None:
    records: list[TaskRecord] = []
    lock = threading.Lock()

    def submit(number: int) -> None:
        for _ in range(5):
            record = tasks.submit("t", {"do": "echo", "value": number}, caller=f"c{number}")
            with lock:
                records.append(record)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [tasks.wait(record.task_id, 60) for record in records]
    assert len({record.task_id for record in done}) == 30
    assert [tasks.result(record)["echo"] for record in done] == [int(record.caller[1:]) for record in done]


def test_a_task_that_has_not_ended_by_its_deadline_is_stopped_waiting_or_running(local: Config) -> None:
    service = TaskService(local, name="r", manager=lambda: get_compute_manager(config=local), slots=1, lease=1.5)
    fields = {"kind": "t", "entry": ENTRY, "fingerprint": "f", "payload": {"json": {"do": "sleep", "seconds": 60}}}
    try:
        soon = time.time() + 1.5
        running = service.accept(new_task_id(), deadline=soon, **fields).task_id
        waiting = service.accept(new_task_id(), deadline=soon, **fields).task_id
        for task_id in (running, waiting):
            record = service.finished(task_id).result(30)
            assert record.state is TaskState.TIMED_OUT
            assert record.error is not None
            assert record.error["code"] == "task-timed-out"
        wait_until(lambda: not service.runner.busy)
    finally:
        service.close()


def test_pages_of_tasks_are_the_newest_first_and_stay_in_place(tasks: TaskRegistry) -> None:
    ids = [tasks.submit("even" if n % 2 == 0 else "odd", {"do": "echo"}, caller=f"c{n % 3}").task_id for n in range(7)]
    ids.sort(reverse=True)
    first, cursor = tasks.page(limit=3)
    assert [record.task_id for record in first] == ids[:3]
    assert cursor == ids[2]
    tasks.submit("even", {"do": "echo"})  # does not move what comes
    second, cursor = tasks.page(cursor=cursor, limit=4)
    assert [record.task_id for record in second] == ids[3:]
    assert cursor is None
    assert {record.kind for record in tasks.page(kinds=["odd"])[0]} == {"odd"}
    assert {record.caller for record in tasks.page(caller="c1")[0]} == {"c1"}
    for task_id in ids:
        tasks.wait(task_id, 30)
    assert len(tasks.page(states=[TaskState.SUCCEEDED])[0]) >= 7
    assert tasks.page(states=[TaskState.CANCELLED]) == ([], None)
    with pytest.raises(InvalidField):
        tasks.page(cursor="../x")


def test_what_a_task_reports_is_kept_in_order_with_the_node_it_ran_on(tasks: TaskRegistry) -> None:
    done = tasks.wait(tasks.submit("t", {"do": "report", "times": 150}).task_id, 30)
    report = tasks.progress(done.task_id)
    assert report is not None
    assert report["node"]
    assert [message["number"] for message in report["messages"]] == list(range(50, 150))
    assert report["message"] == "step 149"
