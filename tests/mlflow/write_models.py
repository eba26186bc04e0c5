"""Write models as MLflow itself writes them, and what MLflow predicts with them.

``.venv-mlflow/bin/python -m tests.mlflow.write_models tests/registry/mlflow_models`` makes anew what `make test` reads
where there is no MLflow.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import xgboost
from mlflow.models import infer_signature
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression

ROWS = pd.DataFrame({"amount": [0.5, 1.5, 2.5, 3.5] * 15, "count": [1, 2, 3] * 20})
AMOUNT = ROWS["amount"] * 2 + ROWS["count"]
LATE = (AMOUNT.median() < AMOUNT).astype(int)
WORD = LATE.map({0: "fine", 1: "late"})
SHOWN = ROWS[:12]
"""The rows whose predictions are written down."""


def write_models(directory: Path) -> dict[str, list[Any]]:
    """Write a directory for each kind of model; returns what MLflow predicts for `SHOWN`, by its name."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    described = infer_signature(ROWS, AMOUNT)
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(ROWS, AMOUNT), 2)
    mlflow.xgboost.save_model(booster, directory / "xgboost", signature=described, metadata={"team": "ops"})
    mlflow.xgboost.save_model(booster, directory / "xgboost-json", signature=described, model_format="json")
    classifier = xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(ROWS, LATE)
    mlflow.xgboost.save_model(classifier, directory / "xgboost-estimator", signature=infer_signature(ROWS, LATE))
    options = {"verbosity": -1, "num_threads": 1}
    light = lightgbm.train(options, lightgbm.Dataset(ROWS, AMOUNT), 2)
    mlflow.lightgbm.save_model(light, directory / "lightgbm", signature=described)
    estimator = lightgbm.LGBMClassifier(
        n_estimators=2, learning_rate=1.0, min_child_samples=5, verbosity=-1, n_jobs=1
    ).fit(ROWS, WORD)
    mlflow.lightgbm.save_model(estimator, directory / "lightgbm-estimator", signature=infer_signature(ROWS, WORD))
    logistic = LogisticRegression().fit(ROWS, WORD)
    signature = infer_signature(ROWS, WORD)
    for kind in ("skops", "cloudpickle"):
        mlflow.sklearn.save_model(
            logistic, directory / f"sklearn-{kind}", serialization_format=kind, signature=signature
        )
    matrix = ROWS.to_numpy("float32")
    exported = to_onnx(LogisticRegression().fit(matrix, LATE), matrix[:1], options={"zipmap": False})
    mlflow.onnx.save_model(exported, directory / "onnx", signature=infer_signature(matrix, LATE.to_numpy()))
    for left in directory.glob("*/*"):  # how to build an environment, of which the import reads nothing
        if left.suffix in (".yaml", ".txt"):
            left.unlink()
    return {path.name: _predict(path) for path in sorted(directory.iterdir()) if path.is_dir()}


def _predict(path: Path) -> list[Any]:
    model = mlflow.pyfunc.load_model(str(path))
    found = model.predict(SHOWN.to_numpy("float32"))["label"] if path.name == "onnx" else model.predict(SHOWN)
    return np.asarray(found).tolist()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    predictions = write_models(target)
    (target / "predictions.json").write_text(json.dumps(predictions, indent=1) + "\n", encoding="utf-8")
    for large in ("lightgbm-estimator",):
        shutil.rmtree(target / large)
