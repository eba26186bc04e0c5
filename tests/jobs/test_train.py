"""Every model type learns every task from real data, and predicts the same wherever it is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from compute import Config
from compute.errors import (
    CapabilityMissing,
    ColumnInvalid,
    ColumnMissing,
    DataError,
    InvalidField,
    ResourcesUnavailable,
)
from jobs import MLTasks, train_model
from registry import get_model_registry
from tests.environment import environment
from tests.jobs.conftest import FLIGHT_FEATURES

TYPES = ("xgboost", "lightgbm", "random_forest", "gradient_boosting", "linear")
PARAMS: dict[str, dict[str, Any]] = {
    "xgboost": {"n_estimators": 30, "max_depth": 5},
    "lightgbm": {"n_estimators": 30},
    "random_forest": {"n_estimators": 15},
    "gradient_boosting": {"n_estimators": 30},
    "linear": {},
}


def _better(result: dict[str, Any]) -> bool:
    metrics = result["metrics"]
    if result["task"] == "regression":
        return bool(metrics["rmse"] < metrics["baseline_rmse"] and metrics["r2"] > 0.3)
    return bool(
        metrics["accuracy"] > metrics["baseline_accuracy"] + 0.1 and metrics["log_loss"] < metrics["baseline_log_loss"]
    )


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize(
    ("name", "task"),
    [("diabetes", "regression"), ("breast_cancer", "binary"), ("wine", "multiclass"), ("iris", "multiclass")],
)
def test_each_type_learns_each_task_and_predicts_the_same_everywhere(
    model_type: str, name: str, task: str, bundle: dict[str, pd.DataFrame], tasks: MLTasks, tmp_path: Path
) -> None:
    frame = bundle[name]
    before = frame.copy(deep=True)
    result = tasks.train_model(
        frame, "target", model_type=model_type, model_params=PARAMS[model_type], name=f"{name}-{model_type}"
    )
    assert (result["task"], result["model_type"], result["name"], result["version"]) == (
        task,
        model_type,
        f"{name}-{model_type}",
        1,
    )
    assert _better(result), result["metrics"]
    assert result["rows"] == len(frame) == result["training_rows"] + result["validation_rows"]
    assert result["features"] == [column for column in frame.columns if column != "target"]
    assert result["plan"]["mode"] == "single"

    # Through the facade, in batches, from files, and after a reload.
    here = tasks.predict_batch(result["model_id"], frame)
    assert isinstance(here, pd.Series)
    assert here.index.equals(frame.index)
    again = get_model_registry(tasks.config).load_model(f"{name}-{model_type}").predict(frame)
    _same(here, pd.Series(again))
    _same(here, tasks.predict_batch(result["model_id"], frame, batch_size=7))
    _same(here, tasks.predict_batch(result["model_id"], pa.Table.from_pandas(frame)))
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=20)
    frame.to_csv(tmp_path / "t.csv", index=False)
    for file in ("t.parquet", "t.csv"):
        tasks.predict_batch(
            f"{name}-{model_type}:1", str(tmp_path / file), output=str(tmp_path / "out.parquet"), batch_size=33
        )
        _same(here, pd.read_parquet(tmp_path / "out.parquet")["prediction"])
    measured = tasks.evaluate_model(result["model_id"], frame)["metrics"]
    key = "r2" if task == "regression" else "accuracy"
    assert measured[key] > result["metrics"][key] - 0.1
    assert set(measured) == set(result["metrics"])
    pd.testing.assert_frame_equal(frame, before)


def _same(one: pd.Series, other: object) -> None:
    assert isinstance(other, pd.Series)
    if pd.api.types.is_numeric_dtype(one.dtype):
        np.testing.assert_allclose(other.to_numpy(), one.to_numpy(), rtol=1e-6, atol=1e-6)
    else:
        assert other.astype(object).tolist() == one.astype(object).tolist()


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("task", ["regression", "binary", "multiclass"])
def test_flights_with_text_times_and_missing_values_work_as_they_come(
    model_type: str, task: str, flights: pd.DataFrame, tasks: MLTasks
) -> None:
    frame = flights[[*FLIGHT_FEATURES, "arr_delay"]]
    target = {
        "regression": frame["arr_delay"],
        "binary": frame["arr_delay"] > 15,
        "multiclass": pd.cut(frame["arr_delay"], [-999, -10, 15, 9999], labels=["early", "fine", "late"]).astype(str),
    }[task]
    frame = frame.assign(y=target).drop(columns="arr_delay")
    frame.loc[::50, "dep_delay"] = None
    frame.loc[::60, "carrier"] = None
    result = tasks.train_model(frame, "y", model_type=model_type, model_params=PARAMS[model_type])
    assert result["task"] == task
    assert _better(result), result["metrics"]
    # The validation metrics are those of the stored model: what is measured is what is served.
    values = tasks.predict_batch(result["model_id"], frame.head(200).assign(carrier="never seen", origin=None))
    assert isinstance(values, pd.Series)
    assert values.notna().all()


@pytest.mark.parametrize("model_type", TYPES)
def test_the_held_out_metrics_are_those_of_the_stored_model(
    model_type: str, flights: pd.DataFrame, tasks: MLTasks
) -> None:
    from jobs.metrics import measure
    from jobs.split import held_out

    result = tasks.train_model(
        flights, "arr_delay", FLIGHT_FEATURES, model_type, PARAMS[model_type], validation_fraction=0.3, seed=5
    )
    mask = held_out(None, len(flights), 0.3, 5)
    predicted = tasks.predict_batch(result["model_id"], flights[mask])
    assert isinstance(predicted, pd.Series)
    mean = float(flights["arr_delay"][~mask].mean())
    again = measure(flights["arr_delay"][mask].to_numpy(), predicted.to_numpy(), {"mean": mean})
    assert again == pytest.approx(result["metrics"], rel=1e-5)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_seed_makes_a_run_repeatable(model_type: str, flights: pd.DataFrame, tasks: MLTasks) -> None:
    registry = get_model_registry(tasks.config)

    def train(seed: int) -> tuple[dict[str, float], str]:
        params = {**PARAMS[model_type], **({"subsample": 0.5} if model_type in ("xgboost", "lightgbm") else {})}
        result = tasks.train_model(flights.head(5000), "arr_delay", FLIGHT_FEATURES, model_type, params, seed=seed)
        return result["metrics"], registry.get_model(result["model_id"]).artifact.digest

    first, other = train(1), train(2)
    assert train(1) == first
    assert other != first


def test_categories_are_learnt_from_the_training_part_alone(tasks: MLTasks) -> None:
    frame = pd.DataFrame({"x": range(200), "kind": [f"k{i}" for i in range(50)] * 4, "y": np.arange(200) * 1.5})
    from jobs.split import held_out

    frame["rare"] = np.where(held_out(None, 200, 0.2, 0), "only held out", "seen")
    for column in (frame["rare"], frame["rare"].astype("category")):
        result = tasks.train_model(frame.assign(rare=column), "y", model_type="linear")
        signature = get_model_registry(tasks.config).get_model(result["model_id"]).signature
        assert signature is not None
        assert {item.name: item.categories for item in signature.columns}["rare"] == ("seen",)


def test_lineage_tells_where_a_model_came_from(flights_file: Path, tasks: MLTasks) -> None:
    result = tasks.train_model(
        flights_file.as_uri(), "arr_delay", ["distance", "dep_delay"], "linear", {"alpha": 2.0}, seed=3,
        drop_null_target=True, name="delays", tags=["demo"], metadata={"owner": "ops"},
    )  # fmt: skip
    record = get_model_registry(tasks.config).resolve("delays")
    lineage = record.lineage
    assert lineage["data"]["uri"] == flights_file.as_uri()
    assert lineage["data"]["digest"].startswith("sha256:")
    assert (lineage["parameters"], lineage["seed"], lineage["target"]) == ({"alpha": 2.0}, 3, "arr_delay")
    assert lineage["rows"]["dropped_rows"] == result["dropped_rows"] > 0
    assert {"python", "scikit-learn", "pandas", "numpy"} == set(lineage["software"])
    assert (record.tags, record.metadata, record.metrics) == (("demo",), {"owner": "ops"}, result["metrics"])
    assert json.loads(json.dumps(result)) == result


def test_a_frame_is_told_by_its_values(flights: pd.DataFrame, tasks: MLTasks) -> None:
    def fingerprint(frame: pd.DataFrame) -> str:
        result = tasks.train_model(frame, "arr_delay", ["distance", "origin"], "linear")
        return str(get_model_registry(tasks.config).get_model(result["model_id"]).lineage["data"]["fingerprint"])

    frame = flights.head(100)
    changed = frame.assign(distance=frame["distance"].where(frame.index != 7, 1))
    assert fingerprint(frame) == fingerprint(frame.copy()) != fingerprint(changed)


def test_exclude_keeps_columns_away_from_the_model(flights_file: Path, tasks: MLTasks) -> None:
    leaks = ["dep_time", "arr_time", "air_time"]
    result = tasks.train_model(
        str(flights_file), "arr_delay", exclude=leaks, drop_null_target=True, model_params=PARAMS["xgboost"]
    )
    assert not {"arr_delay", *leaks} & set(result["features"])
    assert {"time_hour", "carrier", "tailnum"} <= set(result["features"])
    assert _better(result)


def test_text_that_tells_rows_apart_is_left_out_and_said(flights: pd.DataFrame, tasks: MLTasks) -> None:
    frame = flights.head(2000)[["distance", "arr_delay", "carrier"]].assign(id=[f"id-{i}" for i in range(2000)])
    result = tasks.train_model(frame, "arr_delay", model_type="linear")
    assert result["features"] == ["distance", "carrier"]
    assert "1,600 distinct texts in 1,600 rows" in result["left_out"]["id"]
    named = tasks.train_model(frame, "arr_delay", ["distance", "id"], "linear")
    assert named["features"] == ["distance", "id"]


def test_names_that_the_libraries_do_not_take(tasks: MLTasks) -> None:
    x = np.random.default_rng(0).random((60, 4))
    frame = pd.DataFrame(x, columns=["a[1]", "a<1]", 'say "x", {y}: z', "größe m²"]).assign(y=x @ [1, 2, 3, 4])
    for model_type in TYPES:
        result = tasks.train_model(frame, "y", model_type=model_type, model_params=PARAMS[model_type])
        assert len(tasks.predict_batch(result["model_id"], frame)) == 60


def test_ten_rows_are_enough_and_nine_are_not(tasks: MLTasks) -> None:
    frame = pd.DataFrame({"x": range(10), "y": [i / 2 for i in range(10)]})
    for model_type in TYPES:
        assert tasks.train_model(frame, "y", model_type=model_type)["rows"] == 10
    with pytest.raises(DataError, match="9 rows, and training needs at least 10"):
        tasks.train_model(frame.head(9), "y")


# What cannot be learnt is said before anything is fitted, and nothing is registered

GOOD = pd.DataFrame({"x": range(40), "kind": ["a", "b"] * 20, "y": [i * 1.5 for i in range(40)]})


def _y(values: object) -> pd.DataFrame:
    return GOOD.assign(y=values)


@pytest.mark.parametrize(
    ("frame", "arguments", "error", "words"),
    [
        (GOOD, {"target_col": "Y"}, ColumnMissing, r"column 'Y' \(did you mean 'y'\?\)\. Its columns are x, k"),
        (GOOD, {"features": ["x", "knd"]}, ColumnMissing, r"no feature column 'knd' \(did you mean 'kind'\?\)"),
        (GOOD, {"exclude": ["z"]}, ColumnMissing, "no excluded column 'z'"),
        (GOOD, {"features": ["x", "y"]}, DataError, "target 'y' is among the features"),
        (GOOD, {"features": ["x", "x"]}, DataError, "more than one column named x"),
        (GOOD, {"features": []}, DataError, "no features are left"),
        (GOOD, {"exclude": ["x", "kind"]}, DataError, "no features are left"),
        (GOOD, {"model_type": "svm"}, InvalidField, "xgboost, lightgbm, random_forest, gradient_boosting, linear"),
        (GOOD, {"model_params": {"max_dept": 1}}, InvalidField, "max_depth"),
        (GOOD, {"validation_fraction": 1.0}, InvalidField, "between 0 and 1"),
        (GOOD, {"task": "binary"}, DataError, "40 classes"),
        (GOOD, {"task": "ranking"}, InvalidField, "no task 'ranking'"),
        (_y(1.0), {}, DataError, "only one value"),
        (_y("same"), {}, DataError, "only one value"),
        (_y(GOOD["y"].where(GOOD["x"] > 1)), {}, ColumnInvalid, "null in 2 of 40 rows, the first in rows 0, 1"),
        (_y(None), {"drop_null_target": True}, DataError, "no rows"),
        (_y(GOOD["y"].where(GOOD["x"] != 3, np.inf)), {}, ColumnInvalid, "1 infinite values, the first in row 3"),
        (GOOD.assign(x=GOOD["x"].where(GOOD["x"] != 5, np.inf)), {}, ColumnInvalid, "'x' .* row 5"),
        (GOOD.assign(kind=[[1]] * 40), {}, ColumnInvalid, "'kind'"),
        (GOOD.assign(kind=[1, "a"] * 20), {}, ColumnInvalid, "'kind'"),
        (GOOD.head(0), {}, DataError, "no rows"),
        (GOOD.head(5), {}, DataError, "5 rows"),
        (pd.concat([GOOD, GOOD[["x"]]], axis=1), {}, DataError, "more than one column named x"),
        (GOOD, {"model_type": "linear", "distribute_data": True}, CapabilityMissing, "one node"),
    ],
)  # fmt: skip
def test_bad_input(
    frame: pd.DataFrame, arguments: dict[str, Any], error: type[Exception], words: str, tasks: MLTasks
) -> None:
    before = frame.copy(deep=True)
    with pytest.raises(error, match=words):
        tasks.train_model(frame, **{"target_col": "y", "name": "bad", **arguments})
    pd.testing.assert_frame_equal(frame, before)
    assert get_model_registry(tasks.config).list_models(name="bad") == []


def test_all_null_and_constant_features_do_no_harm(tasks: MLTasks) -> None:
    frame = GOOD.assign(empty=None, never=np.nan, same=1, same_text="x")
    for model_type in TYPES:
        result = tasks.train_model(frame, "y", model_type=model_type, model_params=PARAMS[model_type])
        assert len(result["features"]) == 6


def test_what_does_not_fit_is_refused_with_the_numbers(config: Config) -> None:
    limited = config.model_copy(update={"compute": config.compute.model_copy(update={"memory_limit": 1000})})
    with pytest.raises(ResourcesUnavailable, match=r"1000\.0 B usable"):
        train_model(GOOD, "y", config=limited)


WITHOUT_A_CLUSTER = """
import time, pandas as pd
from jobs import train_model
started = time.perf_counter()
try:
    train_model(pd.DataFrame({"x": range(40), "y": range(40)}), "y", distribute_data=True)
