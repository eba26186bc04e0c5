"""How many workers there should be: more when they have been busy for long enough, fewer when they have been idle."""

from __future__ import annotations

import math

from compute.config import Scaling


class Autoscale:
    """Follows the load. No clock of its own.

    Parameters
    ----------
    scaling : Scaling
        The section of the configuration.
    size : int
        Workers at first; brought between ``min_workers`` and ``max_workers``.

    Examples
    --------
    >>> scale = Autoscale(Scaling(min_workers=1, max_workers=8, scale_up_delay=30), size=2)
    >>> scale.observe(now=0, busy=2, waiting=6), scale.observe(now=31, busy=2, waiting=6)
    (2, 8)
    """

    def __init__(self, scaling: Scaling, size: int) -> None:
        self.least = scaling.min_workers
        self._most = max(scaling.max_workers, scaling.min_workers)
        self._target = scaling.target_utilization
        self._up = scaling.scale_up_delay
        self._down = scaling.scale_down_delay
        self.size = min(max(size, self.least), self._most)
        self._above: float | None = None
        self._below: float | None = None

    def observe(self, now: float, busy: int, waiting: int) -> int:
        """Take note of the load and return how many workers there should be.

        Parameters
        ----------
        now : float
            Seconds; only differences count.
        busy, waiting : int
            Tasks that run, and tasks that wait for a worker.
        """
        wanted = min(max(math.ceil((busy + waiting) / self._target), self.least), self._most)
        if not self.size and wanted:
            # Nothing to be busy at all: waiting for the delay would be waiting for nothing.
            self.size = 1
        used = (busy + waiting) / self.size if self.size else 0.0
        self._above = (self._above if self._above is not None else now) if used > self._target else None
        self._below = (self._below if self._below is not None else now) if wanted < self.size else None
        if self._above is not None and wanted > self.size and now - self._above >= self._up:
            self.size, self._above = wanted, None
        elif self._below is not None and now - self._below >= self._down:
            self.size, self._below = wanted, None
        return self.size
