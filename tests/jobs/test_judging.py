"""Judging models: differences with their uncertainty, drift from the training rows, what predictions rest on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, mean_absolute_error, r2_score, roc_auc_score, root_mean_squared_error

from compute.errors import DataError, InvalidField
from jobs import MLTasks
from jobs.drift import population_stability
from jobs.paired import interval, losses_of, resample
from jobs.profile import profile_of
from registry import Column, Signature, encode, get_model_registry
from tests.jobs.conftest import FLIGHT_FEATURES


@pytest.fixture(scope="module")
def judged(tasks: MLTasks, flights: pd.DataFrame) -> MLTasks:
    """Models of the flights of January to June: good and poor ones, of amounts and of classes."""
    first = flights[flights["month"] <= 6]
    first = first.assign(late=np.where(first["arr_delay"] > 15, "late", "on time"))
    params = {"n_estimators": 20, "max_depth": 5}
    tasks.train_model(first, "arr_delay", FLIGHT_FEATURES, model_params=params, name="good")
    tasks.train_model(first, "arr_delay", ["distance", "carrier"], model_params=params, name="poor")
    tasks.train_model(first, "late", FLIGHT_FEATURES, "lightgbm", {"n_estimators": 20}, name="late")
    tasks.train_model(first, "late", ["carrier", "month"], "logistic", name="late-poor")
    tasks.train_model(first, "arr_delay", ["distance", "dep_delay", "carrier"], "linear", name="straight")
    tasks.train_model(first, "arr_delay", ["distance", "carrier"], "random_forest", {"n_estimators": 5}, name="woods")
    return tasks


def test_metrics_of_resamples_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=500)
    given = truth + rng.normal(size=500)
    found = resample([losses_of(truth, given, None)], 200, 0)
    assert found["rmse"][0][0] == pytest.approx(root_mean_squared_error(truth, given))
    assert found["mae"][0][0] == pytest.approx(mean_absolute_error(truth, given))
    assert found["r2"][0][0] == pytest.approx(r2_score(truth, given))
    places = (rng.random(500) < 0.3).astype(int)
    score = np.round(places * 0.2 + rng.random(500) * 0.8, 1)  # with ties
    found = resample([losses_of(places, np.column_stack([1 - score, score]), (0, 1))], 200, 0)
    assert found["roc_auc"][0][0] == pytest.approx(roc_auc_score(places, score))
    clipped = np.clip(score, np.finfo("float32").eps, 1 - np.finfo("float32").eps)
    assert found["log_loss"][0][0] == pytest.approx(log_loss(places, clipped), rel=1e-3)


@pytest.mark.parametrize("rows", [800, 40_000])
def test_intervals_are_as_wide_as_the_spread_of_the_mean(rows: int) -> None:
    """Also where groups of rows are drawn instead of rows."""
    rng = np.random.default_rng(1)
    truth, given = np.zeros(rows), rng.exponential(size=rows)
    bounds = interval(resample([losses_of(truth, given, None)], 2000, 0)["mae"][1][:, 0], 0.95)
    expected = 2 * 1.96 * given.std() / rows**0.5
    assert bounds["high"] - bounds["low"] == pytest.approx(expected, rel=0.1)


def test_auc_varies_as_resampling_says() -> None:
    rng = np.random.default_rng(2)
    places = (rng.random(300) < 0.4).astype(int)
    score = places * 0.3 + rng.random(300)
    draws = []
    for _ in range(1000):
        rows = rng.integers(0, 300, 300)
        draws.append(roc_auc_score(places[rows], score[rows]))
    found = resample([losses_of(places, np.column_stack([1 - score, score]), (0, 1))], 2000, 0)["roc_auc"][1]
    assert found.std() == pytest.approx(np.std(draws), rel=0.1)


def test_a_better_model_is_told_from_a_worse_one(judged: MLTasks, flights: pd.DataFrame) -> None:
    later = flights[flights["month"] > 6]
    found = judged.compare_models(["poor", "good", "poor:1"], later)
    better = {(item["model_id"], item["metric"]): item for item in found["differences"]}
    good, poor = (found["models"][place]["model_id"] for place in (1, 0))
    assert better[good, "rmse"]["better"] is True
    assert better[good, "rmse"]["low"] <= better[good, "rmse"]["difference"] <= better[good, "rmse"]["high"] < 0
    assert better[good, "rmse"]["p_value"] < 0.01
    # A model is no better and no worse than itself.
    assert better[poor, "rmse"]["better"] is None
    assert better[poor, "rmse"]["p_value"] == 1.0
    classes = judged.compare_models(
        ["late-poor", "late"], later.assign(late=np.where(later["arr_delay"] > 15, "late", "on time"))
    )
    assert {item["metric"]: item["better"] for item in classes["differences"]}["roc_auc"] is True
    measured = judged.evaluate_model("good", later)
    assert found["models"][1]["metrics"]["rmse"]["value"] == pytest.approx(measured["metrics"]["rmse"])
    assert measured["intervals"]["rmse"]["low"] < measured["metrics"]["rmse"] < measured["intervals"]["rmse"]["high"]


def test_what_cannot_be_compared_is_refused(judged: MLTasks, flights: pd.DataFrame) -> None:
    with pytest.raises(InvalidField, match="two models"):
        judged.compare_models(["good"], flights)
    with pytest.raises(DataError, match="do not predict the same"):
        judged.compare_models(["good", "late"], flights)
    with pytest.raises(InvalidField, match="At least 100"):
        judged.compare_models(["good", "poor"], flights, resamples=3)


def test_drift_by_month_is_in_the_months_and_the_season(judged: MLTasks, flights: pd.DataFrame) -> None:
    found = judged.measure_drift("good", flights, by="month", batch_size=1000)
    assert [group["value"] for group in found["groups"]] == list(range(1, 13))
    assert sum(group["rows"] for group in found["groups"]) == found["rows"] == len(flights)
    december = found["groups"][11]
    assert december["drifted"][:2] in (["month", "time_hour"], ["time_hour", "month"])
    assert december["features"]["distance"]["psi"] < 0.1
    assert december["features"]["time_hour"]["ks"] > 0.94  # of quantiles a twentieth apart
    assert december["features"]["time_hour"]["p_value"] < 1e-9
    # The training rows themselves, less those held back.
    same = judged.measure_drift("good", flights[flights["month"] <= 6])
    assert same["drifted"] == []
    assert max(item["psi"] for item in same["features"].values()) < 0.02


def test_drift_tells_missing_from_unknown(judged: MLTasks, flights: pd.DataFrame) -> None:
    first = flights[flights["month"] <= 6]
    half = len(first) // 2
    carrier = first["carrier"].astype(object)
    carrier.iloc[:half] = None
    carrier.iloc[half : half + 100] = "??"
    moved = first.assign(carrier=carrier, dep_delay=first["dep_delay"].where(first.index % 2 == 0))
    found = judged.measure_drift("good", moved)
    assert set(found["drifted"]) == {"carrier", "dep_delay"}
    assert found["features"]["carrier"]["missing"] == pytest.approx(half / len(first))
    assert found["features"]["carrier"]["unknown"] == pytest.approx(100 / len(first))
    # Against other rows than those of the training, it is the same question.
    again = judged.measure_drift("good", moved, reference=first)
    assert again["features"]["carrier"]["psi"] == pytest.approx(found["features"]["carrier"]["psi"], rel=0.2)
    assert judged.measure_drift("good", moved, reference=moved)["drifted"] == []


def test_the_index_is_that_of_its_definition() -> None:
    was, now = np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.4, 0.5])
    assert population_stability(was, now) == pytest.approx(sum((now - was) * np.log(now / was)))
    assert np.isfinite(population_stability(np.array([0.0, 1.0]), np.array([1.0, 0.0])))


def test_a_profile_is_small_whatever_the_table() -> None:
    rng = np.random.default_rng(0)
    columns = tuple(Column(name=f"f{number}", dtype="float") for number in range(5000))
    profile = profile_of(rng.normal(size=(300, 5000)).astype("float32"), Signature(columns=columns))
    assert len(str(profile)) < 256 * 1024
    assert len(profile["features"]) == 200


@pytest.mark.parametrize("name", ["good", "late", "straight", "woods", "late-poor"])
def test_importances_name_what_matters(judged: MLTasks, flights: pd.DataFrame, name: str) -> None:
    frame = flights.assign(late=np.where(flights["arr_delay"] > 15, "late", "on time"))
    found = judged.feature_importance(name, frame, rows=3000, repeats=3)
    assert found["rows"] == 3000
    if name not in ("woods", "late-poor"):
        assert found["permutation"][0]["feature"] == "dep_delay"
        assert found["permutation"][0]["importance"] > 10 * found["permutation"][0]["std"]
        assert found["shap"][0]["feature"] == "dep_delay"
    if name == "woods":
        assert found["shap"] is None
        assert "not for a random_forest" in found["shap_reason"]


@pytest.mark.parametrize("name", ["straight", "late-poor"])
def test_shap_values_of_a_linear_model_add_up_to_its_prediction(
    judged: MLTasks, flights: pd.DataFrame, name: str
) -> None:
    from jobs.linear_shap import explain_linear

    model: Any = get_model_registry(judged.config).load_model(name)
    matrix = encode(flights.head(200), model.record.signature, model.dtype)
    values = explain_linear(model.model, matrix)
    assert values is not None
    raw = model.model.predict(matrix) if name == "straight" else model.model.decision_function(matrix)
    np.testing.assert_allclose(values.sum(axis=1), raw - raw.mean(), atol=1e-8)
