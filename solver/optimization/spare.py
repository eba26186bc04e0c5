"""CPUs of this node that nobody uses, taken for a while: for work that may use them, and need not.

On Ray they are held by an actor of this process, and go with it. Without Ray, what is idle is measured.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from jobs.cluster import free_cpus
from jobs.node import cores

Give = Callable[[], None]

_SHARES = (1.0, 0.5)
"""Of a CPU: half a one is better than none, where others hold tenths for good."""
_MEASURED = 0.5
_BUSY_SOON = 3.0
"""Seconds until what was taken shows in the measurement."""
_LOOK = 0.1

_lock = threading.Lock()
_taken: list[float] = []


def take_cpu(wanted: Callable[[], bool]) -> Give | None:
    """Take an idle CPU of this node.

    Parameters
    ----------
    wanted : callable
        Whether it is still needed: where another was quicker, a CPU is waited for as long as that.

    Returns
    -------
    callable or None
        Gives it back; None when there is none.
    """
    ray: Any = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return _of_ray(ray, wanted)
    return _of_machine()


class _Holder:
    """An actor that does nothing with its CPU."""

    def ready(self) -> None:
        """Answer, which says that it has it."""


def _of_ray(ray: Any, wanted: Callable[[], bool]) -> Give | None:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = ray.get_runtime_context().get_node_id()
    free = free_cpus().get(node, 0.0)
    share = next((share for share in _SHARES if share <= free), None)
    if share is None:
        return None
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    holder = ray.remote(_Holder).options(num_cpus=share, max_restarts=0, scheduling_strategy=here).remote()
    # Not by `ray.wait`: a task that waits lends its own CPU, and would be given that.
    ready = holder.ready.remote().future()
    give: Give = functools.partial(ray.kill, holder)
    while not ready.done():
        if not wanted():
            give()
            return None
        time.sleep(_LOOK)
    if ready.exception() is not None:
        return None
    return give


def _of_machine() -> Give | None:
    import psutil

    with _lock:
        busy = psutil.cpu_percent(_MEASURED) / 100 * (psutil.cpu_count() or 1)
        now = time.monotonic()
        _taken[:] = [at for at in _taken if now - at < _BUSY_SOON]
        if cores() - busy - len(_taken) < _SHARES[-1]:
            return None
        _taken.append(now)
    return _nothing


def _nothing() -> None:
    """Give back what was not held."""
