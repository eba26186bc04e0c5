"""Questions whose work is that of jobs, as tasks: training, tuning, predicting tables; and how sure predictions are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from compute import Config
from compute.errors import CapabilityMissing, ColumnMissing, InvalidField, ModelNotFound, UriNotAllowed
from jobs import train_model
from registry import get_model_registry
from solver import SolverService, get_solver_service
from solver.job_queries import BatchPredictionQuery, TrainingParameters, TrainingQuery, TuningParameters, TuningQuery
from tests.solver.conftest import flights, records


def example(kind: Any) -> dict[str, Any]:
    found: dict[str, Any] = kind.model_config["json_schema_extra"]["examples"][0]
    return found


@pytest.mark.slow
def test_the_examples_of_training_tuning_and_batches_are_answered(
    solver: SolverService, model: dict[str, Any], local: Config
) -> None:
    get_model_registry(local).set_alias("delays", "champion", 1)
    trained = solver.solve(example(TrainingQuery), {**example(TrainingParameters), "name": "own"}, timeout=120)
    assert get_model_registry(local).resolve("own").model_id == trained["model_id"]
    assert trained["metrics"]["rmse"] >= 0
    tuned = solver.solve(example(TuningQuery), example(TuningParameters), timeout=120)
    assert len(tuned["trials"]) == 3
    assert tuned["best_params"]["alpha"] in (0.1, 1.0, 10.0)
    scored = solver.solve(example(BatchPredictionQuery), timeout=120)
    assert scored["rows"] == 1
    assert pd.read_parquet(scored["output"].removeprefix("file://"))["prediction"].iloc[0] == pytest.approx(24, abs=0.5)


def test_rows_are_held_back_and_weigh_as_asked(solver: SolverService, local: Config) -> None:
    table = flights(60).assign(day=range(60), counts=[0.0, 1.0] * 30).to_dict("records")
    asked = {"time_col": "day", "weight_col": "counts", "monotone_constraints": {"distance": 1}}
    trained = solver.solve(
        {"type": "training", "data": table, "target": "delay"},
        {**asked, "early_stopping": 3, "model_params": {"n_estimators": 20}}, timeout=120,
    )  # fmt: skip
    tuned = solver.solve(
        {"type": "tuning", "data": table, "target": "delay"},
        {**asked, "trials": 2, "folds": 2, "search_space": {"max_depth": [2, 3]}}, timeout=120,
    )  # fmt: skip
    for result in (trained, tuned):
        assert (result["validation_rows"], {"day", "counts"} & set(result["features"])) == (12, set())


def test_a_second_run_of_a_training_task_trains_no_second_model(local: Config) -> None:
    from registry import TaskContext
    from registry.task_record import new_task_id
    from solver.execute import run

    payload = {"query_data": example(TrainingQuery), "parameters": {"model_type": "linear"}}
    context = TaskContext(new_task_id(), local)
    assert run(payload, context)["model_id"] == run(payload, context)["model_id"]


def test_what_cannot_be_learnt_or_scored_is_refused_at_once(
    solver: SolverService, local: Config, tmp_path: Path
) -> None:
    flights(30).to_csv(tmp_path / "data" / "t.csv", index=False)
    table = (tmp_path / "data" / "t.csv").as_uri()
    learn = {"type": "training", "data": table, "target": "delay"}
    with pytest.raises(ColumnMissing, match="dely"):
        solver.submit({**learn, "target": "dely"})
    with pytest.raises(ColumnMissing, match="cariers"):
        solver.submit(learn, {"group_col": "cariers"})
    with pytest.raises(InvalidField, match="xgbost"):
        solver.submit(learn, {"model_type": "xgbost"})
    with pytest.raises(InvalidField, match="nothing to learn"):
        solver.submit({**learn, "data": []})
    with pytest.raises(ModelNotFound):
        solver.submit({"type": "batch_prediction", "model": "nobody", "data": table})
    untrusted = get_solver_service(local, trusted=False)
    for kind in ("training", "tuning"):
        with pytest.raises(UriNotAllowed):
            untrusted.submit({"type": kind, "data": "/etc/passwd", "target": "x"})


def noisy(rows: int, seed: int) -> pd.DataFrame:
    frame = flights(rows, seed)
    return frame.assign(delay=frame["delay"] + np.random.default_rng(seed + 1000).gamma(2.0, 3.0, rows))


def test_intervals_hold_the_truth_in_the_asked_share_of_cases(solver: SolverService, local: Config) -> None:
    train_model(noisy(2000, 1), "delay", model_type="linear", name="delays", config=local)
    fresh = noisy(3000, 2)
    question = {"type": "prediction", "model": "delays", "entities": records(fresh.drop(columns="delay"))}
    for coverage in (0.5, 0.9):
        answer = solver.solve(question, {"coverage": coverage})
        low, high = np.array(answer["intervals"]).T
        held = np.mean((low <= fresh["delay"]) & (fresh["delay"] <= high))
        assert held == pytest.approx(coverage, abs=0.05)
    with pytest.raises(InvalidField, match="held-out rows"):
        solver.solve(question, {"coverage": 0.9999})


def test_sets_of_classes_and_contributions(solver: SolverService, classifier: dict[str, Any], local: Config) -> None:
    rows = records(flights(300, seed=7).drop(columns="delay"))
    question = {"type": "prediction", "model": "late", "entities": rows}
    answer = solver.solve(question, {"coverage": 0.9, "explain": True})
    assert all(label in found for label, found in zip(answer["predictions"], answer["prediction_sets"], strict=True))
    assert set(answer["contributions"][0]) == {"distance", "carrier", "night"}
    assert len(answer["base_values"]) == 300


def test_a_model_from_elsewhere_cannot_say_how_sure_it_is(solver: SolverService, local: Config) -> None:
    from sklearn.linear_model import LinearRegression

    frame = flights(50)[["distance", "delay"]]
    get_model_registry(local).register_model(
        LinearRegression().fit(frame[["distance"]], frame["delay"]), "linear", name="bare", example=frame[["distance"]]
    )
    question = {"type": "prediction", "model": "bare", "entities": [{"distance": 100}]}
    with pytest.raises(CapabilityMissing, match="how sure"):
        solver.solve(question, {"coverage": 0.9})
    with pytest.raises(CapabilityMissing, match="explain"):
        solver.solve(question, {"explain": True})
