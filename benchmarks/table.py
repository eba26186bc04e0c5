"""A benchmark is a function ``run() -> list[Row]`` in a module of this package; `python -m benchmarks` finds it.

Times on a shared machine drift, so what is compared is measured in turns (`in_turns`) and by its median; ratios
between neighbours are what counts.
"""

from __future__ import annotations

import statistics
import threading
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
        What the ratio should be: at least for rates, at most for all else.
    limit : float, optional
        What the value itself should be, likewise.
    """

    name: str
    value: float
    unit: str
    ratio: float | None = None
    target: float | None = None
    limit: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the target and the limit are reached; None without any."""
        asked = [pair for pair in ((self.ratio, self.target), (self.value, self.limit)) if None not in pair]
        if not asked:
            return None
        return all(is_ >= should if self.unit.endswith("/s") else is_ <= should for is_, should in asked)  # type: ignore[operator]

    def __str__(self) -> str:
        line = f"  {self.name:<58} {self.value:>12,.4g} {self.unit:<8}"
        line += f" {self.ratio:>7.2f}" if self.ratio is not None else " " * 8
        sign = ">=" if self.unit.endswith("/s") else "<="
        if self.target is not None:
            line += f"  ratio {sign} {self.target:.2f}"
        if self.limit is not None:
            line += f"  {sign} {self.limit:g} {self.unit}"
        if self.reached is not None:
            line += " reached" if self.reached else " MISSED"
        return line.rstrip()


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


def in_threads(work: Callable[[int], object], threads: int, count: int) -> float:
    """Do numbered pieces of work in several threads, and return the seconds that all took together."""
    numbers = iter(range(count))
    lock, failures = threading.Lock(), list[Exception]()

    def run() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or failures:
                return
            try:
                work(number)
            except Exception as error:  # noqa: BLE001  (raised below)
                failures.append(error)

    running = [threading.Thread(target=run) for _ in range(threads)]
    began = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    return seconds
