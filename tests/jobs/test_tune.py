"""What a user of `tune_model` may rely on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute import ComputeManager, Config, get_compute_manager
from compute.errors import ColumnMissing, ComputeError, Conflict, DataError, InvalidField, TaskFailed
from compute.local_backend import LocalBackend
from jobs import evaluate_model, get_ml_tasks, tune_model
from jobs.search_space import default_space, read_space
from registry import get_model_registry, open_store
from tests.environment import environment

RNG = np.random.default_rng(1)
ROWS = 400
FRAME = pd.DataFrame({"x": RNG.normal(size=ROWS), "z": RNG.normal(size=ROWS), "kind": RNG.choice(["a", "b"], ROWS)})
FRAME["y"] = FRAME["x"] * 3 + (FRAME["kind"] == "b") * 2 + RNG.normal(size=ROWS) / 2
FRAME["late"] = np.where(FRAME["y"] > 2, "late", "on time")
BOOSTER = {
    "model_params": {"n_estimators": 27},
    "search_space": {"max_depth": [1, 2, 6], "learning_rate": {"low": 0.01, "high": 0.5, "log": True}},
}


@pytest.fixture(scope="module")
def manager() -> Iterator[ComputeManager]:
    with ComputeManager(LocalBackend(workers=2)) as manager:
        yield manager


def amounts() -> pd.DataFrame:
    return FRAME.drop(columns="late")


def classes() -> pd.DataFrame:
    return FRAME.drop(columns="y")


@pytest.mark.parametrize(
    "model_type",
    [
        "xgboost",
        "linear",
        *(pytest.param(other, marks=pytest.mark.slow) for other in ("lightgbm", "random_forest", "gradient_boosting")),
    ],
)
def test_the_best_of_the_trials_is_trained_and_registered(
    model_type: str, manager: ComputeManager, config: Config
) -> None:
    tuned = tune_model(
        amounts(), "y", model_type=model_type, trials=6, manager=manager, config=config, name="best", tags=["tuned"]
    )
    done = [trial for trial in tuned["trials"] if trial["state"] == "complete"]
    assert len(tuned["trials"]) == 6
    assert tuned["best_value"] == min(trial["value"] for trial in done)
    assert tuned["best_params"] in [trial["params"] for trial in done]
    assert tuned["best_params"].keys() == default_space(model_type, "regression").keys()
    assert tuned["metrics"]["rmse"] < tuned["metrics"]["baseline_rmse"]
    record = get_model_registry(config).resolve("best")
    assert (record.model_id, record.tags) == (tuned["model_id"], ("tuned",))
    assert record.lineage["parameters"] == tuned["best_params"]
    assert record.lineage["study"]["name"] == tuned["study"]
    assert record.lineage["study"]["trials"] == 6


def test_no_trial_sees_the_rows_that_the_result_is_measured_on(manager: ComputeManager, config: Config) -> None:
    # Were they seen, noise could be learnt by heart, and the metrics would say so.
    noise = pd.DataFrame({"x": RNG.normal(size=ROWS), "y": RNG.normal(size=ROWS)})
    tuned = tune_model(noise, "y", trials=4, search_space={"max_depth": [8, 10]}, manager=manager, config=config)
    assert tuned["validation_rows"] == ROWS // 5
    assert tuned["metrics"]["r2"] < 0.1
    assert tuned["best_value"] > 0.5  # rmse; the trials do not see their own part either


@pytest.mark.parametrize("folds", [None, 4])
def test_groups_and_times_are_kept_apart_in_every_trial(
    folds: int | None, manager: ComputeManager, config: Config
) -> None:
    # What a group has in common, and what comes later, would make any trial look good that has seen it.
    patient = RNG.integers(0, 40, ROWS)
    secret = RNG.normal(size=40)[patient]
    frame = pd.DataFrame({"patient": patient, "age": patient * 1.5, "y": secret, "day": range(ROWS)})
    asked: dict[str, Any] = {
        "trials": 2, "folds": folds, "manager": manager, "config": config, "search_space": {"max_depth": [6, 8]},
    }  # fmt: skip
    leaking = tune_model(frame.drop(columns="day"), "y", **asked)
    apart = tune_model(frame.drop(columns="day"), "y", group_col="patient", **asked)
    assert leaking["best_value"] < 0.3 < apart["best_value"]
    assert apart["metrics"]["rmse"] > 0.3
    assert "patient" not in apart["features"]
    drifting = pd.DataFrame({"day": range(ROWS), "x": range(ROWS), "y": np.arange(ROWS) / 10})
    later = tune_model(drifting, "y", time_col="day", **asked)
    assert later["best_value"] > 2  # trees know nothing of what is to come


def test_rows_and_classes_weigh_in_the_trials_as_in_the_model(manager: ComputeManager, config: Config) -> None:
    # Half of the rows say the opposite, and count nothing.
    frame = amounts().head(400)
    wrong = frame.assign(y=-frame["y"] * 10)
    both = pd.concat([frame.assign(w=1.0), wrong.assign(w=0.0)], ignore_index=True)
    asked = {"trials": 2, "metric": "mae", "manager": manager, "config": config, **BOOSTER}
    weighed = tune_model(both, "y", weight_col="w", **asked)
    model = get_model_registry(config).load_model(weighed["model_id"])
    assert np.corrcoef(model.predict(frame.drop(columns="y")), frame["y"])[0, 1] > 0.8
    assert "w" not in weighed["features"]
    with pytest.raises(InvalidField, match="class_weight needs classes"):
        tune_model(frame, "y", class_weight="balanced", **asked)
    rare = pd.DataFrame({"x": RNG.normal(size=ROWS), "late": np.arange(ROWS) % 20 == 0})
    shallow: dict[str, Any] = {**asked, "metric": "recall", "search_space": {"max_depth": [1, 2]}}
    assert tune_model(rare, "late", **shallow)["best_value"] == 0  # never called late
    assert tune_model(rare, "late", class_weight={"True": 1000}, **shallow)["best_value"] == 1  # always


@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "roc_auc"])
def test_a_metric_of_classes_goes_its_own_way(metric: str, manager: ComputeManager, config: Config) -> None:
    tuned = tune_model(
        classes(), "late", trials=4, metric=metric, folds=3, prune=False, manager=manager, config=config, **BOOSTER
    )
    values = [trial["value"] for trial in tuned["trials"]]
    assert tuned["best_value"] == (min(values) if metric == "log_loss" else max(values))
    assert tuned["task"] == "binary"


def test_one_trial_at_a_time_with_one_seed_is_the_same_study(manager: ComputeManager, config: Config) -> None:
    first, second = (
        tune_model(amounts(), "y", trials=12, parallel=1, seed=7, manager=manager, config=config, **BOOSTER)
        for _ in range(2)
    )
    assert [trial["params"] for trial in first["trials"]] == [trial["params"] for trial in second["trials"]]
    assert [trial["value"] for trial in first["trials"]] == [trial["value"] for trial in second["trials"]]
    assert first["study"] != second["study"]


def test_what_is_worse_than_most_is_given_up_early_unless_told_otherwise(
    manager: ComputeManager, config: Config
) -> None:
    pruned = tune_model(amounts(), "y", trials=12, parallel=1, manager=manager, config=config, **BOOSTER)
    states = [trial["state"] for trial in pruned["trials"]]
    assert "pruned" in states
    assert "complete" in states
    for trial in pruned["trials"]:
        assert len(trial["steps"]) == 3 if trial["state"] == "complete" else len(trial["steps"]) < 3
    whole = tune_model(amounts(), "y", trials=6, prune=False, manager=manager, config=config, **BOOSTER)
    assert {trial["state"] for trial in whole["trials"]} == {"complete"}
    searched = {"search_space": {"n_estimators": {"low": 10, "high": 40}}}
    counted = tune_model(amounts(), "y", trials=6, manager=manager, config=config, **searched)
    assert {trial["state"] for trial in counted["trials"]} == {"complete"}


@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm"])
def test_rounds_in_rungs_are_the_rounds_at_once(model_type: str, manager: ComputeManager, config: Config) -> None:
    asked: dict[str, Any] = {
        "model_type": model_type, "trials": 1, "model_params": {"n_estimators": 27},
        "search_space": {"learning_rate": [0.1]},
    }  # fmt: skip
    rungs, once = (
        tune_model(amounts(), "y", prune=prune, manager=manager, config=config, **asked) for prune in (True, False)
    )
    assert len(rungs["trials"][0]["steps"]) == 3
    assert rungs["best_value"] == pytest.approx(once["best_value"], rel=1e-5)


def test_a_trial_that_fails_is_told_of_and_the_others_go_on(manager: ComputeManager, config: Config) -> None:
    space = {"grow_policy": ["depthwise", "sideways"]}
    tuned = tune_model(amounts(), "y", search_space=space, trials=8, seed=3, manager=manager, config=config)
    failed = [trial for trial in tuned["trials"] if trial["state"] == "failed"]
    assert failed
    assert all("sideways" in trial["error"] and trial["params"] == {"grow_policy": "sideways"} for trial in failed)
    assert tuned["best_params"] == {"grow_policy": "depthwise"}


def test_when_all_fail_the_first_error_is_the_cause(manager: ComputeManager, config: Config) -> None:
    lonely = pd.DataFrame({"x": range(40), "y": ["a"] * 38 + ["b"] * 2})
    with pytest.raises(TaskFailed, match="no trial") as caught:
        tune_model(lonely, "y", trials=2, metric="roc_auc", manager=manager, config=config)
    assert isinstance(caught.value.__cause__, DataError)
    assert get_model_registry(config).list_models() == []


def test_a_study_goes_on_where_it_was_and_answers_one_question(manager: ComputeManager, config: Config) -> None:
    asked: dict[str, Any] = {"study": "delays", "manager": manager, "config": config, **BOOSTER}
    first = tune_model(amounts(), "y", trials=3, **asked)
    more = tune_model(amounts(), "y", trials=5, **asked)
    assert more["trials"][:3] == first["trials"]
    assert [trial["number"] for trial in more["trials"]] == [0, 1, 2, 3, 4]
    same = tune_model(amounts(), "y", trials=5, **asked)
    assert same["trials"] == more["trials"]
    with pytest.raises(Conflict, match=r"another data"):
        tune_model(amounts().head(300), "y", trials=5, **asked)
    with pytest.raises(Conflict, match=r"another search_space"):
        tune_model(amounts(), "y", trials=5, **{**asked, "search_space": {"max_depth": [1]}})


@pytest.mark.slow
def test_a_study_whose_driver_was_killed_goes_on(config: Config, tmp_path: Path) -> None:
    data = tmp_path / "data" / "rows.parquet"
    amounts().to_parquet(data)
    command = [
        sys.executable, "-m", "jobs.tune", "--data", str(data), "--target", "y", "--trials", "40", "--study", "killed",
        "--param", "n_estimators=300", "--no-prune", "--name", "survivor",
        "--space", '{"max_depth": {"low": 2, "high": 9}}',
    ]  # fmt: skip
    variables = {**environment(config), "COMPUTE_COMPUTE__BACKEND": "local", "COMPUTE_COMPUTE__LOCAL_WORKERS": "2"}
    store = open_store(config.storage.uri, config)

    def kept() -> list[str]:
        return list(store.list("studies/killed/trials/"))

    driver = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(kept()) < 3:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = kept()
    assert len(before) < 40
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    tuned = json.loads(ended.stdout.splitlines()[-1])
    assert len(tuned["trials"]) == len(kept()) == 40
    assert set(before) <= set(kept())
    assert [model.name for model in get_model_registry(config).list_models()] == ["survivor"]


def test_no_trial_begins_after_the_timeout(manager: ComputeManager, config: Config) -> None:
    began = time.monotonic()
    tuned = tune_model(
        amounts(), "y", trials=100_000, timeout=3, search_space={"max_depth": [1, 2]}, manager=manager, config=config
    )
    assert 1 <= len(tuned["trials"]) < 100_000
    assert time.monotonic() - began < 30


def test_on_ray_and_through_the_tasks_object(ray_cluster: str, config: Config) -> None:
    tuned = get_ml_tasks(config).tune_model(
        amounts(), "y", trials=4, manager=get_compute_manager(config=config), **BOOSTER
    )
    assert len(tuned["trials"]) == 4
    measured = evaluate_model(tuned["model_id"], amounts(), config=config)
    assert measured["metrics"]["rmse"] < measured["metrics"]["baseline_rmse"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"search_space": {}}, InvalidField, "search space is"),
        ({"search_space": {"max_dept": [1]}}, InvalidField, "max_depth"),
        ({"search_space": {"max_depth": []}}, InvalidField, "choices"),
        ({"search_space": {"max_depth": {"low": 3}}}, InvalidField, "low"),
        ({"search_space": {"max_depth": {"low": 3, "high": 1}}}, InvalidField, "cannot be searched"),
        ({"search_space": {"max_depth": {"low": 3, "high": 9, "logg": True}}}, InvalidField, "did you mean 'log'"),
        ({"search_space": {"eta": {"low": 0, "high": 1, "log": True}}}, InvalidField, "positive"),
        ({"search_space": {"max_depth": [1]}, "model_params": {"max_depth": 2}}, InvalidField, "fixed and searched"),
        ({"trials": 0}, InvalidField, "trials is 0"),
        ({"folds": 1}, InvalidField, "folds is 1"),
        ({"metric": "rsme"}, InvalidField, "did you mean 'rmse'"),
        ({"metric": "accuracy"}, InvalidField, "does not measure a regression"),
        ({"model_type": "xgbost"}, InvalidField, "did you mean 'xgboost'"),
        ({"study": "../up"}, InvalidField, "cannot name a study"),
        ({"features": ["nothing"]}, ColumnMissing, "nothing"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(
    options: dict[str, Any], error: type[ComputeError], said: str, manager: ComputeManager, config: Config
) -> None:
    with pytest.raises(error, match=said):
        tune_model(amounts(), "y", manager=manager, config=config, **options)


values = st.one_of(st.integers(-5, 50), st.floats(-1e3, 1e3), st.text(max_size=3), st.booleans(), st.none())


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(
            values, st.lists(values), st.dictionaries(st.sampled_from(["low", "high", "log", "step", "x"]), values)
        ),
    )
)
def test_whatever_a_space_says_it_is_read_or_refused(space: dict[str, Any]) -> None:
    try:
        found = read_space(space)
    except InvalidField:
        return
    assert found.keys() == space.keys()
