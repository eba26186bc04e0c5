"""The states of a task: the same enumeration in Python, over HTTP and in the console."""

from __future__ import annotations

from enum import StrEnum


class TaskState(StrEnum):
    """Where a task stands.

    Examples
    --------
    >>> TaskState.RUNNING.finished, TaskState.TIMED_OUT.finished
    (False, True)
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self not in (TaskState.PENDING, TaskState.RUNNING)
