"""What an exported model runs in MLflow: raw rows in, predictions out, as `registry.LoadedModel` gives them.

`registry.mlflow_export` copies this file beside the model, where neither this package nor its other modules are
installed: it imports NumPy, pandas, and the library of the model. MLflow has checked the rows against the types of the
model's signature by the time they are here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


class Predictor:
    """The model in a directory.

    Parameters
    ----------
    directory : str
        Where ``tablework.json`` and the model lie.
    """

    def __init__(self, directory: str) -> None:
        described = json.loads((Path(directory) / "tablework.json").read_text(encoding="utf-8"))
        self._signature = described["signature"]
        self._format = described["format"]
        path = str(Path(directory) / described["file"])
        if self._format == "xgboost-ubj":
            import xgboost

            self._model: Any = xgboost.Booster(model_file=path)
            learner = json.loads(self._model.save_config())["learner"]
            self._objective = learner["objective"]["name"]
            self._linear = learner["gradient_booster"]["name"] == "gblinear"
        elif self._format == "lightgbm-text":
            import lightgbm

            self._model = lightgbm.Booster(model_file=path)
        else:
            import skops.io

            self._model = skops.io.load(path, trusted=described["trusted"])

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Return labels or numbers; with ``params={"proba": True}`` the probability of each class.

        Parameters
        ----------
        model_input : DataFrame, or ndarray of encoded features
        params : dict, optional
            As above.
        """
        proba = bool((params or {}).get("proba", False))
        classes = self._signature["classes"] if self._signature is not None else None
        if proba and classes is None:
            raise ValueError("the model is a regression and has no probabilities")
        matrix = self._encode(model_input)
        if self._format == "sklearn-skops":
            table = self._named(matrix, model_input)
            if proba:
                return self._model.predict_proba(table)
            found = self._model.predict(table)
            return found if classes is None else _labels(classes)[np.searchsorted(self._model.classes_, found)]
        scores = self._model.predict(matrix) if self._format == "lightgbm-text" else self._boost(matrix)
        if classes is None:
            return scores
        if proba:
            return np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores
        return _labels(classes)[(scores > 0.5).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    def _encode(self, rows: Any) -> Any:
        """Return the matrix that the model was trained on."""
        import pandas as pd

        dtype = "float32" if self._format == "xgboost-ubj" else "float64"
        if self._signature is None or not isinstance(rows, pd.DataFrame):
            return np.asarray(rows, dtype=dtype)
        columns = self._signature["columns"]
        matrix = np.empty((len(rows), len(columns)), dtype=dtype)
        for position, column in enumerate(columns):
            values = rows[column["name"]]
            if column["categories"] is not None:
                codes = {text: code for code, text in enumerate(column["categories"])}
                matrix[:, position] = [codes.get(value, np.nan) for value in values]
            elif column["dtype"] == "datetime":
                times = values.to_numpy(dtype="datetime64[ns]")
                matrix[:, position] = np.where(np.isnat(times), np.nan, times.astype("int64") / 86_400e9)
            else:
                matrix[:, position] = values.to_numpy(dtype="float64", na_value=np.nan)
        return matrix

    def _named(self, matrix: Any, rows: Any) -> Any:
        """Give an estimator that was fitted on a table a table: its names, and categories as text."""
        import pandas as pd

        names = getattr(self._model, "feature_names_in_", None)
        if names is None or self._signature is None:
            return matrix
        frame = pd.DataFrame(matrix, columns=[column["name"] for column in self._signature["columns"]])
        for column in self._signature["columns"]:
            if column["categories"] is not None:
                texts = [value if isinstance(value, str) else None for value in rows[column["name"]]]
                frame[column["name"]] = pd.Series(texts, dtype=rows[column["name"]].dtype)
        return frame[list(names)]

    def _boost(self, matrix: Any) -> Any:
        import xgboost

        if self._linear:
            margins = self._model.predict(xgboost.DMatrix(matrix, feature_names=self._model.feature_names))
        else:
            best = self._model.attr("best_iteration")
            raw = self._objective in ("multi:softmax", "binary:logitraw")
            margins = self._model.inplace_predict(
                matrix,
                iteration_range=(0, 0) if best is None else (0, int(best) + 1),
                predict_type="margin" if raw else "value",
                validate_features=False,
            )
        if self._signature is None or self._signature["classes"] is None:
            return margins
        if self._objective == "binary:logitraw":
            return 1 / (1 + np.exp(-margins))
        if self._objective == "multi:softmax":
            powers = np.exp(margins - margins.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)
        return margins


def _labels(classes: list[Any]) -> Any:
    return np.array(classes, dtype=object if isinstance(classes[0], str) else None)


def _load_pyfunc(path: str) -> Predictor:
    """Load the model; the name is MLflow's."""
    return Predictor(path)
