"""A model that is registered with an example predicts, once it is kept, what it predicted before, or is refused."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from compute.errors import UnsupportedFormat
from registry import ModelRegistry

ROWS = 300
_random = np.random.default_rng(7)
FRAME = pd.DataFrame(
    {
        "distance": _random.integers(50, 3000, ROWS),
        "delay": np.where(_random.random(ROWS) < 0.1, np.nan, _random.normal(size=ROWS)),
        "carrier": pd.Series(_random.choice(["AA", "DL", "UA"], ROWS)).where(_random.random(ROWS) > 0.05),
        "holiday": _random.random(ROWS) < 0.3,
    }
)
AMOUNT = FRAME["distance"].to_numpy() * 0.01 + _random.normal(size=ROWS)


def test_what_would_predict_something_else_once_it_is_kept_is_refused(local_registry: ModelRegistry) -> None:
    numbers = FRAME[["distance"]].assign(delay=FRAME["delay"].fillna(0).clip(lower=0))
    zero_is_missing = xgboost.XGBRegressor(n_estimators=15, missing=0.0).fit(numbers, numbers["delay"] * 2)
    coded = numbers.assign(line=pd.Categorical(np.arange(ROWS) % 3))
    steps = ColumnTransformer([("line", OneHotEncoder(handle_unknown="ignore"), ["line"])], remainder="passthrough")
    by_number = make_pipeline(steps, Ridge()).fit(coded, coded["line"].astype(int) * 100.0)
    for model, example in ((zero_is_missing, numbers), (by_number, coded)):
        with pytest.raises(UnsupportedFormat, match="predicts something else: of row") as refused:
            local_registry.register_model(model, "other", name="other", example=example)
        assert refused.value.context["row"] >= 0
    assert not local_registry.list_models(name="other")


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("example", ["as text", "one row", "another order, sorted"])
def test_the_codes_of_categories_are_those_of_the_model_whatever_the_example(
    local_registry: ModelRegistry, library: str, example: str
) -> None:
    carrier = pd.Categorical(FRAME["carrier"].fillna("none"), categories=["UA", "none", "AA", "DL"])
    table = pd.DataFrame({"distance": FRAME["distance"], "carrier": carrier})
    model: Any = (
        xgboost.XGBClassifier(n_estimators=5, enable_categorical=True)
        if library == "xgboost"
        else lightgbm.LGBMClassifier(n_estimators=5, verbose=-1)
    )
    model.fit(table, (table["carrier"] == "UA").astype(int))
    given = table.astype({"carrier": object})
    if example == "one row":
        given = given.head(1)
    elif example == "another order, sorted":
        given = given.sort_values("carrier").astype({"carrier": "category"})
    loaded = local_registry.load_model(local_registry.register_model(model, "codes", example=given))
    assert np.allclose(loaded.predict(table, proba=True), model.predict_proba(table), rtol=1e-5)
    assert (loaded.predict(table) == model.predict(table)).all()


def test_a_regressor_with_the_loss_of_a_classifier_stays_one(local_registry: ModelRegistry) -> None:
    numbers = FRAME[["distance"]]
    for model in (
        xgboost.XGBRegressor(objective="binary:logistic", n_estimators=5),
        lightgbm.LGBMRegressor(objective="cross_entropy", n_estimators=5, verbose=-1),
    ):
        model.fit(numbers, (FRAME["distance"] > 1000).astype(int))
        loaded = local_registry.load_model(local_registry.register_model(model, "chance", example=numbers))
        assert np.allclose(loaded.predict(numbers), model.predict(numbers), rtol=1e-5)


def test_answers_of_another_shape_are_refused(local_registry: ModelRegistry) -> None:
    numbers = FRAME[["distance"]]
    several = np.column_stack([FRAME["distance"] > 1000, FRAME["holiday"]]).astype(int)
    model = xgboost.XGBClassifier(n_estimators=5).fit(numbers, several)
    with pytest.raises(UnsupportedFormat, match="gives one value a row, and it gives 2 values"):
        local_registry.register_model(model, "several", example=numbers)


def test_what_predicts_the_same_once_it_is_kept_is_taken(local_registry: ModelRegistry) -> None:
    carriers = FRAME.assign(
        carrier=FRAME["carrier"].fillna("none").astype("category"), line=pd.Categorical(FRAME.index % 3)
    )
    for model in (
        xgboost.XGBClassifier(n_estimators=5, enable_categorical=True),
        lightgbm.LGBMClassifier(n_estimators=5, verbose=-1),
    ):
        model.fit(carriers, (AMOUNT > 10).astype(int))
        known = local_registry.load_model(local_registry.register_model(model, "same", example=carriers))
        assert np.allclose(known.predict(carriers, proba=True), model.predict_proba(carriers), rtol=1e-5)
