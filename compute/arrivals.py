"""Hearing of tasks one by one as they end: in a thread, or in an event loop.

Both take the place of a `Latch` in a task: `hit` is called with the manager's lock held, so it only leaves word.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compute.task import Task


class Arrivals:
    """Tasks in the order in which they end."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._next: Task | None = None

    def hit(self, task: Task, weight: int = 1) -> None:  # noqa: ARG002  (of a latch that counts)
        """Take in a task that has ended."""
        self._queue.put(task)

    def wait(self, seconds: float) -> bool:
        """Wait until there is one, at most so long; a negative number: without end."""
        if self._next is None:
            try:
                self._next = self._queue.get(timeout=min(seconds, threading.TIMEOUT_MAX) if seconds >= 0 else None)
            except queue.Empty:
                return False
        return True

    def take(self) -> Task:
        """Return the one that was waited for."""
        task, self._next = self._next, None
        assert task is not None
        return task


class Bell:
    """Rings in an event loop when a task has ended."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.rung = asyncio.Event()

    def hit(self, task: Task, weight: int = 1) -> None:  # noqa: ARG002  (of a latch that counts)
        """Ring, if anybody still listens."""
        try:
            self._loop.call_soon_threadsafe(self.rung.set)
        except RuntimeError:
            # The loop has been closed, and who waited in it is gone; the task is not.
            if not self._loop.is_closed():
                raise
