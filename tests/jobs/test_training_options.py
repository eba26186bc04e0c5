"""How training is measured and fitted: groups, times, folds, weights, constraints, early stopping, going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from compute import Config
from compute.errors import CapabilityMissing, ColumnInvalid, ColumnMissing, ComputeError, DataError, InvalidField
from jobs import MLTasks
from registry import get_model_registry, open_store

BOOSTERS = ("xgboost", "lightgbm", "gradient_boosting")
TYPES = (*BOOSTERS, "random_forest", "linear")
FEW: dict[str, Any] = {"n_estimators": 20}


def _params(model_type: str) -> dict[str, Any]:
    return {} if model_type in ("linear", "logistic") else FEW


@pytest.fixture(scope="module")
def visits() -> pd.DataFrame:
    """Sixty patients with ten visits each, of two outcomes; weights, times, text and gaps among the columns."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), 10)
    age, dose = rng.random(600) * 60, rng.random(600)
    score = age / 20 + dose + rng.normal(0, 0.2, 600) + patient / 60
    return pd.DataFrame(
        {
            "patient": patient,
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.permutation(600), unit="D"),
            "age": np.where(rng.random(600) < 0.05, np.nan, age),
            "dose": dose,
            "kind": rng.choice(["a", "b", None], 600),
            "weight": rng.random(600),
            "score": score,
            "ill": np.where(score > 3.2, "yes", "no"),
        }
    )


def _train(tasks: MLTasks, visits: pd.DataFrame, target: str = "score", **options: Any) -> dict[str, Any]:
    frame = visits.drop(columns={"score": "ill", "ill": "score"}[target])
    options.setdefault("model_params", _params(options.get("model_type", "xgboost")))
    return tasks.train_model(frame, target, **options)


# What is measured on was not trained on


@pytest.mark.parametrize("model_type", TYPES)
def test_groups_lie_on_one_side_and_nothing_is_learnt_of_them(
    model_type: str, visits: pd.DataFrame, tasks: MLTasks
) -> None:
    # Each patient has a word of its own: were one on both sides, its words would be among the categories.
    frame = visits.assign(word=[f"w{patient}" for patient in visits["patient"]])
    result = _train(tasks, frame, "ill", model_type=model_type, group_col="patient")
    assert "patient" not in result["features"]
    signature = get_model_registry(tasks.config).get_model(result["model_id"]).signature
    assert signature is not None
    words = next(column.categories for column in signature.columns if column.name == "word")
    assert words is not None
    assert result["training_rows"] == 10 * len(words) == 480
    assert result["validation_rows"] == 120


def test_the_latest_rows_are_held_back(visits: pd.DataFrame, tasks: MLTasks) -> None:
    frame = visits.sort_values("day").assign(month=lambda rows: rows["day"].dt.strftime("%Y-%m"))
    result = _train(tasks, frame, time_col="day", validation_fraction=0.25)
    assert "day" not in result["features"]
    signature = get_model_registry(tasks.config).get_model(result["model_id"]).signature
    assert signature is not None
    months = next(column.categories for column in signature.columns if column.name == "month")
    last = frame["day"].iloc[449]
    assert months == tuple(sorted(frame["month"][frame["day"] <= last].unique()))
    assert (result["training_rows"], result["validation_rows"]) == (450, 150)
    named = _train(tasks, frame, time_col="day", features=["day", "dose"])
    assert named["features"] == ["day", "dose"]


@pytest.mark.parametrize(
    "how", [{}, {"group_col": "patient"}, {"time_col": "day"}, {"validation": "random"}, {"validation": "stratified"}]
)
def test_folds_measure_and_the_model_is_trained_on_all_rows(
    how: dict[str, Any], visits: pd.DataFrame, tasks: MLTasks
) -> None:
    result = _train(tasks, visits, "ill", cross_validation=4, **how)
    told = result["report"]["cross_validation"]
    assert (result["training_rows"], result["validation_rows"], told["folds"]) == (600, 0, 4)
    assert told["rows"] == (480 if "time_col" in how else 600)
    assert told["mean"] == result["metrics"]
    assert 0 < told["std"]["log_loss"] < 0.3
    assert result["metrics"]["accuracy"] > result["metrics"]["baseline_accuracy"] + 0.1
    assert sum(map(sum, result["report"]["confusion"]["counts"])) == told["rows"]
    assert len(tasks.predict_batch(result["model_id"], visits)) == 600


