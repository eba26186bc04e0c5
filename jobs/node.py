"""What this process may use of its machine: threads and memory.

Ray is looked at only when something else has imported it; psutil is imported inside the function.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from compute import Config

_CGROUP = Path("/sys/fs/cgroup")
# A submitted job's driver inherits OMP_NUM_THREADS=1 from Ray's supervisor actor, which says nothing about the driver.
_IN_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass(frozen=True)
class Memory:
    """Bytes: what the node (or the container) has, and what is free of it now."""

    limit: int
    available: int


def threads(config: Config) -> int:
    """Return how many threads this process may compute with.

    In a Ray task or actor, the CPUs Ray gave it; else the cores this process may run on, less what the container,
    ``OMP_NUM_THREADS`` and ``compute.cpu_limit`` forbid.

    Examples
    --------
    >>> from compute import load_config
    >>> threads(load_config()) >= 1
    True
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        context = ray.get_runtime_context()
        if context.worker.mode == ray.WORKER_MODE:
            return max(1, int(context.get_assigned_resources().get("CPU", 0)))
    limits = [float(cores())]
    if config.compute.cpu_limit:
        limits.append(config.compute.cpu_limit)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and _IN_RAY_JOB not in os.environ:
        limits.append(float(asked))
    return max(1, int(min(limits)))


def cores() -> int:
    """Return how many cores this process may run on, whatever else it was told.

    Examples
    --------
    >>> cores() >= 1
    True
    """
    count = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = _read("cpu.max")
    if quota and not quota.startswith("max"):
        share, period = quota.split()
        count = min(count, int(share) / int(period))
    return max(1, int(count))


def memory() -> Memory:
    """Return the memory of this node, or of the container the process is in.

    Examples
    --------
    >>> memory().limit >= memory().available > 0
    True
    """
    import psutil

    machine = psutil.virtual_memory()
    limit, available = int(machine.total), int(machine.available)
    for maximum, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        bound, current = _read(maximum), _read(used)
        # An unlimited cgroup says "max", or in version 1 a number larger than any machine.
        if bound.isdigit() and current.isdigit() and int(bound) < limit:
            limit = int(bound)
            cached = dict(line.split() for line in _read(stat).splitlines()).get("inactive_file", "0")
            available = min(available, max(0, limit - int(current) + int(cached)))
    return Memory(limit, available)


def _read(name: str) -> str:
    file = _CGROUP / name
    return file.read_text(encoding="ascii").strip() if file.is_file() else ""
