"""Models from and to a real MLflow: what it writes is taken, what we write it loads, and both predict the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import mlflow
import numpy as np
import pandas as pd
import pytest
import xgboost
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from compute import load_config
from compute.errors import CapabilityMissing, UnsupportedFormat
from registry import ModelRegistry, capture_signature, encode, get_model_registry
from tests.mlflow.write_models import SHOWN, write_models

_random = np.random.default_rng(3)
ROWS = 120
TABLE = pd.DataFrame(
    {
        "distance": _random.integers(50, 3000, ROWS),
        "delay": np.where(_random.random(ROWS) < 0.1, np.nan, _random.normal(size=ROWS)),
        "carrier": _random.choice(["AA", "DL", "UA"], ROWS),
        "holiday": _random.random(ROWS) < 0.3,
        "departure": pd.Timestamp("2026-01-01") + pd.to_timedelta(_random.integers(0, 10**6, ROWS), unit="s"),
    }
)
AMOUNT = TABLE["distance"].to_numpy() * 0.01 + (TABLE["carrier"] == "UA") * 9
LABEL = np.where(np.median(AMOUNT) < AMOUNT, "late", "fine")
LEVEL = np.digitize(AMOUNT, np.quantile(AMOUNT, [0.3, 0.7]))
UNSEEN = TABLE.assign(carrier=["WN", "DL", None] * (ROWS // 3))


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    config = load_config()
    storage = config.storage.model_copy(update={"uri": (tmp_path / "state").as_uri()})
    return get_model_registry(config.model_copy(update={"storage": storage}))


def test_what_mlflow_writes_is_taken(registry: ModelRegistry, tmp_path: Path) -> None:
    predictions = write_models(tmp_path / "models")
    assert len(predictions) == 8
    for name, expected in predictions.items():
        if name == "sklearn-cloudpickle":
            with pytest.raises(UnsupportedFormat, match="pickle"):
                registry.import_mlflow(tmp_path / "models" / name)
            continue
        loaded = registry.load_model(registry.import_mlflow(tmp_path / "models" / name, name=name))
        found = loaded.predict(SHOWN.to_numpy() if name == "onnx" else SHOWN)
        if isinstance(expected[0], float):
            np.testing.assert_allclose(found, expected)
        else:
            assert found.tolist() == expected, name


def boosted(objective: str, target: Any, **params: Any) -> Any:
    signature = capture_signature(TABLE, "y", target)
    table = xgboost.DMatrix(
        encode(TABLE, signature), np.unique(target, return_inverse=True)[1] if signature.classes else target,
        feature_names=list(signature.feature_names), feature_types=list(signature.feature_types),
        enable_categorical=True,
    )  # fmt: skip
    return xgboost.train({"objective": objective, "nthread": 1, **params}, table, 5), signature


def light(objective: str, target: Any, **params: Any) -> Any:
    signature = capture_signature(TABLE, "y", target)
    data = lightgbm.Dataset(
        encode(TABLE, signature, "float64"), np.unique(target, return_inverse=True)[1] if signature.classes else target,
        feature_name=list(signature.feature_names), categorical_feature=list(signature.categorical),
    )  # fmt: skip
    return lightgbm.train({"objective": objective, "verbosity": -1, "num_threads": 1, **params}, data, 5), signature


def by_position(last: Any, target: Any) -> Any:
    """As the jobs make them: everything by the position of a column."""
    signature = capture_signature(TABLE, "y", target)
    steps = ColumnTransformer([("c", OneHotEncoder(handle_unknown="ignore"), [2])], remainder=SimpleImputer())
    return make_pipeline(SimpleImputer(keep_empty_features=True), steps, last).fit(
        encode(TABLE, signature, "float64"), target
    ), signature


MODELS = {
    "xgboost regression": lambda: boosted("reg:squarederror", AMOUNT),
    "xgboost labels": lambda: boosted("binary:logistic", LABEL),
    "xgboost margins": lambda: boosted("binary:logitraw", LABEL),
    "xgboost levels": lambda: boosted("multi:softmax", LEVEL, num_class=3),
    "lightgbm regression": lambda: light("regression", AMOUNT),
    "lightgbm labels": lambda: light("binary", LABEL),
    "lightgbm levels": lambda: light("multiclass", LEVEL, num_class=3),
    "forest by position": lambda: by_position(RandomForestClassifier(5, random_state=0), LABEL),
    "ridge by position": lambda: by_position(Ridge(), AMOUNT),
}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_raw_rows_give_the_same_in_mlflow(registry: ModelRegistry, tmp_path: Path, name: str) -> None:
    """Categories, times, labels and missing values are not lost."""
    model, signature = MODELS[name]()
    model_id = registry.register_model(model, "any", signature=signature, name="m")
    registry.export_mlflow("m", tmp_path / "exported")
    loaded, ours = mlflow.pyfunc.load_model(str(tmp_path / "exported")), registry.load_model(model_id)
    for rows in (TABLE, UNSEEN):
        if "carrier" in signature.feature_names and rows is UNSEEN:
            rows = rows.astype({"carrier": object})
        np.testing.assert_array_equal(loaded.predict(rows), ours.predict(rows))
        if signature.classes is not None:
            np.testing.assert_array_equal(loaded.predict(rows, params={"proba": True}), ours.predict(rows, proba=True))
    flavour = {"xgboost-ubj": mlflow.xgboost, "lightgbm-text": mlflow.lightgbm, "sklearn-skops": mlflow.sklearn}
    native = flavour[ours.record.format].load_model(str(tmp_path / "exported"))
    assert type(native) is type(ours.model)
    again = registry.get_model(registry.import_mlflow(tmp_path / "exported"))
    assert (again.artifact, again.signature) == (ours.record.artifact, ours.record.signature)
    with pytest.raises(mlflow.exceptions.MlflowException):
        loaded.predict(TABLE.drop(columns="carrier"))


def test_a_pipeline_on_a_table(registry: ModelRegistry, tmp_path: Path) -> None:
    table = TABLE[["carrier", "distance"]]
    steps = ColumnTransformer([("c", OneHotEncoder(handle_unknown="ignore"), ["carrier"])], remainder="passthrough")
    model = make_pipeline(steps, LogisticRegression(max_iter=5000)).fit(table, LABEL)
    model_id = registry.register_model(model, "logistic", example=table)
    registry.export_mlflow(model_id, tmp_path / "exported")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "exported"))
    other = table.assign(carrier=["WN", "DL", "UA"] * (ROWS // 3))
    for rows in (table, other):
        np.testing.assert_array_equal(loaded.predict(rows), model.predict(rows))
        np.testing.assert_array_equal(loaded.predict(rows, params={"proba": True}), model.predict_proba(rows))


def test_a_model_without_a_signature(registry: ModelRegistry, tmp_path: Path) -> None:
    matrix = TABLE[["distance"]].to_numpy("float64")
    model = Ridge().fit(matrix, AMOUNT)
    registry.export_mlflow(registry.register_model(model, "ridge"), tmp_path / "exported")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "exported"))
    np.testing.assert_array_equal(loaded.predict(matrix), model.predict(matrix))


def test_onnx(registry: ModelRegistry, tmp_path: Path) -> None:
    matrix = TABLE[["distance", "delay"]].fillna(0).to_numpy("float32")
    model = LogisticRegression().fit(matrix, LABEL)
    exported = to_onnx(model, matrix[:1], options={"zipmap": False})
    model_id = registry.register_model(exported, "onnx")
    registry.export_mlflow(model_id, tmp_path / "exported")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "exported"))
    found = loaded.predict(matrix)
    assert found["label"].tolist() == registry.load_model(model_id).predict(matrix).tolist()
    assert mlflow.onnx.load_model(str(tmp_path / "exported")).graph.name == exported.graph.name
    named = capture_signature(pd.DataFrame({"carrier": TABLE["carrier"], "delay": TABLE["delay"]}), "y", LABEL)
    model_id = registry.register_model(exported, "onnx", signature=named)
    with pytest.raises(CapabilityMissing, match="carrier"):
        registry.export_mlflow(model_id, tmp_path / "lossy")
    assert not (tmp_path / "lossy").exists()
