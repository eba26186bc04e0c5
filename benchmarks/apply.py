"""distributed_apply over 5,000,000 rows in 10 parts, next to the same written by hand with Ray."""

from __future__ import annotations

from typing import Any

from benchmarks.table import Row, in_turns
from compute import ComputeManager, distributed_apply, load_config
from compute.local_backend import LocalBackend

ROWS = 5_000_000
PARTS = 10
TURNS = 9
WORKERS = 2


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
    """Measure the serial, the hand-written and our way."""
    import numpy as np
    import pandas as pd
    import ray

    from compute.ray_backend import RayBackend

    turns = 1 if quick else TURNS
    random = np.random.default_rng(0)
    data = pd.DataFrame(random.standard_normal((ROWS, 3)), columns=["value", "b", "c"])
    size = ROWS // PARTS

    def serial() -> list[dict[str, float]]:
        return [statistics_of(data.iloc[start : start + size]) for start in range(0, ROWS, size)]

    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:

        @ray.remote
        def on_rows(whole: pd.DataFrame, start: int, stop: int) -> dict[str, float]:
            return statistics_of(whole.iloc[start:stop])

        def by_hand() -> list[dict[str, float]]:
            reference = ray.put(data)
            results: list[dict[str, float]] = ray.get(
                [on_rows.remote(reference, start, start + size) for start in range(0, ROWS, size)]
            )
            return results

        with ComputeManager(RayBackend(), load_config()) as manager:
            expected = by_hand()
            if distributed_apply(statistics_of, data, size, manager=manager) != expected:
                raise RuntimeError("distributed_apply and the hand-written tasks disagree")
            seconds = in_turns(
                {
                    "serial": serial,
                    "by hand": by_hand,
                    "ray": lambda: distributed_apply(statistics_of, data, size, manager=manager),
                },
                turns,
            )
    finally:
        ray.shutdown()
    with ComputeManager(LocalBackend(WORKERS), load_config()) as manager:
        seconds |= in_turns({"local": lambda: distributed_apply(statistics_of, data, size, manager=manager)}, turns)
    return [
        Row("in this process, part after part", seconds["serial"] * 1e3, "ms"),
        Row("ray.put and slices in the tasks, by hand", seconds["by hand"] * 1e3, "ms"),
        Row("distributed_apply on Ray", seconds["ray"] * 1e3, "ms", seconds["ray"] / seconds["by hand"], 1.2),
        Row(
            "distributed_apply on local processes", seconds["local"] * 1e3, "ms", seconds["local"] / seconds["by hand"]
        ),
    ]