def test_preprocessing_of_a_fold_knows_its_training_rows_alone(tasks: MLTasks) -> None:
    # Words that occur once are unknown in the fold that measures them: a leak would make them perfect predictors.
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"word": [f"w{i // 2}" for i in range(200)], "y": rng.normal(size=200)})
    frame["y"] = frame.groupby("word")["y"].transform("mean")
    leaky = tasks.train_model(frame, "y", ["word"], "linear", {"alpha": 0.01}, cross_validation=5)
    clean = tasks.train_model(frame, "y", ["word"], "linear", {"alpha": 0.01}, cross_validation=5, group_col="word")
    assert leaky["metrics"]["r2"] > 0.5
    assert clean["metrics"]["r2"] < 0.1


# How rows count


@pytest.mark.parametrize("model_type", TYPES)
def test_rows_of_weight_zero_are_as_if_they_were_not_there(
    model_type: str, visits: pd.DataFrame, tasks: MLTasks
) -> None:
    spoilt = visits.assign(score=visits["score"].where(visits["patient"] % 2 == 0, 100.0), weight=1.0)
    spoilt["weight"] = spoilt["weight"].where(visits["patient"] % 2 == 0, 0.0)
    result = _train(tasks, spoilt, model_type=model_type, weight_col="weight")
    assert "weight" not in result["features"]
    predicted = tasks.predict_batch(result["model_id"], visits)
    assert isinstance(predicted, pd.Series)
    assert predicted.max() < 10


@pytest.mark.parametrize("model_type", [*TYPES, "logistic"])
def test_class_weights_find_more_of_a_rare_class(model_type: str, visits: pd.DataFrame, tasks: MLTasks) -> None:
    frame = visits.assign(ill=np.where(visits["score"] > visits["score"].quantile(0.85), "yes", "no"))

    def found(**options: Any) -> int:
        features = ["dose", "kind"]
        result = _train(tasks, frame, "ill", model_type=model_type, features=features, **options)
        counts: list[list[int]] = result["report"]["confusion"]["counts"]
        return counts[1][1]

    plain, balanced, mapped = found(), found(class_weight="balanced"), found(class_weight={"yes": 20})
    assert plain < balanced
    assert plain < mapped


@pytest.mark.parametrize("model_type", [*BOOSTERS, "random_forest"])
@pytest.mark.parametrize("target", ["score", "ill"])
def test_predictions_only_rise_with_a_feature_that_is_held_monotone(
    model_type: str, target: str, visits: pd.DataFrame, tasks: MLTasks
) -> None:
    frame = visits.dropna(subset=["age"]).assign(dose=lambda rows: -rows["dose"])  # the data want it to fall
    rising = {"monotone_constraints": {"dose": 1}, "features": ["age", "dose"]}
    result = _train(tasks, frame, target, model_type=model_type, **rising)
    grid = pd.DataFrame({"age": 30.0, "dose": np.linspace(-1, 0, 50)})
    values = tasks.predict_batch(result["model_id"], grid, proba=target == "ill")
    steps = np.diff(np.asarray(values["probability_yes"] if target == "ill" else values))
    assert (steps >= -1e-7).all()


# Rounds


@pytest.mark.parametrize("model_type", BOOSTERS)
def test_training_stops_when_rounds_bring_nothing(model_type: str, visits: pd.DataFrame, tasks: MLTasks) -> None:
    many = {"n_estimators": 500, "learning_rate": 0.3}
    stopped = _train(tasks, visits, model_type=model_type, model_params=many, early_stopping=10)
    full = _train(tasks, visits, model_type=model_type, model_params=many)
    assert stopped["report"]["curve"]["rounds"][-1] < 200
    assert full["report"]["curve"]["rounds"][-1] == 500
    assert stopped["metrics"]["rmse"] < full["metrics"]["rmse"] * 1.1
    # The rows that say when to stop are none of those it is measured on.
    assert stopped["validation_rows"] == full["validation_rows"]
    evaluated = tasks.evaluate_model(stopped["model_id"], visits)
    assert evaluated["metrics"]["rmse"] < evaluated["metrics"]["baseline_rmse"] / 2


@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm"])
def test_a_training_with_checkpoints_leaves_none_and_learns_the_same(
    model_type: str, visits: pd.DataFrame, tasks: MLTasks
) -> None:
    store = open_store(tasks.config.storage.uri, tasks.config)
    kept = _train(tasks, visits, model_type=model_type, checkpoint_every=8)
    plain = _train(tasks, visits, model_type=model_type)
    assert kept["metrics"] == pytest.approx(plain["metrics"], rel=1e-3)
    assert kept["report"]["curve"]["rounds"][-1] == 20
    assert list(store.list("checkpoints/")) == []


