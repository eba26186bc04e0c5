"""The models that all servers answer with: eight features, made-up data; one hundred trees, or a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compute import Config, load_config

FEATURES = 8
ROWS = 20_000


def data() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the training matrix and its target."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(ROWS, FEATURES)).astype("float32")
    return matrix, matrix[:, 0] * 2 + matrix[:, 1] ** 2 + np.sin(3 * matrix[:, 2])


def local_config(state: Path) -> Config:
    """Return the configuration of a registry on a directory, without a cluster."""
    config = load_config()
    return config.model_copy(
        update={
            "storage": config.storage.model_copy(update={"uri": str(state)}),
            "compute": config.compute.model_copy(update={"backend": "local"}),
        }
    )


def write_model(kind: str, path: Path) -> Any:
    """Train a model, keep it in a file for the peers, and return it."""
    matrix, target = data()
    if kind == "xgboost":
        import xgboost

        names = [f"f{number}" for number in range(FEATURES)]
        table = xgboost.DMatrix(matrix, label=target, feature_names=names)
        model = xgboost.train({"max_depth": 8, "tree_method": "hist"}, table, 100)
        model.save_model(path)
        return model
    import joblib

    if kind == "random_forest":
        from sklearn.ensemble import RandomForestClassifier

        model = RandomForestClassifier(100, min_samples_leaf=5, random_state=0, n_jobs=2).fit(matrix, target > 1)
        model.set_params(n_jobs=None)
    else:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(matrix.astype("float64"), target > 1)
    joblib.dump(model, path)
    return model


def read_model(path: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return what predicts with the model of a file: one thread, as suits a server."""
    if path.endswith(".ubj"):
        import xgboost

        booster = xgboost.Booster(model_file=path)
        booster.set_param({"nthread": 1})
        return lambda rows: booster.inplace_predict(rows, validate_features=False)
    import joblib

    estimator = joblib.load(path)  # as the peers' own pages have it; `write_model` wrote the file a moment ago
    return lambda rows: estimator.predict_proba(rows)
