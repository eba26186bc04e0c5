"""distributed_apply over 5,000,000 rows in 10 parts, next to Ray by hand, joblib, Dask futures and a process pool."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.table import Row, in_turns
from compute import ComputeManager, distributed_apply, load_config
from compute.local_backend import LocalBackend

ROWS = 5_000_000
PARTS = 10
SIZE = ROWS // PARTS
TURNS = 9
WORKERS = 2
TARGET = 1.15

Work = Callable[[], list[dict[str, float]]]


def statistics_of(part: Any) -> dict[str, float]:
    """Return what the README's example computes of a part."""
    value = part["value"]
    return {
        "mean": value.mean(),
        "std": value.std(),
        "min": value.min(),
        "max": value.max(),
        "count": len(part),
    }


def run(*, quick: bool = False) -> list[Row]:
    """Measure all of them in turns, their workers up and warm."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(0)
    data = pd.DataFrame(random.standard_normal((ROWS, 3)), columns=["value", "b", "c"])
    parts = [data.iloc[start : start + SIZE] for start in range(0, ROWS, SIZE)]
    expected = [statistics_of(part) for part in parts]
    with ExitStack() as stack:
        work: dict[str, Work] = {"serial": lambda: [statistics_of(part) for part in parts]}
        for opened in (_ray(data), _local(data), _joblib(parts), _dask(parts), _pool(parts)):
            work |= stack.enter_context(opened)
        for name, call in work.items():
            if call() != expected:
                raise RuntimeError(f"{name}: the statistics differ from those of one process")
        seconds = in_turns(work, 1 if quick else TURNS)
    ours = seconds["distributed_apply on Ray"]
    by_hand = seconds["ray.put and slices in the tasks, by hand"]
    return [
        Row("in this process, part after part", seconds.pop("serial") * 1e3, "ms"),
        *(
            Row(name, value * 1e3, "ms", value / by_hand, TARGET if value is ours else None)
            for name, value in seconds.items()
        ),
        *(
            Row(f"distributed_apply on Ray, of the time of {peer}", ours / seconds[peer], "x", limit=1.0)
            for peer in ("joblib (loky)", "Dask futures", "multiprocessing.Pool")
        ),
    ]


@contextmanager
def _ray(data: Any) -> Iterator[dict[str, Work]]:
    import ray

    from compute.ray_backend import RayBackend

    @ray.remote
    def on_rows(whole: Any, start: int, stop: int) -> dict[str, float]:
        return statistics_of(whole.iloc[start:stop])

    def by_hand() -> list[dict[str, float]]:
        whole = ray.put(data)
        results: list[dict[str, float]] = ray.get(
            [on_rows.remote(whole, start, start + SIZE) for start in range(0, ROWS, SIZE)]
        )
        return results

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        with ComputeManager(RayBackend(), load_config()) as manager:
            yield {
                "ray.put and slices in the tasks, by hand": by_hand,
                "distributed_apply on Ray": lambda: distributed_apply(statistics_of, data, SIZE, manager=manager),
            }
    finally:
        ray.shutdown()


@contextmanager
def _local(data: Any) -> Iterator[dict[str, Work]]:
    with ComputeManager(LocalBackend(WORKERS), load_config()) as manager:
        yield {
            "distributed_apply on local processes": lambda: distributed_apply(
                statistics_of, data, SIZE, manager=manager
            )
        }


@contextmanager
def _joblib(parts: list[Any]) -> Iterator[dict[str, Work]]:
    import joblib

    # As it is used: its workers stay from one call to the next, while what it lays in shared memory goes with a call.
    yield {
        "joblib (loky)": lambda: joblib.Parallel(WORKERS, backend="loky")(
            joblib.delayed(statistics_of)(part) for part in parts
        )
    }


@contextmanager
def _dask(parts: list[Any]) -> Iterator[dict[str, Work]]:
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):

        def futures() -> list[dict[str, float]]:
            scattered = client.scatter(parts, hash=False)
            results: list[dict[str, float]] = client.gather(client.map(statistics_of, scattered, pure=False))
            return results

        yield {"Dask futures": futures}


@contextmanager
def _pool(parts: list[Any]) -> Iterator[dict[str, Work]]:
    # Not fork: this process has threads by now.
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        yield {"multiprocessing.Pool": lambda: pool.map(statistics_of, parts, chunksize=1)}