except Exception as error:
    print(type(error).__name__, time.perf_counter() - started < 30, error)
"""


def test_a_distributed_run_without_a_cluster_is_an_error_not_something_else(config: Config) -> None:
    # In a process of its own: this one may be connected to the session's cluster.
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_CLUSTER],
        env={**environment(config), "RAY_ADDRESS": "127.0.0.1:1"},
        cwd=Path(__file__).parents[2], text=True, capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("BackendUnavailable True"), done.stdout
    assert "127.0.0.1:1" in done.stdout
    assert "RAY_ADDRESS" in done.stdout


def test_logistic_learns_classes_as_linear_does_and_refuses_amounts(
    bundle: dict[str, pd.DataFrame], tasks: MLTasks
) -> None:
    frame = bundle["breast_cancer"]
    logistic = tasks.train_model(frame, "target", model_type="logistic")
    assert logistic["model_type"] == "logistic"
    assert logistic["metrics"] == tasks.train_model(frame, "target", model_type="linear")["metrics"]
    with pytest.raises(InvalidField, match='model_type="linear"'):
        tasks.train_model(bundle["diabetes"], "target", model_type="logistic")


def test_histograms_take_more_categories_than_they_have_bins_and_unknown_ones(tasks: MLTasks) -> None:
    rng = np.random.default_rng(0)
    few, many = rng.integers(0, 12, 4000), rng.integers(0, 400, 4000)
    frame = pd.DataFrame({"few": few.astype(str), "many": many.astype(str), "hole": np.where(few % 2, 1.0, np.nan)})
    result = tasks.train_model(
        frame.assign(y=few % 3 * 10.0 + rng.normal(size=4000)), "y", model_type="gradient_boosting"
    )
    assert result["metrics"]["r2"] > 0.95
    unknown = pd.DataFrame({"few": ["never seen", None], "many": ["1", "x"], "hole": [None, 1.0]})
    assert np.isfinite(tasks.predict_batch(result["model_id"], unknown)).all()
