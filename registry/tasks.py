"""Durable tasks: what was accepted, where it stands, how it ended. Plain state built from events: no Ray, no I/O.

Every change is decided by a method of `TaskTable` against the state as it is, and returned as an event; once the event
is in the journal, `apply` makes it so. The same events in the same order give the same table in every process.

Each open task is held by one runner. Others may take it over when that runner's lease has run out; each start is a
new run, and only the newest run may commit an end: so a task may run more than once, and ends exactly once.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from compute import TaskState
from compute.errors import Conflict, Corrupt, Overloaded, TaskExpired, TaskNotFinished, TaskNotFound
from registry.overlay import Overlay
from registry.task_record import TaskRecord, accepted_at

MAX_OPEN = 120_000
"""Tasks that may be open at once; one more is refused."""

_SHARE = 9
"""A caller may have so many times what is free: alone nine tenths of all, and others still find room.

The rule of dynamic thresholds (Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998), which bounds
queues in a memory that they share.
"""

MAX_RUNS = 20
"""A task whose runner was lost this often takes its runners down, and is not run again."""

Event = dict[str, Any]


class TaskTable:
    """All tasks that are open, or finished and still remembered.

    Parameters
    ----------
    retention : float
        Seconds that a finished task is remembered.
    max_open : int
        Tasks that may be open at once.
    on_finish : callable, optional
        Called with each record that an applied event has ended, or was loaded as ended; forks do not call it.

    Examples
    --------
    >>> table = TaskTable(retention=60)
    >>> from registry.task_record import new_task_id
    >>> task_id = new_task_id(0)
    >>> payload = {"json": {}, "sha256": "ab"}
    >>> fields = dict(kind="prediction", entry="m:f", payload=payload, fingerprint="ab", runner="r1")
    >>> table.apply(table.accept(task_id, now=0.0, **fields))
    >>> table.apply(table.start(task_id, runner="r1", now=1.0))
    >>> table.get(task_id).state
    <TaskState.RUNNING: 'RUNNING'>
    """

    def __init__(
        self, retention: float, max_open: int = MAX_OPEN, on_finish: Callable[[TaskRecord], None] | None = None
    ) -> None:
        self.retention = retention
        self.max_open = max_open
        self._on_finish = on_finish
        self._records: MutableMapping[str, TaskRecord] = {}
        self._keys: MutableMapping[tuple[str, str], str] = {}
        self._open: MutableMapping[str, None] = {}
        self._open_of: MutableMapping[str, int] = {}
        self._leases: MutableMapping[str, float] = {}

    # Reading

    def get(self, task_id: str, now: float | None = None) -> TaskRecord:
        """Return the record.

        Raises
        ------
        InvalidField
            When this is no task id.
        TaskNotFound
            When there is no such task; `TaskExpired` when it can only have been forgotten.
        """
        if record := self._records.get(task_id):
            return record
        if accepted_at(task_id) + self.retention <= (time.time() if now is None else now):
            raise TaskExpired(
                f"the task {task_id} is no longer remembered",
                hint=f"Results are kept for {self.retention / 86400:g} days (monitoring.metrics_retention.days).",
                context={"task_id": task_id, "expired": True},
            )
        raise TaskNotFound(f"no task {task_id}", hint="Submit it first.", context={"task_id": task_id})

    def find(self, caller: str, idempotency_key: str) -> TaskRecord | None:
        """Return the task that this caller submitted under this key, if it is remembered."""
        task_id = self._keys.get((caller, idempotency_key))
        return None if task_id is None else self._records[task_id]

    def records(self) -> Iterator[TaskRecord]:
        """Return all that are remembered, oldest first."""
        return iter(list(self._records.values()))

    def page(self, wanted: Callable[[TaskRecord], bool], before: str | None, limit: int) -> list[TaskRecord]:
        """Return the newest of those that are wanted, newest first; before: only ids that are smaller."""
        newest = heapq.nlargest(
            limit,
            (
                task_id
                for task_id, record in self._records.items()
                if (before is None or task_id < before) and wanted(record)
            ),
        )
        return [self._records[task_id] for task_id in newest]

    def open_tasks(self) -> Iterator[TaskRecord]:
        """Return what is not finished, oldest first."""
        return (self._records[task_id] for task_id in list(self._open))

    def lease_of(self, runner: str) -> float:
        """Return until when the runner is known to live; 0 when nothing is known of it."""
        return self._leases.get(runner, 0.0)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def open_count(self) -> int:
        """Tasks that are not finished."""
        return len(self._open)

    # Deciding: each method returns the event that makes the change, or raises

    def accept(
        self,
        task_id: str,
        *,
        kind: str,
        entry: str,
        payload: Mapping[str, Any],
        fingerprint: str,
        runner: str,
        caller: str = "",
        idempotency_key: str | None = None,
        priority: int = 0,
        timeout: float | None = None,
        deadline: float | None = None,
        resources: dict[str, Any] | None = None,
        now: float,
    ) -> Event | TaskRecord:
        """Take a task in; or return the task that it repeats.

        Raises
        ------
        Conflict
            When the caller used the key for another question.
        Overloaded
            When too many tasks are open, or too many of this caller.
        """
        accepted_at(task_id)  # it is one
        earlier = self._records.get(task_id)
        if earlier is None and idempotency_key is not None:
            earlier = self.find(caller, idempotency_key)
        if earlier is not None:
            if (earlier.fingerprint, earlier.kind, earlier.entry) == (fingerprint, kind, entry):
                return earlier
            raise Conflict(
                f"the idempotency key {idempotency_key!r} was used for another question, the task {earlier.task_id}",
                hint="Use a new key for a new question.",
                context={"idempotency_key": idempotency_key, "task_id": earlier.task_id},
            )
        free, own = self.max_open - len(self._open), self._open_of.get(caller, 0)
        if own >= _SHARE * free:
            whose = "of yours " if free > 0 else ""
            count = own if free > 0 else len(self._open)
            raise Overloaded(
                f"{count:,} tasks {whose}are open, the limit",
                hint="Try again when some have finished.",
                context={"open": len(self._open), "yours": own, "limit": self.max_open, "retry_after": 5},
            )
        record = TaskRecord(
            task_id=task_id,
            kind=kind,
            entry=entry,
            caller=caller,
            idempotency_key=idempotency_key,
            payload=dict(payload),
            fingerprint=fingerprint,
            runner=runner,
            priority=priority,
            timeout=timeout,
            deadline=deadline,
            resources=resources,
            submitted_at=now,
        )
        return {"event": "accepted", "task": record.model_dump(mode="json", exclude_defaults=True)}

    def start(self, task_id: str, *, runner: str, now: float) -> Event:
        """Begin a run of it; what an earlier run still brings is refused from here on.

        Raises
        ------
        TaskNotFinished
            When the task has ended, or another runner that is known to live holds it.
        """
        record = self._still_open(task_id, now)
        if not self.adoptable(record, runner, now):
            raise TaskNotFinished(
                f"the task {task_id} is held by {record.runner}",
                context={"task_id": task_id, "state": record.state.value},
            )
        return {"event": "started", "task_id": task_id, "runner": runner, "run": record.runs + 1, "at": now}

    def finish(
        self,
        task_id: str,
        state: TaskState,
        *,
        run: int,
        retries: int = 0,
        started_at: float | None = None,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        now: float,
    ) -> Event:
        """Commit how a run ended. The first commit of the newest run counts, and no other.

        Raises
        ------
        TaskNotFinished
            When the task has ended already, or a newer run has begun.
        """
        record = self._still_open(task_id, now)
        if record.runs != run:
            raise TaskNotFinished(
                f"run {run} of the task {task_id} has been given up; run {record.runs} is the newest",
                context={"task_id": task_id, "state": record.state.value},
            )
        return {
            "event": "finished",
            "task_id": task_id,
            "state": TaskState(state).value,
            "retries": retries,
            "started_at": started_at or record.started_at,
            "result": None if result is None else dict(result),
            "error": None if error is None else dict(error),
            "at": now,
        }

    def cancel(self, task_id: str, *, now: float) -> Event | TaskRecord:
        """End it as cancelled; a task that is cancelled already is returned as it is.

        Raises
        ------
        TaskNotFinished
            When it ended otherwise.
        """
        record = self.get(task_id, now)
        if record.state is TaskState.CANCELLED:
            return record
        self._still_open(task_id, now)
        return {"event": "finished", "task_id": task_id, "state": TaskState.CANCELLED.value, "at": now}

    def lease(self, runner: str, until: float) -> Event:
        """Note that the runner lives at least until then, and keeps what it holds so long; 0: it lets go of it."""
        return {"event": "leased", "runner": runner, "until": until}

    def expired(self, now: float) -> list[TaskRecord]:
        """Return the finished tasks that need no longer be remembered."""
        before = now - self.retention
        # Records lie in the order of acceptance, not of finishing: all are looked at, once in a while.
        return [item for item in self._records.values() if (item.finished_at or math.inf) <= before]

    def forget(self, records: Sequence[TaskRecord]) -> Event:
        """Drop some of what `expired` lists."""
        return {"event": "forgotten", "task_ids": [record.task_id for record in records]}

    def adoptable(self, record: TaskRecord, runner: str, now: float) -> bool:
        """Whether this runner may begin it: it holds it, or who holds it is not known to live."""
        return record.runner == runner or self.lease_of(record.runner) <= now

    def _still_open(self, task_id: str, now: float) -> TaskRecord:
        record = self.get(task_id, now)
        if record.state.finished:
            raise TaskNotFinished(
                f"the task {task_id} has ended: {record.state.value}",
                hint="Only a task that is open can be changed.",
                context={"task_id": task_id, "state": record.state.value},
            )
        return record

    # Applying

    def apply(self, event: Event) -> None:
        """Make the change that an event of the journal says."""
        kind = event["event"]
        if kind == "accepted":
            self._add(TaskRecord.model_validate(event["task"]))
        elif kind == "started":
            self._change(
                event["task_id"],
                state=TaskState.RUNNING,
                runner=event["runner"],
                runs=event["run"],
                attempts=self._records[event["task_id"]].attempts + 1,
                started_at=event["at"],
            )
        elif kind == "finished":
            self._finish(event)
        elif kind == "leased":
            if event["until"]:
                self._leases[event["runner"]] = event["until"]
            else:
                self._leases.pop(event["runner"], None)
        elif kind == "forgotten":
            self._forget(event["task_ids"])
        else:
            raise Corrupt(f"the journal of tasks holds an event of the unknown kind {kind!r}")

    def fork(self) -> TaskTable:
        """Return a copy to try events on; this one must not change while it is in use."""
        copy = TaskTable(self.retention, self.max_open)
        copy._records = Overlay(self._records)
        copy._keys = Overlay(self._keys)
        copy._open = Overlay(self._open)
        copy._open_of = Overlay(self._open_of)
        copy._leases = Overlay(self._leases)
        return copy

    def dump(self) -> Iterable[Any]:
        """Return all there is to know, as JSON values: the leases, then a value for each task."""
        leases, records = dict(self._leases), list(self._records.values())
        return itertools.chain([leases], (record.model_dump(mode="json", exclude_defaults=True) for record in records))

    def load(self, items: Iterable[Any]) -> None:
        """Become what `dump` returned."""
        leases, *tasks = items
        self._leases = leases
        for item in tasks:
            record = TaskRecord.model_validate(item)
            self._add(record)
            # Somebody may wait for it already: a journal that fell far behind is loaded anew.
            if record.state.finished and self._on_finish is not None:
                self._on_finish(record)

    def _add(self, record: TaskRecord) -> None:
        self._records[record.task_id] = record
        if not record.state.finished:
            self._open[record.task_id] = None
            self._open_of[record.caller] = self._open_of.get(record.caller, 0) + 1
        if record.idempotency_key is not None:
            self._keys[record.caller, record.idempotency_key] = record.task_id

    def _change(self, task_id: str, **changes: Any) -> None:
        self._records[task_id] = self._records[task_id].model_copy(update=changes)

    def _finish(self, event: Event) -> None:
        record = self._records[event["task_id"]]
        # The question itself is not needed any more: only its digest, to know a repetition of it.
        payload = {name: value for name, value in record.payload.items() if name != "json"}
        self._change(
            record.task_id,
            state=TaskState(event["state"]),
            attempts=record.attempts + event.get("retries", 0),
            started_at=event.get("started_at") or record.started_at,
            finished_at=event["at"],
            payload=payload,
            result=event.get("result"),
            error=event.get("error"),
        )
        del self._open[record.task_id]
        self._open_of[record.caller] -= 1
        if not self._open_of[record.caller]:
            del self._open_of[record.caller]
        if self._on_finish is not None:
            self._on_finish(self._records[record.task_id])

    def _forget(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            record = self._records[task_id]
            del self._records[task_id]
            if record.idempotency_key is not None:
                del self._keys[record.caller, record.idempotency_key]
