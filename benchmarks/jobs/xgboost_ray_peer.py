"""``python -m benchmarks.jobs.xgboost_ray_peer FILE TURNS``: the flights through `xgboost-ray`, in its own environment.

Prints the seconds of each turn, from the Parquet file to the error on held-out rows and a model that is kept; as its
documentation shows it: https://github.com/ray-project/xgboost_ray
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import ray
import xgboost_ray

from benchmarks.jobs.train import FEATURES, NAMED, ROUNDS, TARGET, XGBOOST

WORKERS = 2


def _whole(file: str, model: Path) -> float:
    frame = pd.read_parquet(file).dropna(subset=[TARGET])
    for name in NAMED:  # it does not carry pandas' categories to its actors
        frame[name] = frame[name].astype("category").cat.codes
    held = np.random.default_rng(0).random(len(frame)) < 0.2
    crew = xgboost_ray.RayParams(num_actors=WORKERS, cpus_per_actor=1)
    kinds = {"enable_categorical": True, "feature_types": ["c" if name in NAMED else "q" for name in FEATURES]}
    matrix, truth = frame[FEATURES].to_numpy("float32"), frame[TARGET].to_numpy("float32")
    data = xgboost_ray.RayDMatrix(matrix[~held], truth[~held], feature_names=FEATURES, **kinds)
    booster = xgboost_ray.train(XGBOOST, data, num_boost_round=ROUNDS, ray_params=crew)
    asked = xgboost_ray.RayDMatrix(matrix[held], feature_names=FEATURES, **kinds)
    predicted = xgboost_ray.predict(booster, asked, ray_params=crew)
    booster.save_model(model)
    return float(np.sqrt(np.mean((predicted - truth[held]) ** 2)))


def main(file: str, turns: int) -> None:
    """Measure on a cluster that is up, after a turn that is not counted."""
    os.environ.pop("RAY_ADDRESS", None)
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    seconds = []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(1 + turns):
            began = time.perf_counter()
            error = _whole(file, Path(directory, "model.ubj"))
            seconds.append(time.perf_counter() - began)
    ray.shutdown()
    print(json.dumps({"seconds": seconds[1:], "rmse": error}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
