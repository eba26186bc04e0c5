"""32 trials of XGBoost on 50,000 rows, next to the same fits one after another, divided by the cores."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.table import Row, in_turns
from compute import ComputeManager, load_config
from compute.local_backend import LocalBackend
from jobs import tune_model

ROWS, FEATURES, TRIALS, TURNS = 50_000, 10, 32, 5
TARGET = 1.3
FIXED = {"n_estimators": 100}


def run(*, quick: bool = False) -> list[Row]:
    """Measure in turns; the parameters of the fits by hand are those of one study."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(ROWS // 10 if quick else ROWS, FEATURES)).astype("float32")
    target = (matrix[:, 0] * 2 + matrix[:, 1] ** 2 + rng.normal(size=len(matrix))).astype("float32")
    frame = pd.DataFrame(matrix, columns=[f"f{number}" for number in range(FEATURES)]).assign(y=target)
    config = load_config()
    with tempfile.TemporaryDirectory() as state, ComputeManager(LocalBackend(os.cpu_count() or 1)) as manager:
        config = config.model_copy(update={"storage": config.storage.model_copy(update={"uri": state})})

        def tune(*, prune: bool) -> list[dict[str, Any]]:
            trials: list[dict[str, Any]] = tune_model(
                frame, "y", trials=TRIALS, model_params=FIXED, prune=prune, manager=manager, config=config
            )["trials"]
            return trials

        params = [trial["params"] for trial in tune(prune=False)]
        work: dict[str, Any] = {
            "the fits alone": lambda: _by_hand(matrix, target, params),
            "tune_model, no trial given up": lambda: tune(prune=False),
            "tune_model": lambda: tune(prune=True),
        }
        seconds = in_turns(work, 1 if quick else TURNS)
    ideal = seconds["the fits alone"] / (os.cpu_count() or 1)
    rows = [Row(f"{TRIALS} fits one after another, divided by the cores", ideal, "s")]
    rows += [Row(name, seconds[name], "s", seconds[name] / ideal, TARGET) for name in list(work)[1:]]
    return rows


def _by_hand(matrix: np.ndarray[Any, Any], target: np.ndarray[Any, Any], params: list[dict[str, Any]]) -> None:
    import xgboost

    part = int(len(matrix) * 0.64)  # what a trial learns from: the rest is held back, twice
    for each in params:
        data = xgboost.QuantileDMatrix(matrix[:part], label=target[:part], nthread=1)
        xgboost.train({**each, "tree_method": "hist", "nthread": 1}, data, FIXED["n_estimators"])
