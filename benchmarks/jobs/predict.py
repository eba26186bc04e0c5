"""`predict_batch`, Parquet to Parquet, beside one plain process and beside Ray Data as Ray's own example writes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.table import Row, in_turns
from compute import Config, load_config
from jobs import predict_batch, train_model
from jobs.datasets import read_flights
from registry import get_model_registry

FEATURES = ["month", "sched_dep_time", "dep_delay", "carrier", "origin", "dest", "distance", "time_hour"]
COPIES, GROWTH, TURNS = 6, 10, 5
"""Of the flights: 2,020,656 rows; and how many times that the large table has."""
SOME = 20
"""One of so many flights is enough to see that it works."""


def run(*, quick: bool = False) -> Iterator[Row]:
    """Measure in turns; the large table and Ray Data once each, in processes of their own."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        place = Path(directory)
        config = load_config()
        config = config.model_copy(
            update={"storage": config.storage.model_copy(update={"uri": (place / "s").as_uri()})}
        )
        params = {"n_estimators": 100, "max_depth": 8}
        every = SOME if quick else 1
        _write(place / "one.parquet", 1, every)
        train_model(str(place / "one.parquet"), "arr_delay", FEATURES, model_params=params, drop_null_target=True,
                    name="delay", config=config)  # fmt: skip
        copies = 1 if quick else COPIES
        data = place / "flights.parquet"
        rows = _write(data, copies, every)

        def ours(output: str) -> None:
            predict_batch("delay", str(data), output=str(place / output), key_columns=["flight"], overwrite=True,
                          config=config)  # fmt: skip

        work = {
            "one plain process, all threads": lambda: _plain(config, data, place / "plain.parquet"),
            "predict_batch to a file": lambda: ours("ours.parquet"),
            "predict_batch to a directory": lambda: ours("ours"),
        }
        seconds = in_turns(work, 1 if quick else TURNS)
        plain = seconds["one plain process, all threads"]
        found = [Row(f"{rows:,} rows: {name}", value, "s", value / plain, 1.0) for name, value in seconds.items()]
        found[0] = Row(found[0].name, plain, "s")
        yield from found
        yield from _against_ray_data(config, data, place, seconds["predict_batch to a directory"])
        if not quick:
            yield from _growth(config, data, place)


def _write(path: Path, copies: int, every: int) -> int:
    """Write one of so many flights, so many times over; gives the number of rows."""
    table = read_flights()
    table = table.take(np.arange(0, table.num_rows, every))
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(copies):
            writer.write_table(table, row_group_size=131_072)
    return int(table.num_rows * copies)


def _plain(config: Config, data: Path, output: Path) -> None:
    """Read, encode, predict, write: what a person writes, with the model loaded before."""
    model = get_model_registry(config).load_model("delay")
    signature = model.record.signature
    assert signature is not None
    frame = pq.read_table(data, columns=[*FEATURES, "flight"]).to_pandas()
    matrix = np.empty((len(frame), len(FEATURES)), dtype="float32")
    for place, column in enumerate(signature.columns):
        values = frame[column.name]
        if column.categories is not None:
            codes = {text: code for code, text in enumerate(column.categories)}
            matrix[:, place] = values.map(codes).to_numpy(dtype="float32", na_value=np.nan)
        elif column.dtype == "datetime":
            matrix[:, place] = values.dt.tz_localize(None).astype("datetime64[s]").astype("int64") / 86_400
        else:
            matrix[:, place] = values.to_numpy()
    predictions = model.model.inplace_predict(matrix)
    pq.write_table(pa.table({"flight": frame["flight"].to_numpy(), "prediction": predictions}), output)


RAY_DATA = """
import sys, time
import pandas as pd, ray, ray.data
from compute import load_config
from registry import get_model_registry
data, output, columns = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)

class Predictor:
    def __init__(self):
        self.model = get_model_registry(load_config()).load_model("delay", threads=1)

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"flight": batch["flight"], "prediction": self.model.predict(batch)})

def score():
    dataset = ray.data.read_parquet(data, columns=[*columns, "flight"])
    scored = dataset.map_batches(Predictor, batch_format="pandas", batch_size=4096, concurrency=1)
    scored.write_parquet(output)

score()  # warm
began = time.perf_counter()
score()
print(time.perf_counter() - began)
"""


def _against_ray_data(config: Config, data: Path, place: Path, ours: float) -> list[Row]:
    done = subprocess.run(
        [sys.executable, "-c", RAY_DATA, str(data), str(place / "ray"), ",".join(FEATURES)],
        capture_output=True, text=True, check=True, env=_environment(config), cwd=Path(__file__).parents[2],
    )  # fmt: skip
    ray_data = float(done.stdout.split()[-1])
    return [Row("the same by Ray Data's example; a quarter of it is the aim", ray_data, "s", 4 * ours / ray_data, 1.0)]


ALONE = """
import json, resource, sys, time
from jobs import predict_batch
predict_batch("delay", sys.argv[1], output=sys.argv[4], key_columns=["flight"], overwrite=True)
began = time.perf_counter()
predict_batch("delay", sys.argv[3], output=sys.argv[2], key_columns=["flight"], overwrite=True)
print(json.dumps([time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def _growth(config: Config, data: Path, place: Path) -> list[Row]:
    """Score tables of one, ten and a hundred times as many rows, each in a new process, for the peak of its memory."""
    large = place / "large"
    large.mkdir()
    for number in range(GROWTH):
        os.link(data, large / f"{number}.parquet")
    found = []
    for source in (place / "one.parquet", data, large):
        command = [
            sys.executable,
            "-c",
            ALONE,
            str(place / "one.parquet"),
            str(place / f"out-{source.name}"),
            str(source),
            str(place / f"warm-{source.name}"),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=_environment(config),
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        found.append(json.loads(done.stdout.splitlines()[-1]))
        time.sleep(1)
    (one, _), (small, small_peak), (much, much_peak) = found
    return [
        Row("a sixth of the rows", one, "s"),
        Row("2,020,656 rows in a process of its own", small, "s"),
        Row("ten times as many", much, "s", much / small, 11.0),
        Row("peak of its memory, next to that of a tenth of the rows", much_peak, "MiB", much_peak / small_peak, 1.1),
    ]


def _environment(config: Config) -> dict[str, Any]:
    return {**os.environ, "COMPUTE_STORAGE__URI": config.storage.uri}
