"""What a manager counts when `monitoring.enabled` is on."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from compute.states import TaskState

_RECENT = 1024


class Metrics:
    """Tasks by state and how long they took. The caller holds the manager's lock.

    Examples
    --------
    >>> metrics = Metrics()
    >>> metrics.submitted += 1
    >>> metrics.finish(TaskState.SUCCEEDED, waited=0.5, ran=2.0)
    >>> metrics.snapshot()["finished"]["SUCCEEDED"], metrics.snapshot()["run_seconds"]["max"]
    (1, 2.0)
    """

    def __init__(self) -> None:
        self.submitted = 0
        self.retried = 0
        self._finished: Counter[TaskState] = Counter()
        self._waited: deque[float] = deque(maxlen=_RECENT)
        self._ran: deque[float] = deque(maxlen=_RECENT)

    def finish(self, state: TaskState, waited: float | None, ran: float | None) -> None:
        """Count a task that ended; seconds from submission to start, and from start to end."""
        self._finished[state] += 1
        if waited is not None:
            self._waited.append(waited)
        if ran is not None:
            self._ran.append(ran)

    def snapshot(self) -> dict[str, Any]:
        """Return the counts, and for the last 1,024 tasks how long they waited and ran."""
        return {
            "submitted": self.submitted,
            "retried": self.retried,
            "finished": {state.value: self._finished[state] for state in TaskState if state.finished},
            "wait_seconds": _spread(self._waited),
            "run_seconds": _spread(self._ran),
        }


def _spread(values: deque[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    at = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95)]
    return {"median": at[0], "p95": at[1], "max": ordered[-1], "mean": sum(ordered) / len(ordered)}