@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm"])
def test_training_goes_on_from_a_registered_model(model_type: str, visits: pd.DataFrame, tasks: MLTasks) -> None:
    name, slow = f"grown-{model_type}", {"n_estimators": 10, "learning_rate": 0.1}
    first = _train(tasks, visits, "ill", model_type=model_type, model_params=slow, name=name)
    more = _train(
        tasks, visits, "ill", model_type=model_type, model_params={"n_estimators": 15}, continue_from=name, name=name
    )
    assert more["report"]["curve"]["rounds"][-1] == 25
    assert more["metrics"]["log_loss"] < first["metrics"]["log_loss"]
    record = get_model_registry(tasks.config).get_model(more["model_id"])
    assert record.version == 2
    assert record.lineage["parent"] == first["model_id"]
    assert record.lineage["parameters"] == {"learning_rate": 0.1, "n_estimators": 15}
    assert record.signature == get_model_registry(tasks.config).get_model(first["model_id"]).signature
    # In two steps or in one, the same trees.
    once = _train(tasks, visits, "ill", model_type=model_type, model_params={**slow, "n_estimators": 25})
    assert more["metrics"] == pytest.approx(once["metrics"], rel=1e-3)


def test_what_does_not_go_with_the_model_that_is_gone_on_from_is_named(visits: pd.DataFrame, tasks: MLTasks) -> None:
    _train(tasks, visits, "ill", name="base", features=["age", "kind"])
    cases: list[tuple[dict[str, Any], type[ComputeError], str]] = [
        ({"features": ["age", "dose"]}, ColumnMissing, "does not have the feature 'dose'"),
        ({"exclude": ["kind"]}, ColumnInvalid, "'kind', which is left out"),
        ({"model_type": "lightgbm"}, InvalidField, "xgboost"),
        ({"model_type": "linear"}, CapabilityMissing, "cannot go on"),
        ({"target": "score"}, InvalidField, "predicts 'ill', not 'score'"),
        ({"task": "multiclass"}, InvalidField, "binary model, not multiclass"),
        ({"model_params": {"objective": "binary:hinge"}}, InvalidField, "objective"),
        ({"visits": visits.drop(columns="kind")}, ColumnMissing, "'kind'"),
        ({"visits": visits.assign(ill=visits["ill"].replace("no", "nay"))}, ColumnInvalid, "the class 'nay'"),
        ({"visits": visits.assign(age="old")}, ColumnInvalid, "'age'"),
    ]
    for options, error, words in cases:
        with pytest.raises(error, match=words):
            _train(tasks, **{"visits": visits, "target": "ill", "continue_from": "base", **options})


# What is told


def test_the_report_is_kept_with_the_model_and_small(visits: pd.DataFrame, tasks: MLTasks) -> None:
    for target in ("score", "ill"):
        for model_type in TYPES:
            result = _train(tasks, visits, target, model_type=model_type)
            report = result["report"]
            record = get_model_registry(tasks.config).get_model(result["model_id"])
            assert json.loads(json.dumps(report)) == report == record.lineage["report"]
            assert len(json.dumps(report)) < 10_000
            assert set(report["importances"]) == set(result["features"])
            assert sum(report["importances"].values()) == pytest.approx(1, abs=1e-4)
            assert next(iter(report["importances"])) in ("age", "patient", "day")
            for metric, (low, high) in report["intervals"].items():
                assert low <= result["metrics"][metric] <= high, metric
            assert ("curve" in report) == (model_type in BOOSTERS)
            if model_type in BOOSTERS:
                curve = report["curve"]
                assert curve["validation"][-1] == pytest.approx(
                    result["metrics"]["rmse" if target == "score" else "log_loss"], rel=1e-4
                )
                assert curve["training"][0] > curve["training"][-1]
            if target == "score":
                assert report["residuals"]["0.05"] < report["residuals"]["0.5"] < report["residuals"]["0.95"]
            else:
                assert report["roc"]["true_positive_rate"][-1] == report["precision_recall"]["recall"][-1] == 1


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    from jobs.intervals import intervals

    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=300)
        predicted = truth + rng.normal(size=300)
        rmse = float(np.sqrt(np.mean((predicted - truth) ** 2)))
        low, high = intervals(truth, predicted, {"rmse": rmse}, seed)["rmse"]
        held += low <= 1 <= high
    assert 50 <= held <= 60


def test_intervals_of_many_rows_are_narrow() -> None:
    from jobs.intervals import intervals

    rng = np.random.default_rng(0)
    truth = rng.normal(size=160_000)
    low, high = intervals(truth, truth + rng.normal(size=160_000), {"rmse": 1.0}, 0)["rmse"]
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(2 * 160_000), rel=0.3)


