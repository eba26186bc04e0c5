"""Training and scoring over a real Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from compute.errors import CapabilityMissing, ColumnInvalid, DataError, InvalidField, ResourcesUnavailable
from jobs import MLTasks, warm_pool
from registry import get_model_registry
from tests.jobs.conftest import FLIGHT_FEATURES

# Ray Data and Ray Train leave sockets and files to the garbage collector, and warn of their own deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


def _train(tasks: MLTasks, data: object, model_type: str, **options: Any) -> dict[str, Any]:
    return tasks.train_model(
        data, "arr_delay", FLIGHT_FEATURES, model_type, {"n_estimators": 20, "max_depth": 6},
        distribute_data=True, drop_null_target=True, **options,
    )  # fmt: skip


def _check(tasks: MLTasks, result: dict[str, Any], flights: pd.DataFrame, flights_file: Path, tmp_path: Path) -> None:
    assert (result["plan"]["mode"], result["plan"]["workers"]) == ("distributed", 2)
    assert result["features"] == FLIGHT_FEATURES
    assert result["rows"] == len(flights)
    alone = tasks.train_model(
        flights, "arr_delay", FLIGHT_FEATURES, result["model_type"], {"n_estimators": 20, "max_depth": 6}
    )
    # Another split and other histograms, the same model in quality.
    assert set(alone["metrics"]) == set(result["metrics"])
    assert result["metrics"]["rmse"] < 1.15 * alone["metrics"]["rmse"]
    assert result["metrics"]["baseline_rmse"] == pytest.approx(alone["metrics"]["baseline_rmse"], rel=0.1)
    one, two = (get_model_registry(tasks.config).get_model(item["model_id"]) for item in (alone, result))
    assert two.signature is not None
    assert one.signature is not None
    assert two.signature.task == one.signature.task
    assert two.signature.feature_types == one.signature.feature_types
    assert two.lineage["plan"] == "distributed"
    # And it scores raw rows like any other.
    tasks.predict_batch(result["model_id"], str(flights_file), output=str(tmp_path / "o.parquet"), distributed=True)
    here: Any = tasks.predict_batch(result["model_id"], str(flights_file), distributed=False)
    np.testing.assert_allclose(pd.read_parquet(tmp_path / "o.parquet")["prediction"], here, rtol=1e-6)


@pytest.mark.slow
def test_xgboost_over_ray_train(
    ray_cluster: str, tasks: MLTasks, flights: pd.DataFrame, flights_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ResourcesUnavailable, match="can never be placed: the cluster has 4 CPUs"):
        _train(tasks, str(flights_file), "xgboost", num_workers=9)
    # A range, though it is of one number, is for Ray Train.
    result = _train(tasks, str(flights_file), "xgboost", num_workers=(2, 2))
    assert result["plan"]["place"] == "ray_train"
    _check(tasks, result, flights, flights_file, tmp_path)


@pytest.mark.slow
def test_lightgbm_over_ray_train(
    ray_cluster: str, tasks: MLTasks, flights: pd.DataFrame, flights_file: Path, tmp_path: Path
) -> None:
    result = _train(tasks, str(flights_file), "lightgbm", num_workers=(2, 2))
    assert result["plan"]["place"] == "ray_train"
    _check(tasks, result, flights, flights_file, tmp_path)


@pytest.mark.parametrize("model_type", ["xgboost", pytest.param("lightgbm", marks=pytest.mark.slow)])
def test_short_runs_over_warm_workers(
    model_type: str, ray_cluster: str, tasks: MLTasks, flights: pd.DataFrame, flights_file: Path, tmp_path: Path
) -> None:
    result = _train(tasks, str(flights_file), model_type)
    assert result["plan"]["place"] == "warm_group"
    assert {"importances", "intervals"} <= set(result["report"])
    _check(tasks, result, flights, flights_file, tmp_path)


@pytest.mark.parametrize("target", ["arr_delay", "late"])
def test_a_forest_grown_over_warm_workers_is_that_of_one_process(
    target: str, ray_cluster: str, tasks: MLTasks, flights: pd.DataFrame
) -> None:
    rows = flights[[*FLIGHT_FEATURES, "arr_delay"]].assign(late=np.where(flights["arr_delay"] > 15, "late", "on time"))
    options: dict[str, Any] = {"features": FLIGHT_FEATURES, "model_type": "random_forest"}
    params = (
        {"n_estimators": 7, "max_depth": 8, "class_weight": "balanced"} if target == "late" else {"n_estimators": 7}
    )
    here = tasks.train_model(rows, target, model_params=params, distribute_data=False, **options)
    there = tasks.train_model(rows, target, model_params=params, distribute_data=True, **options)
    assert (there["plan"]["place"], there["plan"]["workers"]) == ("warm_group", 2)
    assert there["metrics"] == here["metrics"]
    registry = get_model_registry(tasks.config)
    one, two = (registry.load_model(result["model_id"]).model for result in (here, there))
    assert [tree.random_state for tree in two.estimators_] == [tree.random_state for tree in one.estimators_]
    assert two.get_params() == one.get_params()
    np.testing.assert_array_equal(*(tasks.predict_batch(result["model_id"], rows) for result in (here, there)))
    with pytest.raises(CapabilityMissing, match="oob_score is for training in one process"):
        tasks.train_model(rows, target, model_params={"oob_score": True}, distribute_data=True, **options)
    with pytest.raises(InvalidField, match="refused the parameters"):
        tasks.train_model(rows, target, model_params={"max_depth": -1}, distribute_data=True, **options)


def _questions(tmp_path: Path) -> str:
    """Rows in the order of their time; those with no weight say something else, and the last ones are noise."""
    random, rows = np.random.default_rng(0), 6000
    frame = pd.DataFrame({"x": random.random(rows), "day": np.repeat(np.arange(60), 100), "w": 1.0})
    frame["shop"] = random.integers(0, 200, rows)
    frame["y"] = 10 * frame["x"] + random.normal(0, 1, rows)
    frame.loc[::2, ["y", "w"]] = (-50.0, 0.0)
    frame["bought"] = np.where(random.random(rows) < 0.05 + 0.1 * frame["x"], "yes", "no")
    frame.to_parquet(tmp_path / "q.parquet", row_group_size=500)
    return str(tmp_path / "q.parquet")


@pytest.mark.parametrize("workers", [2, pytest.param((2, 2), marks=pytest.mark.slow)])
def test_time_weights_and_early_stopping_over_a_cluster(
    workers: Any, ray_cluster: str, tasks: MLTasks, tmp_path: Path
) -> None:
    many = {"n_estimators": 300, "max_depth": 3}
    result = tasks.train_model(
        _questions(tmp_path), "y", ["x"], "xgboost", many, distribute_data=True, num_workers=workers,
        time_col="day", weight_col="w", early_stopping=5,
    )  # fmt: skip
    assert result["plan"]["place"] == ("warm_group" if workers == 2 else "ray_train")
    assert (result["rows"], result["validation_rows"]) == (6000, 1200)
    registry = get_model_registry(tasks.config)
    record = registry.get_model(result["model_id"])
    assert {name: record.lineage[name] for name in ("validation", "weight_col", "early_stopping")} == {
        "validation": "time", "weight_col": "w", "early_stopping": 5,
    }  # fmt: skip
    model: Any = registry.load_model(result["model_id"])
    assert model.model.num_boosted_rounds() < 100
    low, high = model.predict(pd.DataFrame({"x": [0.1, 0.9]}))
    assert (low, high) == (pytest.approx(1.0, abs=1.0), pytest.approx(9.0, abs=1.0))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, (2, 2)])
@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm"])
def test_groups_and_class_weights_over_a_cluster(
    workers: Any, model_type: str, ray_cluster: str, tasks: MLTasks, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"distribute_data": True, "num_workers": workers, "group_col": "shop"}
    result = tasks.train_model(
        _questions(tmp_path), "bought", ["x"], model_type, {"n_estimators": 20, "max_depth": 3},
        class_weight="balanced", **options,
    )  # fmt: skip
    assert 0.1 < result["validation_rows"] / result["rows"] < 0.3
    model = get_model_registry(tasks.config).load_model(result["model_id"])
    # Of such customers one in ten buys.
    assert np.asarray(model.predict(pd.DataFrame({"x": [0.5]}), proba=True))[0, 1] == pytest.approx(0.5, abs=0.15)


def test_a_draw_that_leaves_nothing_is_refused(ray_cluster: str, tasks: MLTasks, tmp_path: Path) -> None:
    data = _questions(tmp_path)
    with pytest.raises(DataError, match="each group of 'w' is drawn by itself"):
        tasks.train_model(data, "y", ["x"], distribute_data=True, group_col="w", validation_fraction=0.01)


def test_a_run_takes_what_others_leave_of_a_cpu(ray_cluster: str, tasks: MLTasks, flights_file: Path) -> None:
    from ray.util import placement_group, remove_placement_group

    others = placement_group([{"CPU": 2.8}])
    try:
        assert others.wait(60)
        result = _train(tasks, str(flights_file), "xgboost")
    finally:
        remove_placement_group(others)
    assert (result["plan"]["place"], result["plan"]["workers"], result["plan"]["cpus"]) == ("warm_group", 2, 0.6)


@pytest.mark.slow
def test_warm_workers_end_when_nobody_needs_them(ray_cluster: str, tasks: MLTasks) -> None:
    import ray

    config = tasks.config.model_copy(update={"compute": tasks.config.compute.model_copy(update={"warm_idle": 1.0})})
    (member,) = warm_pool.members(config, 1)
    process = ray.get(member.actor.process.remote())
    deadline = time.monotonic() + 60
    while psutil.pid_exists(process):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor(member.name, namespace=warm_pool.NAMESPACE)
    (another,) = warm_pool.members(config, 1)
    assert ray.get(another.actor.process.remote()) != process


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm", "random_forest"])
def test_a_run_is_repeated_when_a_warm_worker_is_killed(
    model_type: str, ray_cluster: str, tasks: MLTasks, flights_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    whole = _train(tasks, str(flights_file), model_type)
    member = warm_pool.members(tasks.config, 2)[1]
    process = ray.get(member.actor.process.remote())

    def kill_at_work() -> None:
        # It is at work when another cannot have it.
        while ray.get(member.actor.reserve.remote("nobody")):
            ray.get(member.actor.release.remote("nobody"))
            time.sleep(0.01)
        os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill_at_work)
    killer.start()
    again = _train(tasks, str(flights_file), model_type)
    killer.join()
    assert "event=worker_lost" in caplog.text
    assert ray.get(member.actor.process.remote()) != process
    assert again["metrics"]["rmse"] == pytest.approx(whole["metrics"]["rmse"], rel=1e-6)


@pytest.mark.parametrize("source", ["dataset", "frame", "csv"])
def test_other_sources_and_classes_over_warm_workers(
    source: str, ray_cluster: str, tasks: MLTasks, flights: pd.DataFrame, tmp_path: Path
) -> None:
    import ray.data

    late = flights[FLIGHT_FEATURES].assign(late=np.where(flights["arr_delay"] > 15, "late", "on time"))
    late.to_csv(tmp_path / "t.csv", index=False)
    data: Any = {"dataset": ray.data.from_pandas(late), "frame": late, "csv": str(tmp_path / "t.csv")}[source]
    result = tasks.train_model(data, "late", model_params={"n_estimators": 20}, distribute_data=True)
    assert (result["task"], result["plan"]["mode"]) == ("binary", "distributed")
    assert result["metrics"]["accuracy"] > result["metrics"]["baseline_accuracy"]
    assert result["metrics"]["roc_auc"] > 0.9


def test_a_null_target_is_refused_before_workers_start(ray_cluster: str, tasks: MLTasks, flights_file: Path) -> None:
    with pytest.raises(ColumnInvalid, match="null in"):
        tasks.train_model(str(flights_file), "arr_delay", FLIGHT_FEATURES, distribute_data=True)


def test_a_ray_dataset_is_trained_on_and_scored_in_order(
    ray_cluster: str, tasks: MLTasks, bundle: dict[str, pd.DataFrame]
) -> None:
    import ray.data

    dataset = ray.data.from_pandas([bundle["iris"].head(70), bundle["iris"].tail(80)])
    result = tasks.train_model(dataset, "target", model_type="linear")
    assert result["plan"]["mode"] == "single"
    assert result["metrics"]["accuracy"] > 0.8
    scored: Any = tasks.predict_batch(result["model_id"], dataset, batch_size=64)
    expected: Any = tasks.predict_batch(result["model_id"], bundle["iris"])
    assert scored.tolist() == expected.tolist()


def test_a_task_computes_with_the_cpus_ray_gave_it(ray_cluster: str, tasks: MLTasks) -> None:
    import ray

    from jobs.node import threads

    config = tasks.config
    for cpus in (1, 2):
        assert ray.get(ray.remote(num_cpus=cpus)(threads).remote(config)) == cpus


def test_a_command_uses_the_cluster_that_its_environment_names(
    ray_cluster: str, tasks: MLTasks, flights_file: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COMPUTE_")}
    state = tasks.config.storage.uri
    done = subprocess.run(
        [
            sys.executable, "-m", "jobs.train", "--data", str(flights_file), "--target", "arr_delay",
            "--features", "distance,dep_delay", "--model-type", "linear", "--drop-null-target", "--name", "from-a-job",
        ],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120, check=False,
        env={**environment, "RAY_ADDRESS": ray_cluster, "COMPUTE_STORAGE__URI": state},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"ray=connected address={ray_cluster}" in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    # This process asks the same actor.
    assert get_model_registry(tasks.config).resolve("from-a-job").model_id == result["model_id"]
