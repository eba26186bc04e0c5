"""A benchmark is a function ``run() -> list[Row]`` in a module of this package; `python -m benchmarks` finds it.

Times on a shared machine drift, so what is compared is measured in turns (`in_turns`) and by its median; ratios
between neighbours are what counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    name : str
        What was measured.
    value : float
        Its median.
    unit : str
        Of the value.
    ratio : float, optional
        To what it is compared with.
    target : float, optional
        What the ratio should be: at least for rates, at most for times.
    """

    name: str
    value: float
    unit: str
    ratio: float | None = None
    target: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.ratio is None or self.target is None:
            return None
        return self.ratio >= self.target if self.unit.endswith("/s") else self.ratio <= self.target

    def __str__(self) -> str:
        line = f"  {self.name:<58} {self.value:>12,.4g} {self.unit:<8}"
        if self.ratio is not None:
            line += f" {self.ratio:>6.2f}"
        if self.target is not None:
            sign = ">=" if self.unit.endswith("/s") else "<="
            line += f"  {sign} {self.target:.2f} {'reached' if self.reached else 'MISSED'}"
        return line


def in_turns(work: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Return the median seconds of each piece of work, measured in turns; once each before that, to warm up."""
    for call in work.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(turns):
        for name, call in work.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}
