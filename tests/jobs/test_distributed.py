"""Training and scoring over a real Ray cluster; and, without one, what is done to each block."""

from __future__ import annotations

import json
import os
import pickle
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
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from compute.errors import ColumnInvalid, ComputeError, DataError, ResourcesUnavailable
from jobs import MLTasks, warm_pool
from jobs.blocks import Encoding, encode_block, say_block, together
from jobs.families import Problem
from jobs.marks import HELD_OUT, WATCHED, Marks, Times, mark_block, since, times_of
from jobs.shard import Batch, DiskShard, Watched, booster_bytes, booster_from, fit_shard
from jobs.targets import find_target
from jobs.validation import Kind, Validation
from registry import capture_signature, get_model_registry
from tests.jobs.conftest import FLIGHT_FEATURES

# Ray Data and Ray Train leave sockets and files to the garbage collector, and warn of their own deprecations.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


def _marks(target: str, fraction: float = 0.2, seed: int = 0, kind: Kind | None = None, by: str | None = None) -> Marks:
    return Marks(Validation(kind, fraction, seed, by), target, watch=True)


def test_what_blocks_say_together_is_the_signature_of_the_whole(flights: pd.DataFrame) -> None:
    columns = [*FLIGHT_FEATURES, "tailnum", "arr_delay"]
    blocks = [
        mark_block(flights[columns].iloc[i : i + 3000], _marks("arr_delay")) for i in range(0, len(flights), 3000)
    ]
    rows = [say_block(block, columns[:-1], _marks("arr_delay"))["said"][0] for block in blocks]
    said = together([pickle.loads(row) for row in rows])
    assert said is not None
    training = pd.concat([block[~block[HELD_OUT]] for block in blocks])
    assert capture_signature(said.features) == capture_signature(training[columns[:-1]])
    assert (said.training, said.rows, said.nulls) == (len(training), len(flights), 0)
    assert len(training) == pytest.approx(0.8 * len(flights), rel=0.05)
    target = find_target(said.target, None)
    assert said.baseline(target)["mean"] == pytest.approx(training["arr_delay"].mean())
    assert sum(len(row) for row in rows) < 2_000_000  # what reaches the driver is small


def test_blocks_are_marked_alike_every_time_and_cut_in_two(flights: pd.DataFrame) -> None:
    block = flights[["distance", "origin", "arr_delay"]].head(1000)
    marked = mark_block(block, _marks("arr_delay", 0.3, 4))
    pd.testing.assert_frame_equal(marked, mark_block(block, _marks("arr_delay", 0.3, 4)))
    assert (marked[HELD_OUT] != mark_block(block, _marks("arr_delay", 0.3, 5))[HELD_OUT]).any()
    target = find_target(block["arr_delay"], None)
    signature = capture_signature(block, target="arr_delay", target_values=block["arr_delay"], task="regression")
    parts = [encode_block(marked, Encoding(signature, target), held_out=held) for held in (False, True)]
    assert [len(part["matrix"]) for part in parts] == [int((~marked[HELD_OUT]).sum()), int(marked[HELD_OUT].sum())]
    assert sorted(np.concatenate([part["target"] for part in parts])) == sorted(block["arr_delay"].astype("float32"))


def test_classes_are_counted_and_nulls_are_told(bundle: dict[str, pd.DataFrame]) -> None:
    frame = bundle["wine"].copy()
    frame.loc[::10, "target"] = None
    marked = mark_block(frame, _marks("target", 0.25))
    said = together([pickle.loads(say_block(marked, ["alcohol"], _marks("target"))["said"][0])])
    assert said is not None
    assert said.nulls == 18
    target = find_target(said.target, None)
    kept = marked[~marked[HELD_OUT]]["target"].dropna()
    assert said.baseline(target)["prior"] == pytest.approx(kept.value_counts(normalize=True).sort_index().tolist())
    assert together([]) is None


