"""How long a function's tasks take, learnt as they end."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from compute.resources import Resources

UNKNOWN = 0.05
"""Seconds that a function is expected to take which has not run yet: few are handed over ahead until one has."""

CAREFUL = 1000
"""Tasks of a function that go alone after one was lost with its worker."""

_LEAST = 0.0004
_WEIGHT = 0.2
_FUNCTIONS = 1024


class Durations:
    """Moving averages of seconds by function.

    Examples
    --------
    >>> durations = Durations()
    >>> durations.estimate("f", Resources(cpu=2))
    0.1
    >>> durations.note("f", 1.0)
    >>> durations.estimate("f", Resources())
    1.0
    >>> durations.lost("f")
    >>> durations.sociable("f")
    False
    """

    def __init__(self) -> None:
        self._mean: OrderedDict[Any, float] = OrderedDict()
        self._careful: dict[Any, int] = {}

    def lost(self, function: Any) -> None:
        """Learn that a task was lost with its worker, perhaps by its own doing."""
        self._careful[function] = CAREFUL
        if len(self._careful) > _FUNCTIONS:
            self._careful.pop(next(iter(self._careful)))

    def sociable(self, function: Any) -> bool:
        """Whether tasks of this function are no danger to others in the same worker."""
        return function not in self._careful

    def note(self, function: Any, seconds: float) -> None:
        """Learn from a task that ended."""
        if self._careful and (left := self._careful.pop(function, 0)) > 1:
            self._careful[function] = left - 1
        before = self._mean.get(function)
        if before is None:
            self._mean[function] = seconds
            if len(self._mean) > _FUNCTIONS:
                self._mean.popitem(last=False)
            return
        # Up at once, down by and by: too many long tasks in the engine's queue cannot be overtaken.
        self._mean[function] = seconds if seconds > max(4 * before, 0.01) else before + _WEIGHT * (seconds - before)

    def estimate(self, function: Any, need: Resources) -> float:
        """Return the seconds of CPU that a task of this function is expected to take."""
        return self.seconds(function) * max(need.cpu, 0.1)

    def seconds(self, function: Any) -> float:
        """Return the seconds that a task of this function is expected to run."""
        return max(self._mean.get(function, UNKNOWN), _LEAST)
