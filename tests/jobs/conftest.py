"""Real tables that the tests of this room share."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import datasets as bundled

from compute import load_config
from jobs import MLTasks, get_ml_tasks
from jobs.datasets import read_flights

FLIGHT_FEATURES = ["month", "sched_dep_time", "dep_delay", "carrier", "origin", "dest", "distance", "time_hour"]


@pytest.fixture(scope="session")
def flights_table() -> pa.Table:
    """A twelfth of the flights of 2013 from New York, as they come: 28,065 rows with nulls, text and times."""
    table = read_flights()
    return table.take(list(range(0, table.num_rows, 12)))


@pytest.fixture(scope="session")
def flights_file(flights_table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as Parquet in row groups of 5,000."""
    path = tmp_path_factory.mktemp("flights") / "flights.parquet"
    pq.write_table(flights_table, path, row_group_size=5_000)
    return path


@pytest.fixture(scope="session")
def flights(flights_table: pa.Table) -> pd.DataFrame:
    """The same as a frame, without the flights that never arrived."""
    return flights_table.to_pandas().dropna(subset=["arr_delay"]).reset_index(drop=True)


@pytest.fixture(scope="session")
def bundle() -> dict[str, pd.DataFrame]:
    """scikit-learn's bundled tables, the target in the column `target`, as text where it is a class."""
    frames = {}
    for name in ("breast_cancer", "diabetes", "wine", "iris"):
        data = getattr(bundled, f"load_{name}")(as_frame=True)
        frame = data.frame.copy()
        if name != "diabetes":
            frame["target"] = [str(data.target_names[place]) for place in data.target]
        frames[name] = frame
    return frames


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> MLTasks:
    """The facade, with state of the module's own: where Ray is connected, every state has an actor."""
    default = load_config()
    storage = default.storage.model_copy(update={"uri": tmp_path_factory.mktemp("state").as_uri()})
    return get_ml_tasks(default.model_copy(update={"storage": storage}))