def _blocks(frame: pd.DataFrame, rows: int = 700) -> list[pd.DataFrame]:
    return [frame.iloc[start : start + rows] for start in range(0, len(frame), rows)]


def test_groups_lie_on_one_side_whatever_block_they_are_in(flights: pd.DataFrame) -> None:
    marks = _marks("arr_delay", kind="group", by="tailnum")
    marked = pd.concat([mark_block(block, marks) for block in _blocks(flights)])
    by_plane = marked.groupby("tailnum")[[HELD_OUT, WATCHED]].nunique()
    assert (by_plane == 1).all().all()
    assert marked[HELD_OUT].mean() == pytest.approx(0.2, abs=0.05)
    assert marked[~marked[HELD_OUT]][WATCHED].mean() == pytest.approx(0.1, abs=0.05)
    # A number is the same group whether a block has it as an integer or not.
    ids = [pd.DataFrame({"id": values, "y": 1.0}) for values in ([1, 2, 3], [1.0, 2.0, 3.0])]
    one, two = (mark_block(block, _marks("y", 0.5, kind="group", by="id"))[HELD_OUT] for block in ids)
    assert one.tolist() == two.tolist()
    # And each seed draws others.
    many = pd.DataFrame({"id": range(1000), "y": 1.0})
    one, two = (mark_block(many, _marks("y", 0.5, seed, "group", "id"))[HELD_OUT] for seed in (0, 1))
    assert 0.4 < (one == two).mean() < 0.6


def test_the_latest_rows_are_held_back_and_those_before_them_watched(flights: pd.DataFrame) -> None:
    marks = _marks("arr_delay", kind="time", by="time_hour")
    blocks = _blocks(flights.sample(frac=1.0, random_state=0))
    held, watched = since([times_of(block, marks) for block in blocks], marks)
    marks = Marks(marks.how, marks.target, watch=True, since=held, watched_since=watched)
    marked = pd.concat([mark_block(block, marks) for block in blocks])
    fitted = marked[~marked[HELD_OUT] & ~marked[WATCHED]]["time_hour"]
    seen, kept = marked[marked[WATCHED]]["time_hour"], marked[marked[HELD_OUT]]["time_hour"]
    assert fitted.max() < seen.min() <= seen.max() < kept.min()
    assert len(kept) / len(marked) == pytest.approx(0.2, abs=0.01)
    assert len(seen) / (len(marked) - len(kept)) == pytest.approx(0.1, abs=0.01)


def test_times_that_tell_nothing_apart_are_refused() -> None:
    marks = _marks("y", kind="time", by="t")
    for values, message in (
        ([pd.Timestamp(2024, 1, 1)] * 4, "only one value"),
        ([pd.Timestamp(2024, 1, 1), None], "null in 1 rows"),
        (["monday", "tuesday"], "which are no times"),
        ([1, 2], "only one value"),  # one to hold back, and none is left to watch
    ):
        block = pd.DataFrame({"t": values, "y": 1.0})
        with pytest.raises(ComputeError, match=message):
            since([times_of(block, marks)], marks)


@given(
    st.lists(st.integers(0, 40), min_size=3, max_size=200).filter(lambda days: len(set(days)) > 2),
    st.floats(0.05, 0.9),
    st.integers(1, 50),
)
def test_the_share_by_time_is_as_close_as_whole_times_allow(days: list[int], share: float, rows: int) -> None:
    frame = pd.DataFrame({"day": days, "y": 1.0})
    marks = Marks(Validation("time", share, 0, "day"), "y")
    held, _ = since([times_of(block, marks) for block in _blocks(frame, rows)], marks)
    count = sum(day >= held for day in days)
    possible = [sum(day >= first for day in days) for first in sorted(set(days))[1:]]
    assert abs(count - share * len(days)) <= min(abs(one - share * len(days)) for one in possible) + 1e-9


