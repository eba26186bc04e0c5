"""The table of tasks on its journal: what a method has returned is durable, and any number of processes may write."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from compute import TaskState
from registry.journal import Journal
from registry.store import ObjectStore
from registry.task_record import TaskRecord
from registry.tasks import MAX_OPEN, Event, TaskTable

logger = logging.getLogger(__name__)

PREFIX = "tasks"

_FORGET_AT_ONCE = 1000
_GRACE = 3600.0
"""Seconds that the journal goes back, at least; nobody follows it."""


class TaskLog:
    """Durable tasks; each method is one decision of `TaskTable`, written down before it returns.

    Parameters
    ----------
    store : ObjectStore
        Where the journal lies.
    retention : float
        Seconds that a finished task is remembered.
    max_open : int
        Tasks that may be open at once.
    clock : callable
        Gives the time in seconds since 1970.
    read_staleness : float
        See `Journal`.

    Examples
    --------
    >>> import tempfile
    >>> from registry.file_store import FileStore
    >>> from registry.task_record import new_task_id
    >>> store = FileStore(tempfile.mkdtemp())
    >>> log = TaskLog(store, retention=60)
    >>> task = dict(kind="prediction", entry="m:f", payload={"json": {}}, fingerprint="f", runner="r", until=0.0)
    >>> task_id = log.accept(new_task_id(), **task).task_id
    >>> TaskLog(store, retention=60).get(task_id).state
    <TaskState.PENDING: 'PENDING'>
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        retention: float,
        max_open: int = MAX_OPEN,
        clock: Callable[[], float] = time.time,
        read_staleness: float = 0.0,
    ) -> None:
        self.store = store
        self.clock = clock
        self._waiting_lock = threading.Lock()
        self._waiting: dict[str, Future[TaskRecord]] = {}
        self._journal: Journal[TaskTable] = Journal(
            store,
            PREFIX,
            lambda: TaskTable(retention, max_open, on_finish=self._notify),
            read_staleness=read_staleness,
        )

    def accept(self, task_id: str, *, until: float, **fields: Any) -> TaskRecord:
        """Take a task in, with a lease of its runner until then; see `TaskTable.accept` for the fields."""

        def decide(table: TaskTable) -> tuple[list[Event], TaskRecord]:
            decided = table.accept(task_id, now=self.clock(), **fields)
            if isinstance(decided, TaskRecord):
                return [], decided
            events = [decided]
            # Leases are renewed by the heartbeat; only the first task after a pause needs one with it.
            if until and table.lease_of(fields["runner"]) < self.clock():
                events.append(table.lease(fields["runner"], until))
            return events, TaskRecord.model_validate(decided["task"])

        return self._journal.execute(decide)

    def start(self, task_id: str, runner: str) -> TaskRecord:
        """Begin a run; the record has its number."""
        return self._change(task_id, lambda table: table.start(task_id, runner=runner, now=self.clock()))

    def finish(self, task_id: str, state: TaskState, *, run: int, **outcome: Any) -> TaskRecord:
        """Commit how a run ended; see `TaskTable.finish`."""
        return self._change(task_id, lambda table: table.finish(task_id, state, run=run, now=self.clock(), **outcome))

    def cancel(self, task_id: str) -> TaskRecord:
        """End a task as cancelled."""
        return self._change(task_id, lambda table: table.cancel(task_id, now=self.clock()))

    def lease(self, runner: str, until: float) -> None:
        """Note until when the runner lives, at least."""
        self._journal.execute(lambda table: ([table.lease(runner, until)], None))

    def forget(self) -> list[TaskRecord]:
        """Drop what ended longer ago than is remembered, some of it when it is much; returns what was dropped."""

        def decide(table: TaskTable) -> tuple[list[Event], list[TaskRecord]]:
            expired = table.expired(self.clock())[:_FORGET_AT_ONCE]
            return ([table.forget(expired)] if expired else []), expired

        return self._journal.execute(decide)

    def compact(self) -> None:
        """Remove what the journal needs no more."""
        report = self._journal.compact(_GRACE)
        if report.entries:
            logger.info("event=tasks_compacted entries=%d bytes=%d", report.entries, report.bytes)

    def get(self, task_id: str) -> TaskRecord:
        """Return the record as it is now, in whatever process it was changed."""
        return self._journal.read(lambda table: table.get(task_id, self.clock()))

    def find(self, caller: str, idempotency_key: str) -> TaskRecord | None:
        """Return the task that this caller submitted under this key, if it is remembered."""
        return self._journal.read(lambda table: table.find(caller, idempotency_key))

    def page(self, wanted: Callable[[TaskRecord], bool], before: str | None, limit: int) -> list[TaskRecord]:
        """Return the newest of those that are wanted; see `TaskTable.page`."""
        return self._journal.read(lambda table: table.page(wanted, before, limit))

    def adoptable(self, runner: str) -> list[TaskRecord]:
        """Return the open tasks that this runner may begin: its own, and those whose runner is not known to live."""

        def query(table: TaskTable) -> list[TaskRecord]:
            now = self.clock()
            return [record for record in table.open_tasks() if table.adoptable(record, runner, now)]

        return self._journal.read(query)

    def finished(self, task_id: str) -> Future[TaskRecord]:
        """Return a future of the record as it is when the task has ended.

        It may be shared between those who wait: never cancel it.
        """

        def query(table: TaskTable) -> Future[TaskRecord]:
            record = table.get(task_id, self.clock())
            if not record.state.finished:
                # Under the journal's lock: the end cannot come between this look and the next.
                with self._waiting_lock:
                    return self._waiting.setdefault(task_id, Future())
            done: Future[TaskRecord] = Future()
            done.set_result(record)
            return done

        return self._journal.read(query)

    def _change(self, task_id: str, decide: Callable[[TaskTable], Event | TaskRecord]) -> TaskRecord:
        def command(table: TaskTable) -> tuple[list[Event], TaskRecord]:
            decided = decide(table)
            if isinstance(decided, TaskRecord):
                return [], decided
            after = table.fork()
            after.apply(decided)
            return [decided], after.get(task_id, self.clock())

        return self._journal.execute(command)

    def _notify(self, record: TaskRecord) -> None:
        with self._waiting_lock:
            future = self._waiting.pop(record.task_id, None)
        if future is not None:
            future.set_result(record)
