"""The table of durable tasks: every sequence of events, against a model of what it should be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from compute import TaskState
from compute.errors import Conflict, Corrupt, InvalidField, Overloaded, TaskExpired, TaskNotFinished, TaskNotFound
from registry.task_record import TaskRecord, new_task_id
from registry.tasks import TaskTable

RETENTION = 100.0
RUNNERS = st.sampled_from(["r1", "r2", "r3"])
ENDS = st.sampled_from([TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TIMED_OUT])


def accept(table: TaskTable, task_id: str, now: float = 0.0, **fields: Any) -> TaskRecord:
    question = {"kind": "prediction", "entry": "m:f", "payload": {"json": {}}, "fingerprint": "f", "runner": "r1"}
    decided = table.accept(task_id, now=now, **{**question, **fields})
    if isinstance(decided, TaskRecord):
        return decided
    table.apply(decided)
    return table.get(task_id, now)


class Tasks(RuleBasedStateMachine):
    """Drives a table as journal and runners do, and keeps the simplest account of what must be true."""

    tasks = Bundle("tasks")
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.table = TaskTable(RETENTION, max_open=6)
        self.open: dict[str, tuple[str, int]] = {}  # id -> holder, newest run
        self.ended: dict[str, tuple[TaskState, int | None, float]] = {}  # id -> state, committed run, time
        self.keys: dict[str, tuple[str, str]] = {}  # key -> id, fingerprint
        self.forgotten: set[str] = set()
        self.leases: dict[str, float] = {}

    @rule(target=tasks, runner=RUNNERS, key=st.sampled_from([None, "k1", "k2"]), fingerprint=st.sampled_from("ab"))
    def submit(self, runner: str, key: str | None, fingerprint: str) -> str:
        task_id = new_task_id(self.now)
        known = self.keys.get(key) if key else None
        try:
            record = accept(self.table, task_id, self.now, runner=runner, idempotency_key=key, fingerprint=fingerprint)
        except Conflict:
            assert known is not None
            assert known[1] != fingerprint
            return known[0]
        except Overloaded:
            assert known is None
            assert len(self.open) == 6
            return task_id
        if known is not None:
            assert (record.task_id, fingerprint) == known
        else:
            assert record.task_id == task_id
            self.open[task_id] = (runner, 0)
            if key:
                self.keys[key] = (task_id, fingerprint)
        return record.task_id

    @rule(target=runs, task=tasks, runner=RUNNERS)
    def start(self, task: str, runner: str) -> tuple[str, int]:
        holder, run = self.open.get(task, ("", 0))
        allowed = task in self.open and (holder == runner or self.leases.get(holder, 0.0) <= self.now)
        try:
            self.table.apply(self.table.start(task, runner=runner, now=self.now))
        except (TaskNotFinished, TaskNotFound):
            assert not allowed
            return task, run
        assert allowed
        self.open[task] = (runner, run + 1)
        return task, run + 1

    @rule(run=runs, state=ENDS, retries=st.integers(0, 3))
    def finish(self, run: tuple[str, int], state: TaskState, retries: int) -> None:
        task, number = run
        result = {"key": f"{task}/{number}"} if state is TaskState.SUCCEEDED else None
        allowed = task in self.open and self.open[task][1] == number
        try:
            self.table.apply(self.table.finish(task, state, run=number, retries=retries, result=result, now=self.now))
        except (TaskNotFinished, TaskNotFound):
            assert not allowed
            return
        assert allowed
        del self.open[task]
        self.ended[task] = (state, number, self.now)

    @rule(task=tasks)
    def cancel(self, task: str) -> None:
        try:
            decided = self.table.cancel(task, now=self.now)
        except TaskNotFinished:
            assert self.ended[task][0] is not TaskState.CANCELLED
        except TaskNotFound:
            assert task not in self.open
            assert task not in self.ended
        else:
            if isinstance(decided, TaskRecord):
                assert self.ended[task][0] is TaskState.CANCELLED
            else:
                self.table.apply(decided)
                del self.open[task]
                self.ended[task] = (TaskState.CANCELLED, None, self.now)

    @rule(runner=RUNNERS, seconds=st.floats(0, 50))
    def lease(self, runner: str, seconds: float) -> None:
        self.table.apply(self.table.lease(runner, self.now + seconds))
        self.leases[runner] = self.now + seconds

    @rule(seconds=st.floats(0.1, 60))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def forget(self) -> None:
        expired = self.table.expired(self.now)
        assert {record.task_id for record in expired} == {
            task for task, (_, _, at) in self.ended.items() if at + RETENTION <= self.now
        }
        self.table.apply(self.table.forget(expired))
        for record in expired:
            del self.ended[record.task_id]
            self.forgotten.add(record.task_id)
            self.keys = {key: value for key, value in self.keys.items() if value[0] != record.task_id}

    @rule()
    def reload(self) -> None:
        table = TaskTable(RETENTION, max_open=6)
        table.load(self.table.dump())
        assert list(table.dump()) == list(self.table.dump())
        self.table = table

    @rule(task=tasks)
    def fork_is_apart(self, task: str) -> None:
        before = list(self.table.dump())
        fork = self.table.fork()
        if task in self.open:
            fork.apply(fork.cancel(task, now=self.now))
            assert fork.get(task, self.now).state is TaskState.CANCELLED
            assert fork.open_count == len(self.open) - 1
        fork.apply(fork.lease("r9", 1e9))
        accepted = (
            fork.accept(
                new_task_id(self.now), kind="k", entry="m:f", payload={}, fingerprint="f", runner="r1", now=self.now
            )
            if fork.open_count < 6
            else None
        )
        assert accepted is None or isinstance(accepted, dict)
        assert list(self.table.dump()) == before

    @rule(task=consumes(tasks))
    def look(self, task: str) -> None:
        if task in self.open:
            assert self.table.get(task, self.now).runs == self.open[task][1]
        elif task in self.forgotten:
            with pytest.raises(TaskExpired):
                self.table.get(task, self.now)

    @invariant()
    def each_task_has_one_state_and_one_end(self) -> None:
        assert {record.task_id for record in self.table.open_tasks()} == set(self.open)
        assert self.table.open_count == len(self.open)
        assert len(self.table) == len(self.open) + len(self.ended)
        for task, (state, run, at) in self.ended.items():
            record = self.table.get(task, self.now)
            assert (record.state, record.finished_at) == (state, at)
            assert record.result == ({"key": f"{task}/{run}"} if state is TaskState.SUCCEEDED else None)
            assert record.attempts >= record.runs
            assert "json" not in record.payload


Tasks.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTasks = Tasks.TestCase


def test_the_id_tells_when_the_task_was_accepted() -> None:
    ids = [new_task_id(at) for at in (1.0, 2.0, 1e9)]
    assert ids == sorted(ids)
    assert len({new_task_id(1.0) for _ in range(100)}) == 100


@pytest.mark.parametrize("bad", ["", "x", "task-1", "../../etc/passwd", "task-" + "g" * 12 + "-" + "0" * 20, None, 7])
def test_what_is_no_id_is_refused_as_such(bad: Any) -> None:
    with pytest.raises(InvalidField, match="task id"):
        TaskTable(RETENTION).get(bad)


def test_unknown_and_forgotten_are_told_apart() -> None:
    table = TaskTable(RETENTION)
    with pytest.raises(TaskNotFound) as unknown:
        table.get(new_task_id(1000.0), now=1001.0)
    assert not isinstance(unknown.value, TaskExpired)
    with pytest.raises(TaskExpired, match="no longer remembered") as expired:
        table.get(new_task_id(1000.0), now=1000.0 + RETENTION + 1)
    assert expired.value.status == 410
    assert expired.value.context["expired"] is True


def test_the_same_key_of_another_caller_is_another_task() -> None:
    table = TaskTable(RETENTION)
    first = accept(table, new_task_id(), idempotency_key="k", caller="ann")
    second = accept(table, new_task_id(), idempotency_key="k", caller="bob")
    again = accept(table, new_task_id(), idempotency_key="k", caller="ann")
    assert first.task_id == again.task_id != second.task_id


def test_the_call_that_accepts_may_be_repeated() -> None:
    table = TaskTable(RETENTION)
    task_id = new_task_id()
    assert accept(table, task_id) == accept(table, task_id)
    assert len(table) == 1


def test_attempts_count_runs_and_their_retries() -> None:
    table = TaskTable(RETENTION)
    task_id = accept(table, new_task_id(0)).task_id
    table.apply(table.start(task_id, runner="r1", now=1.0))
    table.apply(table.start(task_id, runner="r1", now=2.0))  # its runner was killed, and came back
    table.apply(table.finish(task_id, TaskState.FAILED, run=2, retries=3, error={"code": "worker-lost"}, now=3.0))
    record = table.get(task_id, 4.0)
    assert (record.runs, record.attempts, record.started_at, record.finished_at) == (2, 5, 2.0, 3.0)


def test_an_event_of_a_newer_release_is_not_passed_over() -> None:
    with pytest.raises(Corrupt, match="paused"):
        TaskTable(RETENTION).apply({"event": "paused"})