# What cannot be asked


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"validation": "groups"}, InvalidField, "did you mean 'group'"),
        ({"validation": "group"}, InvalidField, "needs group_col"),
        ({"validation": "time", "group_col": "patient"}, InvalidField, "does not go with group_col"),
        ({"group_col": "patient", "time_col": "day"}, InvalidField, "Give one of them"),
        ({"validation": "stratified"}, InvalidField, "amounts"),
        ({"group_col": "pateint"}, ColumnMissing, "no group column 'pateint' .did you mean 'patient'"),
        ({"group_col": "kind"}, ColumnInvalid, "null in"),
        ({"time_col": "word"}, ColumnInvalid, "no times"),
        ({"group_col": "same"}, DataError, "only one value"),
        ({"cross_validation": 1}, InvalidField, "at least 2"),
        ({"cross_validation": 61, "group_col": "patient"}, DataError, "60 distinct values"),
        ({"weight_col": "wieght"}, ColumnMissing, "did you mean 'weight'"),
        ({"weight_col": "word"}, ColumnInvalid, "weights are numbers"),
        ({"weight_col": "minus"}, ColumnInvalid, "-1.0 in row 3"),
        ({"weight_col": "zero"}, ColumnInvalid, "weight 0"),
        ({"class_weight": "balanced"}, InvalidField, "amounts"),
        ({"monotone_constraints": {"dse": 1}}, ColumnMissing, "did you mean 'dose'"),
        ({"monotone_constraints": {"dose": 2}}, InvalidField, "may only rise"),
        ({"monotone_constraints": {"word": 1}}, ColumnInvalid, "categories without an order"),
        ({"monotone_constraints": {"dose": 1}, "model_type": "linear"}, CapabilityMissing, "monotone"),
        ({"early_stopping": 0}, InvalidField, "at least 1"),
        ({"early_stopping": 5, "model_type": "random_forest"}, CapabilityMissing, "cannot stop early"),
        ({"model_params": {"early_stopping_rounds": 5}}, InvalidField, "early_stopping=ROUNDS"),
        ({"checkpoint_every": 0}, InvalidField, "at least 1"),
        ({"checkpoint_every": 5, "model_type": "linear"}, CapabilityMissing, "checkpoint"),
        ({"checkpoint_every": 5, "cross_validation": 3}, InvalidField, "do not go together"),
        (
            {"early_stopping": 5, "distribute_data": True, "model_type": "lightgbm"},
            CapabilityMissing,
            "distribute_data=False",
        ),
    ],
)
def test_what_cannot_be_asked_is_said(
    options: dict[str, Any], error: type[ComputeError], words: str, visits: pd.DataFrame, tasks: MLTasks
) -> None:
    frame = visits.assign(word="x", same=1, zero=0, minus=np.where(np.arange(600) == 3, -1.0, 1.0))
    with pytest.raises(error, match=words):
        _train(tasks, frame, **options)


def test_class_weights_name_the_classes(visits: pd.DataFrame, tasks: MLTasks) -> None:
    with pytest.raises(InvalidField, match=r"'yess'.*did you mean 'yes'.*The classes are 'no', 'yes'"):
        _train(tasks, visits, "ill", class_weight={"yess": 2})
    with pytest.raises(InvalidField, match="no positive number"):
        _train(tasks, visits, "ill", class_weight={"yes": -1})
    with pytest.raises(InvalidField, match="balanced"):
        _train(tasks, visits, "ill", class_weight="even")


@pytest.mark.slow
def test_many_columns_are_no_trouble(config: Config) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.random((60, 5000)), columns=[f"c{i}" for i in range(5000)])
    frame = frame.assign(y=frame["c7"] * 10)
    for model_type in ("xgboost", "lightgbm", "linear"):
        result = MLTasks(config).train_model(frame, "y", model_type=model_type, model_params=_params(model_type))
        assert len(result["features"]) == 5000
        assert len(result["report"]["importances"]) == 50


def test_files_that_are_damaged_or_differ_are_refused_by_name(tmp_path: Path, tasks: MLTasks) -> None:
    frame = pd.DataFrame({"x": range(4000), "y": np.arange(4000) * 1.5})
    (tmp_path / "cut").mkdir()
    frame.to_parquet(tmp_path / "cut" / "a.parquet")
    whole = (tmp_path / "cut" / "a.parquet").read_bytes()
    (tmp_path / "cut" / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"b\.parquet"):
        tasks.train_model(str(tmp_path / "cut"), "y", name="never")
    (tmp_path / "mixed").mkdir()
    frame.to_parquet(tmp_path / "mixed" / "a.parquet")
    frame.assign(x="text").to_parquet(tmp_path / "mixed" / "b.parquet")
    with pytest.raises(DataError, match="Field x"):
        tasks.train_model(str(tmp_path / "mixed"), "y", name="never")
    assert get_model_registry(tasks.config).list_models(name="never") == []
