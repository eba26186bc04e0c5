"""Estimators that were fitted on a table are served without one, and answer as they did."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from registry import LoadedModel, ModelRegistry, get_model_registry
from tests.environment import local_config

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "weight": RNG.normal(size=400),
        "month": RNG.integers(0, 10, 400),
        "late": RNG.random(400) < 0.5,
        "distance": RNG.normal(size=400) * 100,
    }
)
AMOUNT = FRAME["distance"] * 3 + FRAME["weight"] ** 2
LABEL = np.where(AMOUNT + FRAME["month"] > 4, "late", "on time")
# Whoever sends rows may have the columns in another order, and so may the signature.
ORDER = ["late", "distance", "month", "weight"]

PLAIN: dict[str, Any] = {
    "linear": LinearRegression(),
    "logistic": LogisticRegression(),
    "pipeline": make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
    "forest": RandomForestClassifier(10, random_state=0),
    "histograms": HistGradientBoostingRegressor(max_iter=10),
    "vote": VotingClassifier([("one", LogisticRegression()), ("other", RandomForestClassifier(5, random_state=0))]),
    "calibrated": CalibratedClassifierCV(LogisticRegression()),
    "by number": make_pipeline(
        make_column_transformer((StandardScaler(), [0, 3]), (OneHotEncoder(), [1])), LogisticRegression()
    ),
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    return get_model_registry(local_config(tmp_path_factory.mktemp("unnamed").as_uri()))


def load(registry: ModelRegistry, estimator: Any) -> LoadedModel:
    target = AMOUNT if is_regressor(estimator) else LABEL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that are cut short
        estimator.fit(FRAME, target)
    return registry.load_model(registry.register_model(estimator, "any", example=FRAME[ORDER].head()), threads=1)


def check_same(one: LoadedModel, other: LoadedModel) -> None:
    for rows in (FRAME[ORDER].head(1), FRAME.head(50), FRAME.to_dict(orient="records")[:3]):
        expected, found = one.predict(rows), other.predict(rows)
        same = (expected == found) if expected.dtype == object else np.isclose(expected, found, rtol=1e-9, atol=0)
        assert same.all()
        if one.gives_probabilities:
            assert np.allclose(one.predict(rows, proba=True), other.predict(rows, proba=True), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", PLAIN)
def test_an_estimator_fitted_on_a_table_is_served_on_a_matrix(registry: ModelRegistry, kind: str) -> None:
    model = load(registry, PLAIN[kind])
    served = model.with_few_rows()
    assert served._unnamed is not None
    assert (served._few_rows is not None) == (kind in ("linear", "logistic", "forest", "histograms"))
    check_same(model, served)
    assert list(served.model.feature_names_in_) == list(FRAME.columns), "the native model is as it was"


def test_what_needs_a_table_gets_one(registry: ModelRegistry) -> None:
    giving_tables = StandardScaler().set_output(transform="pandas")
    model = load(registry, make_pipeline(giving_tables, LogisticRegression()))
    served = model.with_few_rows()
    assert served._unnamed is None
    check_same(model, served)


def test_columns_that_are_texts_stay_in_a_table(registry: ModelRegistry) -> None:
    table = FRAME.assign(carrier=RNG.choice(["AA", "UA"], 400))
    encoder = make_column_transformer((OneHotEncoder(), ["carrier"]), remainder="passthrough")
    model = make_pipeline(encoder, LogisticRegression(max_iter=1000)).fit(table, LABEL)
    loaded = registry.load_model(registry.register_model(model, "texts", example=table.head()), threads=1)
    served = loaded.with_few_rows()
    assert served._unnamed is None
    assert np.array_equal(served.predict(table.head(9)), model.predict(table.head(9)))
