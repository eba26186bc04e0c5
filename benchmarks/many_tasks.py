"""A million small tasks through one manager: what it keeps of them, and whether it slows down."""

from __future__ import annotations

import time

import psutil

from benchmarks.table import Row
from benchmarks.tasks import WORKERS, nothing
from compute import ComputeManager, load_config
from compute.backend import Backend
from compute.local_backend import LocalBackend

COUNT = 1_000_000
QUICK = 20_000


def run(*, quick: bool = False) -> list[Row]:
    """Measure `map` over many items, tenth by tenth."""
    import ray

    from compute.ray_backend import RayBackend

    count = QUICK if quick else COUNT
    rows = _through("local", LocalBackend(WORKERS), count)
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        rows += _through("Ray", RayBackend(), count)
    finally:
        ray.shutdown()
    return rows


def _through(engine: str, backend: Backend, count: int) -> list[Row]:
    process = psutil.Process()
    rates, memory = [], []
    with ComputeManager(backend, load_config()) as manager:
        results = manager.map(nothing, range(count))
        for _ in range(10):
            began = time.perf_counter()
            for _ in range(count // 10):
                next(results)
            rates.append(count / 10 / (time.perf_counter() - began))
            memory.append(process.memory_info().rss)
    # The first tenth starts the workers; the second is the start.
    return [
        Row(f"{engine}: map over {count:,}, second tenth", rates[1], "tasks/s"),
        Row(f"{engine}: last tenth", rates[-1], "tasks/s", rates[-1] / rates[1], 0.9),
        Row(
            f"{engine}: growth of this process, second to last tenth", (memory[-1] - memory[1]) / 2**20, "MiB", limit=20
        ),
    ]
