"""Delays of the flights of 2013, 100 rounds of depth 8: `train_model` next to what people write by hand.

Each is whole: from a Parquet file to the error on held-out rows and a model that is kept.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.table import Row, in_turns
from compute import Config, load_config
from jobs import train_model
from jobs.datasets import read_flights

ROUNDS, DEPTH, TURNS = 100, 8, 5
GROUPS = 4
FEATURES = ["month", "day", "sched_dep_time", "sched_arr_time", "carrier", "flight", "origin", "dest", "distance"]
NAMED = ["carrier", "origin", "dest"]
TARGET = "arr_delay"
ONE_PROCESS = 1.5
XGBOOST = {"max_depth": DEPTH, "tree_method": "hist", "objective": "reg:squarederror"}


def run(*, quick: bool = False) -> list[Row]:
    """Measure in turns in this process, which has the libraries; then with 1, 10 and 100 times as many rows."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = load_config()
        storage = config.storage.model_copy(update={"uri": (folder / "state").as_uri()})
        config = config.model_copy(update={"storage": storage})
        rows = _compare(write(folder, 20 if quick else 1, 1), folder, config, 1 if quick else TURNS, "the flights")
        every = 200 if quick else 10
        for times in (1, 10) if quick else (1, 10, 100):
            what = f"{times} x one of {every} flights"
            rows += _compare(write(folder, every, times), folder, config, 1, what)
    return rows


def _compare(file: Path, folder: Path, config: Config, turns: int, what: str) -> list[Row]:
    seconds = in_turns({"plain": lambda: _plain(file, folder), "ours": lambda: _ours(file, config)}, turns)
    # One run of a few rows says nothing about a target.
    target = ONE_PROCESS if turns > 1 else None
    return [
        Row(f"XGBoost in one plain process, {what}", seconds["plain"], "s"),
        Row(f"train_model, {what}", seconds["ours"], "s", seconds["ours"] / seconds["plain"], target),
    ]


def write(folder: Path, every: int, times: int) -> Path:
    """Write one of so many flights, so many times over."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"flights-{every}-{times}.parquet"
    table = read_flights().select([*FEATURES, TARGET])
    table = table.filter(table[TARGET].is_valid())
    table = pa.concat_tables([table.take(np.arange(0, table.num_rows, every))] * times).combine_chunks()
    pq.write_table(table, path, row_group_size=-(-table.num_rows // GROUPS))
    return path


def _ours(file: Path, config: Config) -> dict[str, Any]:
    params = {"n_estimators": ROUNDS, "max_depth": DEPTH}
    return train_model(str(file), TARGET, FEATURES, "xgboost", params, distribute_data=False, config=config)


def _plain(file: Path, folder: Path) -> float:
    """Read, split, fit, measure and save, as in any notebook."""
    import xgboost

    frame = pd.read_parquet(file)
    frame[NAMED] = frame[NAMED].astype("category")
    held = np.random.default_rng(0).random(len(frame)) < 0.2
    training = xgboost.QuantileDMatrix(frame.loc[~held, FEATURES], frame.loc[~held, TARGET], enable_categorical=True)
    booster = xgboost.train(XGBOOST, training, ROUNDS)
    predicted = booster.inplace_predict(frame.loc[held, FEATURES])
    booster.save_model(folder / "plain.ubj")
    return float(np.sqrt(np.mean((predicted - frame.loc[held, TARGET]) ** 2)))
