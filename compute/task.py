"""A task: the manager's own record of it, and what it tells others."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from compute.backend import Attempt, Outcome
from compute.lineage import Family
from compute.progress import Progress
from compute.resources import Resources
from compute.states import TaskState


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """How a task stands. Times are seconds since the epoch."""

    task_id: str
    state: TaskState
    attempts: int
    """Attempts that began, or were handed to the engine to begin."""
    priority: int
    submitted_at: float
    started_at: float | None
    """When the last attempt began to run."""
    finished_at: float | None
    error: Mapping[str, Any] | None
    """Why it did not succeed: ``code``, ``detail``; None for one that did or may yet."""
    function: str
    resources: Resources
    reasons: tuple[str, ...]
    """Why earlier attempts were repeated."""
    progress: float | None
    """How much of it is done, 0 to 1, by its own last report; see `report_progress`."""
    messages: tuple[Progress, ...]
    """The latest 100 reports of the last attempt."""


class TaskId(str):
    """The id of a task. As an argument of another task it stands for its result; ``str(task_id)`` is just the text."""

    __slots__ = ()


class Watcher(Protocol):
    """Who wants to hear that a task has ended."""

    def hit(self, task: Task, weight: int = 1) -> None:
        """Take note of it; called with the manager's lock held."""


class Latch:
    """Opens after a number of hits; cheaper than `threading.Event` where most waits never happen."""

    __slots__ = ("_left", "_lock")

    def __init__(self, left: int) -> None:
        self._left = left
        self._lock = threading.Lock()
        self._lock.acquire()

    def hit(self, task: Task, weight: int = 1) -> None:  # noqa: ARG002  (which one does not matter here)
        """Count down; the caller holds the manager's lock."""
        before, self._left = self._left, self._left - weight
        if before > 0 >= self._left:
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is open, at most so long; a negative number: without end."""
        if not self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX) if seconds >= 0 else -1):
            return False
        self._lock.release()
        return True


@dataclass(slots=True, eq=False)
class Task:
    """What the manager knows of a task."""

    task_id: str
    label: str
    function: Any
    """Key under which durations are remembered."""
    need: Resources
    priority: int
    timeout: float | None
    retries: int
    retry_exceptions: tuple[type[BaseException], ...]
    payload: Any = field(repr=False)
    submitted_at: float
    queued_at: float
    """By the monotonic clock, for the order of waiting."""
    state: TaskState = TaskState.PENDING
    attempts: int = 0
    attempt: Attempt | None = None
    """The one that is with the engine now."""
    estimate: float = 0.0
    """Seconds that the attempt is expected to take."""
    queued: bool = False
    """Whether it is in the queue of waiting tasks."""
    stopping: bool = False
    """Cancelled while an attempt was under way: what it brings is thrown away."""
    started_at: float | None = None
    finished_at: float | None = None
    outcome: Outcome | None = field(default=None, repr=False)
    """The last attempt's, once the task has finished."""
    error: Exception | None = None
    """The manager's own verdict; the task's own exception is in the outcome."""
    reasons: tuple[str, ...] = ()
    reports: bytes = b""
    """What the last attempt said of its progress."""
    inputs: dict[str, Outcome] = field(default_factory=dict, repr=False)
    """Of the tasks whose results are arguments of this one, once they are there."""
    missing: int = 0
    """How many of those are not there yet."""
    culprit: Task | None = None
    """The task that had to succeed for this one, and did not."""
    dependents: list[Task] = field(default_factory=list, repr=False)
    """Tasks that wait for this one's result."""
    family: Family | None = None
    """Of the attempt, in this process, that submitted it."""
    latches: tuple[tuple[Watcher, bool], ...] = ()
    """Who waits, and whether one failure is enough for them."""
    fetched: bool = False
