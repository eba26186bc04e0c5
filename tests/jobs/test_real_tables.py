"""Real tables: each is learnt with defaults as well as by the library alone, and is predicted the same everywhere.

The tables of `TABLEWORK_TABLES` are scored beside the library's own estimator, with its defaults, on the same rows: a
score published for another split says as much about that split as about the model.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn import datasets as bundled
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import r2_score, roc_auc_score, root_mean_squared_error
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits
from xgboost import XGBClassifier, XGBRegressor

from compute import Config
from deployments.models_api import models_api
from deployments.scoring import Scorer
from deployments.tokens import Role, TokenStore
from jobs import MLTasks
from jobs.validation import held_back, make_validation
from registry import get_model_registry, open_store

TABLES = os.environ.get("TABLEWORK_TABLES")


@dataclass(frozen=True)
class Known:
    """A table, its target, the score to go by, and what the score of a model that knows something is."""

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

    def error(self, score: float) -> float:
        """What is missing from the best score there is, so that less is better for every metric."""
        return score if self.metric == "rmse" else 1 - score

    def alone(self, frame: pd.DataFrame, model_type: str) -> float:
        """Return the score of the library's own estimator, trained and measured on the same rows."""
        rows = frame.dropna(subset=[self.target])
        classes = self.metric in ("roc_auc", "accuracy")
        truth, _ = pd.factorize(rows[self.target], sort=True) if classes else (rows[self.target].to_numpy(), None)
        columns = {name: self.options.get(name) for name in ("group_col", "time_col")}
        by = next((name for name in columns.values() if name), None)
        how = make_validation(None, self.options.get("validation_fraction", 0.2), 0, **columns)
        held = held_back(how, truth if classes else None, rows[by] if by else None, len(rows))
        features = rows.drop(columns=[self.target, *self.options.get("exclude", []), *([by] if by else [])])
        for name in features.select_dtypes(exclude=["number", "bool"]):
            if features[name].dtype.kind == "M":
                features[name] = features[name].astype("int64")
                continue
            features[name] = features[name].astype("category")
            if model_type == "gradient_boosting":
                codes = features[name].cat.codes.astype("float64")
                features[name] = codes.where(codes >= 0)
        made = {
            "xgboost": (XGBClassifier if classes else XGBRegressor, {"enable_categorical": True}),
            "lightgbm": (LGBMClassifier if classes else LGBMRegressor, {"verbosity": -1}),
            # As it is trained here: categories are numbers, and no rows are held back to stop by.
            "gradient_boosting": (
                HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor,
                {"early_stopping": False},
            ),
        }
        kind, own = made[model_type]
        weights = compute_sample_weight(self.options.get("class_weight"), truth[~held])
        with threadpool_limits(1):  # threads of scikit-learn that wait for a busy core take it many times as long
            model = kind(random_state=0, **own).fit(features[~held], truth[~held], sample_weight=weights)
        known, asked = truth[held], features[held]
        if self.metric == "roc_auc":
            return float(roc_auc_score(known, model.predict_proba(asked)[:, 1]))
        predicted = np.asarray(model.predict(asked))
        if self.metric == "accuracy":
            return float(np.mean(predicted == known))
        return float(root_mean_squared_error(known, predicted) if self.metric == "rmse" else r2_score(known, predicted))


LEAKS = ["dep_delay", "dep_time", "arr_time", "air_time", "arr_delay"]
KNOWN = [
    Known("adult.parquet", "income", "roc_auc", 0.91, {"exclude": ["split"]}),
    Known("credit_default_taiwan.csv.gz", "default_payment", "roc_auc", 0.75),
    Known("telco_churn.csv.gz", "Churn", "roc_auc", 0.80, {"exclude": ["customerID"]}),
    Known("mushrooms.csv.gz", "type", "roc_auc", 0.999),
    Known("german_credit.csv.gz", "class_label", "roc_auc", 0.70),
    Known("california_housing.parquet", "MedHouseVal", "rmse", 0.50),
    Known("diamonds.csv.gz", "price", "rmse", 0.10, log=True),
    Known("bike_sharing_hourly.parquet", "cnt", "rmse", 47),
    Known("bike_sharing_hourly.parquet", "cnt", "rmse", 90, {"time_col": "dteday", "validation_fraction": 0.25}),
    Known("kaggle_house_prices_train.csv.gz", "SalePrice", "r2", 0.80),
    Known("abalone.csv.gz", "rings", "r2", 0.40),
    Known("wine_quality.csv.gz", "quality", "rmse", 0.70),
    Known("letter_recognition.csv.gz", "letter", "accuracy", 0.95),
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
@pytest.mark.timeout(1200)
@pytest.mark.skipif(TABLES is None, reason="TABLEWORK_TABLES does not name the directory of the tables")
@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm", "gradient_boosting"])
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known.file.partition('.')[0]}-{known.target}")
def test_a_table_is_learnt_with_defaults(
    known: Known, model_type: str, tasks: MLTasks, tmp_path: Path, record_property: Any
) -> None:
    frame = known.read()
    result = tasks.train_model(frame, known.target, model_type=model_type, **known.options)
    score, alone = result["metrics"][known.metric], known.alone(frame, model_type)
    record_property(known.metric, score)
    print(f"{known.file} {known.target} {model_type} {known.metric}={score:.4f} alone={alone:.4f}")
    assert known.error(score) <= known.error(known.floor)
    assert known.error(score) <= known.error(alone) * 1.02 + 1e-3
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
    """Through Python, after a reload, in batches, from a file and over HTTP."""
    loaded = np.asarray(get_model_registry(tasks.config).load_model(model_id).predict(frame))
    frame.to_parquet(tmp_path / "rows.parquet")
    tasks.predict_batch(model_id, str(tmp_path / "rows.parquet"), batch_size=700, output=str(tmp_path / "out.parquet"))
    for other in (
        tasks.predict_batch(model_id, frame),
        pd.read_parquet(tmp_path / "out.parquet")["prediction"],
        *asyncio.run(_over_http(model_id, frame, tasks.config)),
    ):
        if loaded.dtype.kind == "f":
            np.testing.assert_allclose(np.asarray(other, dtype="float64"), loaded, rtol=1e-6, atol=1e-6)
        else:
            assert list(other) == list(loaded)


async def _over_http(model_id: str, frame: pd.DataFrame, config: Config) -> list[list[Any]]:
    """Ask the application of the models for the predictions of a Parquet body, and of rows of JSON one by one."""
    registry = get_model_registry(config)
    token = TokenStore(open_store(config.storage.uri, config)).create("tables", Role.READ, timedelta(hours=1))
    app = models_api(registry, Scorer(registry), config, 1)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", timeout=120,
        headers={"Authorization": f"Bearer {token.secret}"},
    ) as client:  # fmt: skip
        found = []
        body = {"content": frame.to_parquet(), "headers": {"Content-Type": "application/vnd.apache.parquet"}}
        records = [{name: _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
        rows = {"content": json.dumps({"rows": records}), "headers": {"Content-Type": "application/json"}}
        for asked in (body, rows):
            answer = await client.post(f"/{model_id}/predict", **asked)
            assert answer.status_code == 200, answer.text
            found.append(answer.json()["predictions"])
        return found


def _plain(value: Any) -> Any:
    """What JSON has for a value of a frame: nothing that is missing, and times as text."""
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value
