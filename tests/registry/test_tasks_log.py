"""Durable tasks on their journal: many writers, one order, one end for each task."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from compute import TaskState
from compute.errors import Conflict, TaskExpired, TaskNotFinished, TaskNotFound
from registry import FileStore
from registry.task_log import TaskLog
from registry.task_record import new_task_id

QUESTION: dict[str, Any] = {
    "kind": "prediction",
    "entry": "m:f",
    "payload": {"json": {}},
    "fingerprint": "f",
    "runner": "r1",
}


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


def open_log(store: FileStore, **options: Any) -> TaskLog:
    return TaskLog(store, **{"retention": 60.0, **options})


def test_what_was_accepted_is_there_for_another_process(store: FileStore) -> None:
    record = open_log(store).accept(new_task_id(), until=0.0, **QUESTION)
    assert open_log(store).get(record.task_id) == record


def test_a_task_ended_by_one_writer_is_ended_for_all(store: FileStore) -> None:
    first, second = open_log(store), open_log(store)
    task_id = first.accept(new_task_id(), until=0.0, **QUESTION).task_id
    run = second.start(task_id, "r2").runs
    assert first.cancel(task_id).state is TaskState.CANCELLED
    with pytest.raises(TaskNotFinished, match="has ended: CANCELLED"):
        second.finish(task_id, TaskState.SUCCEEDED, run=run, result={"key": "late"})
    assert open_log(store).get(task_id).result is None


def test_of_many_commits_exactly_one_counts(store: FileStore) -> None:
    logs = [open_log(store) for _ in range(4)]
    tasks = [logs[0].accept(new_task_id(), until=0.0, **QUESTION).task_id for _ in range(10)]
    runs = {task: logs[0].start(task, "r1").runs for task in tasks}
    committed: dict[str, list[int]] = {task: [] for task in tasks}
    lock = threading.Lock()

    def commit(writer: int) -> None:
        for task in tasks:
            try:
                logs[writer % 4].finish(task, TaskState.SUCCEEDED, run=runs[task], result={"key": f"by-{writer}"})
            except TaskNotFinished:
                continue
            with lock:
                committed[task].append(writer)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(commit, range(8)))
    after = open_log(store)
    for task, winners in committed.items():
        assert len(winners) == 1
        assert after.get(task).result == {"key": f"by-{winners[0]}"}


def test_one_key_submitted_by_many_is_one_task(store: FileStore) -> None:
    logs = [open_log(store) for _ in range(3)]

    def submit(number: int) -> str:
        return logs[number % 3].accept(new_task_id(), until=0.0, **QUESTION, idempotency_key="k").task_id

    with ThreadPoolExecutor(12) as pool:
        assert len(set(pool.map(submit, range(24)))) == 1
    with pytest.raises(Conflict, match="another question"):
        logs[0].accept(new_task_id(), until=0.0, **{**QUESTION, "fingerprint": "g"}, idempotency_key="k")


def test_waiting_ends_with_the_task(store: FileStore) -> None:
    log = open_log(store)
    task_id = log.accept(new_task_id(), until=0.0, **QUESTION).task_id
    futures = [log.finished(task_id) for _ in range(2)]
    assert not any(future.done() for future in futures)
    log.finish(task_id, TaskState.FAILED, run=log.start(task_id, "r1").runs, error={"code": "task-failed"})
    assert [future.result(timeout=5).state for future in futures] == [TaskState.FAILED] * 2
    assert log.finished(task_id).result(timeout=0).state is TaskState.FAILED
    with pytest.raises(TaskNotFound):
        log.finished(new_task_id())


def test_waiting_ends_when_another_process_ends_the_task(store: FileStore) -> None:
    log = open_log(store)
    task_id = log.accept(new_task_id(), until=0.0, **QUESTION).task_id
    future = log.finished(task_id)
    open_log(store).cancel(task_id)
    log.adoptable("r1")  # as each heartbeat does
    assert future.result(timeout=5).state is TaskState.CANCELLED


def test_what_is_held_by_the_living_is_left_to_them(store: FileStore) -> None:
    now = [100.0]
    log = open_log(store, clock=lambda: now[0])
    task_id = log.accept(new_task_id(100.0), until=110.0, **QUESTION).task_id
    assert [record.task_id for record in log.adoptable("r1")] == [task_id]
    assert log.adoptable("r2") == []
    with pytest.raises(TaskNotFinished, match="held by r1"):
        log.start(task_id, "r2")
    now[0] = 111.0
    assert [record.task_id for record in log.adoptable("r2")] == [task_id]
    assert log.start(task_id, "r2").runner == "r2"
    log.lease("r2", 120.0)
    with pytest.raises(TaskNotFinished, match="held by r2"):
        log.start(task_id, "r1")
    log.lease("r2", 0.0)  # it closed
    assert log.start(task_id, "r1").runs == 2


def test_ended_tasks_are_forgotten_in_time(store: FileStore) -> None:
    now = [1000.0]
    log = open_log(store, clock=lambda: now[0])
    ended = log.accept(new_task_id(1000.0), until=0.0, **QUESTION, idempotency_key="k").task_id
    still_open = log.accept(new_task_id(1000.0), until=0.0, **QUESTION).task_id
    log.cancel(ended)
    now[0] = 1059.0
    assert log.forget() == []
    now[0] = 1061.0
    assert [record.task_id for record in log.forget()] == [ended]
    for reader in (log, open_log(store, clock=lambda: now[0])):
        with pytest.raises(TaskExpired):
            reader.get(ended)
        assert reader.get(still_open).state is TaskState.PENDING
    assert log.accept(new_task_id(1061.0), until=0.0, **QUESTION, idempotency_key="k").task_id != ended
