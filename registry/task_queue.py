"""The order in which waiting tasks run: fair between callers, by priority and then age within one."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import OrderedDict


class TaskQueue:
    """A queue that takes from each caller in turn, so that a thousand tasks of one do not delay the first of another.

    A task that waits already is not added again.

    Examples
    --------
    >>> queue = TaskQueue()
    >>> for task, caller, priority in [("a1", "a", 0), ("a2", "a", 0), ("a3", "a", 5), ("b1", "b", 0)]:
    ...     queue.put(task, caller, priority)
    >>> [queue.get(timeout=0) for _ in range(5)]
    ['a3', 'b1', 'a1', 'a2', None]
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lanes: OrderedDict[str, list[tuple[int, int, str]]] = OrderedDict()
        self._waiting: set[str] = set()
        self._order = itertools.count()
        self._closed = False

    def put(self, task_id: str, caller: str, priority: int = 0) -> None:
        """Add a task at its place."""
        with self._changed:
            if task_id not in self._waiting:
                self._waiting.add(task_id)
                heapq.heappush(self._lanes.setdefault(caller, []), (-priority, next(self._order), task_id))
                self._changed.notify()

    def get(self, timeout: float | None = None) -> str | None:
        """Take the next task; None when none came in time, or the queue was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._lanes, timeout)
            if self._closed or not self._lanes:
                return None
            caller, lane = self._lanes.popitem(last=False)
            task_id = heapq.heappop(lane)[2]
            if lane:
                self._lanes[caller] = lane
            self._waiting.discard(task_id)
            return task_id

    def close(self) -> None:
        """Let everybody who waits go with nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting)
