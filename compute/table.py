"""The tasks a manager remembers, and for how long."""

from __future__ import annotations

import itertools
import secrets
from collections import OrderedDict

from compute.errors import TaskExists, TaskExpired, TaskNotFound
from compute.task import Task

KEPT = 100_000
"""Finished tasks whose results were fetched that are remembered, at most."""

KEPT_BYTES = 256 * 2**20
"""What the results of those take in this process, at most."""


class TaskTable:
    """Tasks by id. The caller holds the manager's lock.

    Parameters
    ----------
    seconds : float
        How long a finished task is remembered.
    kept, kept_bytes : int
        Bounds for those whose results were fetched; the oldest go first, the newest always stays.
    """

    def __init__(self, seconds: float, kept: int = KEPT, kept_bytes: int = KEPT_BYTES) -> None:
        self._seconds = seconds
        self._kept = kept
        self._kept_bytes = kept_bytes
        self._tasks: dict[str, Task] = {}
        # Oldest first; what is forgotten leaves no trace in them.
        self._finished: OrderedDict[str, Task] = OrderedDict()
        self._fetched: OrderedDict[str, tuple[Task, int]] = OrderedDict()
        self._fetched_bytes = 0
        self._prefix = f"task-{secrets.token_hex(4)}-"
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._tasks)

    def new_id(self) -> str:
        """Return an id that no other manager gives."""
        return f"{self._prefix}{next(self._numbers)}"

    def add(self, task: Task) -> None:
        """Take a task in; refuses an id that is taken."""
        if self._tasks.setdefault(task.task_id, task) is not task:
            raise TaskExists(
                f"a task with the id {task.task_id!r} was submitted before",
                hint="Leave task_id out for a new one.",
                context={"task_id": task.task_id},
            )

    def get(self, task_id: str) -> Task:
        """Return a task, or raise `TaskNotFound`."""
        task = self._tasks.get(task_id)
        if task is None:
            raise self._unknown(task_id)
        return task

    def find(self, task_id: str) -> Task | None:
        """Return a task if it is known."""
        return self._tasks.get(task_id)

    def all(self) -> list[Task]:
        """Return every task that is remembered."""
        return list(self._tasks.values())

    def finished(self, task: Task) -> None:
        """Note that a task has ended."""
        self._finished[task.task_id] = task

    def fetched(self, task: Task, size: int) -> None:
        """Note that a task's result was handed out."""
        if task.fetched:
            return
        task.fetched = True
        if self._tasks.get(task.task_id) is not task:
            return
        self._fetched[task.task_id] = (task, size)
        self._fetched_bytes += size
        while len(self._fetched) > 1 and (len(self._fetched) > self._kept or self._fetched_bytes > self._kept_bytes):
            self.forget(next(iter(self._fetched.values()))[0])

    def forget(self, task: Task) -> None:
        """Drop a task that has ended."""
        if self._tasks.get(task.task_id) is task:
            del self._tasks[task.task_id]
            self._finished.pop(task.task_id, None)
            self._fetched_bytes -= self._fetched.pop(task.task_id, (task, 0))[1]
        task.outcome = None

    def sweep(self, now: float) -> None:
        """Drop what ended longer ago than tasks are remembered; ``now`` in seconds since the epoch."""
        while self._finished:
            task = next(iter(self._finished.values()))
            if (task.finished_at or 0.0) >= now - self._seconds:
                return
            self.forget(task)

    def _unknown(self, task_id: str) -> TaskNotFound:
        kept = f"Finished tasks are remembered for {self._seconds / 86400:g} days (monitoring.metrics_retention.days), "
        kept += f"those whose results were fetched up to {self._kept:,}."
        context = {"task_id": task_id}
        if task_id.startswith(self._prefix):
            return TaskExpired(f"the task {task_id!r} is no longer remembered", hint=kept, context=context)
        return TaskNotFound(f"no task {task_id!r} is known here", hint=kept, context=context)
