"""Tasks on a Dask cluster next to plain distributed, and a groupby of 10,000,000 rows next to plain ray.util.dask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.table import Row, in_turns
from compute import ComputeManager, load_config

COUNT = 1_000
ROUND_TRIPS = 50
TURNS = 7
WORKERS = 2
ROWS = 10_000_000
PARTITIONS = 10
RATE, ROUND_TRIP, GROUPBY = 0.9, 1.1, 1.1


def nothing(number: int) -> int:
    """Do nothing; the work of a task here."""
    return number


def run(*, quick: bool = False) -> list[Row]:
    """Measure both, one engine after the other."""
    turns = 1 if quick else TURNS
    return [*_tasks(turns), *_groupby(ROWS // 10 if quick else ROWS, turns)]


def _tasks(turns: int) -> list[Row]:
    import distributed

    from dask_bridge.backend import connect

    make: Any = distributed.LocalCluster
    with make(n_workers=WORKERS, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        backend = connect(load_config(), address, "compute.dask_address")
        with ComputeManager(backend, load_config()) as manager, distributed.Client(address) as client:

            def plain_many() -> list[int]:
                futures = [client.submit(nothing, number, pure=False) for number in range(COUNT)]
                gathered: list[int] = client.gather(futures)
                return gathered

            def ours_many() -> list[int]:
                return manager.gather_results([manager.submit_task(nothing, number) for number in range(COUNT)])

            seconds = in_turns(
                {
                    "peer many": plain_many,
                    "many": ours_many,
                    "peer one": _several(lambda: client.submit(nothing, 1, pure=False).result()),
                    "one": _several(lambda: manager.get_result(manager.submit_task(nothing, 1))),
                },
                turns,
            )
    rate, peer_rate = COUNT / seconds["many"], COUNT / seconds["peer many"]
    trip, peer_trip = (seconds[name] / ROUND_TRIPS * 1e6 for name in ("one", "peer one"))
    return [
        Row(f"distributed: submit and gather, {COUNT} tasks", peer_rate, "tasks/s"),
        Row("Dask: submit_task and gather_results", rate, "tasks/s", rate / peer_rate, RATE),
        Row("distributed: one and its result", peer_trip, "us"),
        Row("Dask: submit_task and get_result", trip, "us", trip / peer_trip, ROUND_TRIP),
    ]


def _several(call: Callable[[], object]) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(ROUND_TRIPS):
            call()

    return repeat


def _groupby(rows: int, turns: int) -> list[Row]:
    import dask
    import dask.dataframe
    import numpy as np
    import pandas as pd
    import ray
    from ray.util.dask import ray_dask_get

    from dask_bridge.backend import connect

    frames: Any = dask.dataframe
    size = rows // PARTITIONS

    def part(number: int) -> pd.DataFrame:
        random = np.random.default_rng(number)
        return pd.DataFrame({"key": random.integers(0, 1000, size), "value": random.random(size)})

    def means() -> Any:
        frame = frames.from_map(part, range(PARTITIONS))
        return frame.groupby("key")["value"].mean()

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:

        def plain() -> Any:
            return means().compute(scheduler=ray_dask_get)

        with ComputeManager(connect(load_config(), None, "compute.dask_address"), load_config()):
            seconds = in_turns({"peer": plain, "ours": lambda: means().compute()}, turns)
    finally:
        ray.shutdown()
    ratio = seconds["ours"] / seconds["peer"]
    return [
        Row(f"ray.util.dask: groupby of {rows:,} rows", seconds["peer"], "s"),
        Row("dask_bridge on Ray: the same", seconds["ours"], "s", ratio, GROUPBY),
    ]