def test_times_of_a_block_are_told_by_few() -> None:
    block = pd.DataFrame({"t": np.arange(100_000), "y": 1.0})
    told = times_of(block, _marks("y", kind="time", by="t"))
    assert isinstance(told, Times)
    assert (len(told.values), int(told.counts.sum())) == (10_000, 100_000)


def test_each_class_gives_its_share() -> None:
    frame = pd.DataFrame({"kind": ["often"] * 2000 + ["rare"] * 50, "x": range(2050)})
    marks = _marks("kind", kind="stratified")
    marked = pd.concat([mark_block(block, marks) for block in _blocks(frame.sample(frac=1.0, random_state=1), 205)])
    shares = marked.groupby("kind")[HELD_OUT].mean()
    assert shares["often"] == pytest.approx(0.2, abs=0.01)
    assert 0.05 < shares["rare"] < 0.4


def test_rows_and_classes_weigh_in_what_is_fitted() -> None:
    frame = pd.DataFrame({"x": range(40), "y": ["no"] * 30 + ["yes"] * 10, "w": [2.0] * 40})
    marks = Marks(Validation(None, 0.5, 0), "y")
    marked = mark_block(frame, marks)
    target = find_target(frame["y"], None)
    signature = capture_signature(frame[["x"]], target="y", target_values=frame["y"], task="binary")
    each = np.array([1.0, 3.0], dtype="float32")
    encoded = encode_block(marked, Encoding(signature, target, "float32", "w", each), held_out=False)
    assert encoded["weight"].tolist() == [6.0 if place else 2.0 for place in encoded["target"]]
    assert "weight" not in encode_block(marked, Encoding(signature, target, "float32", "w", each), held_out=True)
    wrong = mark_block(frame.assign(w=-1.0), marks)
    said = pickle.loads(say_block(wrong, ["x"], marks, "w")["said"][0])
    with pytest.raises(ColumnInvalid, match=r"has -1\.0 in row 0"):
        together([said])


@pytest.mark.parametrize("on_disk", [False, True])
def test_early_stopping_goes_on_from_a_checkpoint_to_the_same_model(on_disk: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    matrix = random.random((4000, 3)).astype("float32")
    truth = (matrix @ [1.0, 2.0, 0.0] + random.normal(0, 0.3, 4000)).astype("float32")
    batches = [Batch(matrix[i : i + 500], truth[i : i + 500], np.ones(500, "float32")) for i in range(0, 4000, 500)]
    target = find_target(pd.Series(truth), None)
    problem = Problem(
        target=target, columns=("a", "b", "c"), categories=(0, 0, 0),
        params={"n_estimators": 200, "max_depth": 3}, seed=0, threads=1,
    )  # fmt: skip
    kept: list[bytes] = []

    class Keep(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            kept.append(booster_bytes("xgboost", model))
            return False

    def fit(folder: Path, start: Any = None, *callbacks: Any) -> Any:
        folder.mkdir()
        parts: list[Any] = [DiskShard(folder / name) if on_disk else [] for name in "fw"]
        for number, batch in enumerate(batches):
            parts[number % 4 == 0].append(batch)
        watched = Watched(parts[1], patience=5)
        return fit_shard("xgboost", parts[0], problem, watched=watched, start=start, callbacks=callbacks)

    whole = fit(tmp_path / "whole", None, Keep())
    rounds = whole.num_boosted_rounds()
    assert rounds < len(kept) + 1 <= 200
    assert len(kept) in (rounds + 4, rounds + 5)  # the last round stops before it is kept
    for place in (3, rounds, len(kept) - 1):
        again = fit(tmp_path / str(place), booster_from("xgboost", kept[place]))
        assert again.num_boosted_rounds() == rounds
        np.testing.assert_allclose(again.inplace_predict(matrix), whole.inplace_predict(matrix), rtol=1e-5)
        assert again.attributes() == whole.attributes() == {}


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
@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm"])
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
