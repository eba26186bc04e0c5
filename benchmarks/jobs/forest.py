"""A random forest of the flights over two workers: `train_model` next to scikit-learn under Ray's backend of joblib.

Each is whole: from a Parquet file to the error on held-out rows and a model that is kept; the cluster is up and warm.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd

from benchmarks.jobs.distributed import WORKERS, ray_cluster
from benchmarks.jobs.train import FEATURES, NAMED, TARGET, write
from benchmarks.table import Row, in_turns
from compute import Config, load_config
from jobs import train_model

TREES, TURNS = 20, 3
FOREST: dict[str, Any] = {"n_estimators": TREES, "min_samples_leaf": 5, "random_state": 0}


def run(*, quick: bool = False) -> list[Row]:
    """Measure in turns."""
    with tempfile.TemporaryDirectory() as directory, ray_cluster(WORKERS):
        folder = Path(directory)
        config = load_config()
        storage = config.storage.model_copy(update={"uri": (folder / "state").as_uri()})
        config = config.model_copy(update={"storage": storage})
        flights = write(folder, 20 if quick else 1, 1)
        work: dict[str, Callable[[], object]] = {
            "joblib": lambda: _by_joblib(flights, folder),
            "over workers": lambda: _ours(flights, config, distribute=True),
            "here": lambda: _ours(flights, config, distribute=False),
        }
        seconds = in_turns(work, 1 if quick else TURNS)
    joblib_seconds, over, here = seconds.values()
    return [
        Row(f"a forest by scikit-learn, joblib on Ray, {WORKERS} CPUs", joblib_seconds, "s"),
        Row(f"train_model, random_forest, {WORKERS} warm workers", over, "s", over / joblib_seconds, 1.0),
        Row(f"train_model, random_forest, one process, {WORKERS} threads", here, "s", here / joblib_seconds),
    ]


def _ours(file: Path, config: Config, *, distribute: bool) -> dict[str, Any]:
    params = {"n_estimators": TREES}
    return train_model(str(file), TARGET, FEATURES, "random_forest", params, distribute_data=distribute, config=config)


def _by_joblib(file: Path, folder: Path) -> float:
    """Read, encode, split, fit, measure and save, as the documentation of both shows it."""
    from ray.util.joblib import register_ray
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import train_test_split

    register_ray()  # type: ignore[no-untyped-call]
    frame = pd.read_parquet(file)
    for name in NAMED:
        frame[name] = frame[name].astype("category").cat.codes
    training, held = train_test_split(frame, test_size=0.2, random_state=0)
    forest = RandomForestRegressor(**FOREST, n_jobs=WORKERS)
    with joblib.parallel_config(backend="ray"):
        forest.fit(training[FEATURES], training[TARGET])
    forest.set_params(n_jobs=None)
    joblib.dump(forest, folder / "forest.joblib")
    return float(np.sqrt(np.mean((forest.predict(held[FEATURES]) - held[TARGET]) ** 2)))
