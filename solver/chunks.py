"""Does numbered pieces of work, and gives their results in order: here while they are quick, then in tasks of a second.

What all pieces share goes to the engine once; the tasks get numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from compute import ComputeManager

SECONDS = 1.0
"""Of work that a task is to have: the cost of one is small beside it, and losing one costs little."""
_GROWTH = 8
_HERE = 0.5
"""Seconds of work that are done before there are tasks: what is little pays for no workers."""


def in_order(
    make_manager: Callable[[], ComputeManager],
    work: Callable[[Any, int], Any],
    shared: Any,
    count: int,
    *,
    timeout: float | None = None,
) -> Generator[Any, None, None]:
    """Give ``work(shared, number)`` for the numbers from 0 on, in order; done side by side, some ahead of need.

    Parameters
    ----------
    make_manager : callable
        Gives the `ComputeManager` that runs the tasks; called when it comes to that.
    work : callable
        A function of a module; it may run more than once for a number.
    shared : object
        What every piece needs.
    count : int
        How many pieces there are. Who takes fewer closes the iterator: what has not begun is dropped.
    timeout : float, optional
        Seconds for one task.
    """
    next_number, began = 0, time.perf_counter()
    while next_number < count and time.perf_counter() - began < _HERE:
        next_number += 1
        yield work(shared, next_number - 1)
    if next_number == count:
        return
    manager = make_manager()
    place = manager.put(shared)
    lanes = max(1, int(manager.resources()["total"].get("cpu", 1)))
    size = 1
    open_tasks: list[str] = []
    try:
        while next_number < count or open_tasks:
            while next_number < count and len(open_tasks) < 2 * lanes:
                # Towards the end smaller, so that all lanes end together.
                now = max(1, min(size, -(-(count - next_number) // lanes)))
                numbers = range(next_number, min(next_number + now, count))
                open_tasks.append(manager.submit_task(_run, work, place, numbers, timeout=timeout))
                next_number = numbers.stop
            task_id = open_tasks[0]
            results, seconds = manager.get_result(task_id)
            manager.drop([open_tasks.pop(0)])
            each = max(seconds / len(results), 1e-6)
            size = int(min(max(1, SECONDS / each), size * _GROWTH))
            yield from results
    finally:
        manager.drop(open_tasks, cancel=True)


def _run(work: Callable[[Any, int], Any], shared: Any, numbers: Sequence[int]) -> tuple[list[Any], float]:
    started = time.perf_counter()
    return [work(shared, number) for number in numbers], time.perf_counter() - started
