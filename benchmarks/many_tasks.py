"""A million small tasks through one manager: what it keeps of them, and whether it slows down."""

from __future__ import annotations

import statistics
import time

import psutil

from benchmarks.table import Row
from benchmarks.tasks import WORKERS, nothing
from compute import ComputeManager, load_config
from compute.backend import Backend
from compute.local_backend import LocalBackend

COUNT = 1_000_000
QUICK = 20_000
PARTS = 20


def run(*, quick: bool = False) -> list[Row]:
    """Measure `map` over many items, part by part."""
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
        for _ in range(PARTS):
            began = time.perf_counter()
            for _ in range(count // PARTS):
                next(results)
            rates.append(count / PARTS / (time.perf_counter() - began))
            memory.append(process.memory_info().rss)
    # The first part starts the workers. Medians: Ray starts others now and then, which takes seconds of both cores.
    start, end = statistics.median(rates[1:6]), statistics.median(rates[-5:])
    return [
        Row(f"{engine}: map over {count:,}, 2nd to 6th of {PARTS} parts", start, "tasks/s"),
        Row(f"{engine}: the last five", end, "tasks/s", end / start, 0.9),
        Row(f"{engine}: the slowest part but the first", min(rates[1:]), "tasks/s", min(rates[1:]) / start),
        Row(f"{engine}: growth of this process, 2nd to last part", (memory[-1] - memory[1]) / 2**20, "MiB", limit=20),
    ]
