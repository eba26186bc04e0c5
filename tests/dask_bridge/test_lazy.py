"""Dask DataFrames stay where they are: what goes through them never passes through the driver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = """
import resource, sys
import dask.dataframe
import dask_bridge
from compute import load_config
from compute.config import ComputeSection
from tests.dask_bridge.test_lazy import ROWS, extremes, make, scaled

section = ComputeSection(backend="dask", dask_address=sys.argv[1])
with dask_bridge.get_compute_manager(config=load_config().model_copy(update={"compute": section})) as manager:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frame = dask.dataframe.from_map(make, range(8))
    found = dask_bridge.distributed_apply(extremes, frame, manager=manager, combine=lambda all: (len(all), max(all)))
    lazy = dask_bridge.distributed_transform(scaled, frame, 2.0)
    total = lazy["value"].sum().compute()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(found, float(total), grown)
"""
ROWS = 3_000_000


def make(number: int) -> object:
    """A partition of 48 MB."""
    import numpy as np
    import pandas as pd

    return pd.DataFrame({"value": np.full(ROWS, float(number)), "other": np.zeros(ROWS)})


def extremes(part: object) -> float:
    return float(part["value"].max())  # type: ignore[index]


def scaled(part: object, factor: float) -> object:
    return part * factor  # type: ignore[operator]


@pytest.mark.slow
def test_the_driver_stays_small(dask_processes: str) -> None:
    command = [sys.executable, "-c", DRIVER, dask_processes]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
    assert run.returncode == 0, run.stderr[-3000:]
    found, total, grown = run.stdout.rsplit("\n", 2)[-2].rsplit(" ", 2)
    assert found == "(8, 7.0)"
    assert float(total) == 2.0 * sum(range(8)) * ROWS
    # In kilobytes: less than one partition of the eight, which are 384 MB.
    assert int(grown) < 40_000
