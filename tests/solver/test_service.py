"""The solver without Ray: answers at once and as durable tasks, from registered and from newly trained models."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from compute import Config
from compute.errors import (
    ColumnInvalid,
    ColumnMissing,
    Conflict,
    DataError,
    InvalidField,
    ModelNotFound,
    ResultTimeout,
    TaskNotFinished,
    TaskNotFound,
    UriNotAllowed,
)
from registry import TaskContext, get_model_registry
from registry.task_record import new_task_id
from solver import SolverService, get_solver_service
from solver.queries import parse
from solver.training import train
from tests.solver.conftest import flights, labelled, records

ROW = {"distance": 1000, "carrier": "UA", "night": False}


def ask(**query: Any) -> dict[str, Any]:
    return {"type": "prediction", "entities": [ROW], **query}


def test_a_registered_model_answers_at_once(solver: SolverService, model: dict[str, Any]) -> None:
    answers = [
        solver.solve(ask(model="delays")),
        solver.solve(ask(model="delays:1"), {"model_type": "linear"}),
        solver.solve(ask(model_id=model["model_id"]), timeout=30),
    ]
    for answer in answers:
        assert answer["predictions"] == pytest.approx([20.0], abs=0.5)
        assert (answer["model_id"], answer["model"], answer["version"]) == (model["model_id"], "delays", 1)
        assert answer["rows"] == 1
        assert answer["seconds"]["total"] >= answer["seconds"]["predict"] >= 0
        assert answer["plan"]["mode"] == "single"
        json.dumps(answer, allow_nan=False)


def test_a_task_gives_the_same_answer(solver: SolverService, model: dict[str, Any]) -> None:
    frame = flights(50, seed=5)
    query = ask(model="delays", entities=records(frame.drop(columns="delay")))
    task_id = solver.submit(query)
    status = solver.wait(task_id, 60)
    assert (status["state"], status["type"], status["attempts"]) == ("SUCCEEDED", "prediction", 1)
    assert status["submitted_at"] <= status["started_at"] <= status["finished_at"]
    assert status["result"]["predictions"] == pytest.approx(solver.solve(query)["predictions"])
    assert status["result"]["predictions"] == pytest.approx(frame["delay"].tolist(), abs=1.0)
    assert solver.status(task_id) == status


def test_a_task_keeps_the_version_it_was_accepted_with(
    solver: SolverService, model: dict[str, Any], local: Config
) -> None:
    from jobs import train_model

    first = solver.submit(ask(model="delays"), idempotency_key="k")
    train_model(flights(100), "delay", model_type="linear", name="delays", config=local)
    assert solver.submit(ask(model="delays"), idempotency_key="k") == first
    assert solver.wait(first, 60)["result"]["version"] == 1
    assert solver.solve(ask(model="delays"))["version"] == 2


def test_classes_and_probabilities(solver: SolverService, classifier: dict[str, Any]) -> None:
    query = ask(model="late", entities=[ROW | {"distance": 2900}, ROW | {"distance": 120}])
    answer = solver.solve(query, {"probabilities": True})
    assert answer["predictions"] == ["late", "fine"]
    assert sorted(answer["classes"]) == ["fine", "late"]
    for row, label in zip(answer["probabilities"], answer["predictions"], strict=True):
        assert sum(row) == pytest.approx(1, abs=1e-5)
        assert answer["classes"][row.index(max(row))] == label
    assert "probabilities" not in solver.solve(query)


def test_labelled_entities_train_a_model_for_the_others(solver: SolverService, local: Config) -> None:
    frame = flights(300)
    entities = records(frame)
    for index in (7, 90):
        entities[index]["delay"] = None
    del entities[200]["delay"]
    answer = solver.solve(
        {"type": "prediction", "entities": entities, "target": "delay"},
        {"model_type": "linear", "name": "from-entities"},
        timeout=120,
    )
    assert answer["row_numbers"] == [7, 90, 200]
    assert answer["predictions"] == pytest.approx(frame["delay"].iloc[[7, 90, 200]].tolist(), abs=1.0)
    assert answer["training"]["metrics"]["rmse"] < answer["training"]["metrics"]["baseline_rmse"]
    assert get_model_registry(local).get_model(answer["model_id"]).name == "from-entities"


def test_the_call_of_the_documentation(solver: SolverService) -> None:
    entities = labelled(60)
    entities.append(dict(ROW))
    answer = solver.solve(
        query_data={"type": "prediction", "entities": entities},
        parameters={"model_type": "xgboost", "distribute_data": False},
    )
    assert answer["training"]["model_type"] == "xgboost"
    assert answer["row_numbers"] == [60]
    # The same call with unlabelled entities takes the model of that type that was trained last.
    later = solver.solve({"type": "prediction", "entities": [ROW]}, {"model_type": "xgboost"})
    assert later["model_id"] == answer["model_id"]
    assert later["predictions"] == pytest.approx(answer["predictions"])


def test_a_run_that_follows_one_that_was_cut_off_trains_no_second_model(local: Config) -> None:
    query, parameters = parse({"type": "prediction", "entities": [*labelled(60), ROW]}, {"model_type": "linear"})
    context = TaskContext(new_task_id(), local)
    first, second = train(query, parameters, context), train(query, parameters, context)
    assert first[0].model_id == second[0].model_id
    assert first[1]["metrics"] == second[1]["metrics"]
    assert [record.version for record in get_model_registry(local).list_models()] == [1]
    assert train(query, parameters, TaskContext(new_task_id(), local))[0].model_id != first[0].model_id


def test_training_data_and_entities_in_files(solver: SolverService, local: Config, tmp_path: Path) -> None:
    data = tmp_path / "data"
    flights(300).to_csv(data / "train.csv", index=False)
    test = flights(40, seed=9)
    test.drop(columns="delay").to_parquet(data / "test.parquet")
    output = (data / "out.parquet").as_uri()
    answer = solver.solve(
        {
            "type": "prediction",
            "entities": (data / "test.parquet").as_uri(),
            "training_data": (data / "train.csv").as_uri(),
            "target": "delay",
        },
        {"model_type": "linear", "output": output},
        timeout=120,
    )
    assert (answer["output"], answer["rows"]) == (output, 40)
    assert "predictions" not in answer
    scored = pd.read_parquet(data / "out.parquet")
    assert len(scored) == 40
    column = next(name for name in scored.columns if "prediction" in name)
    assert scored[column].tolist() == pytest.approx(test["delay"].tolist(), abs=1.0)


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any] | None, type[Exception], str]] = [
    ("unknown type", {"type": "sorcery"}, None, InvalidField, "prediction"),
    ("no entities", ask(model="delays", entities=[]), None, InvalidField, "nothing to predict"),
    ("unknown model", ask(model="nobody"), None, ModelNotFound, "nobody"),
    ("unknown model id", ask(model_id="m-nobody"), None, ModelNotFound, "m-nobody"),
    ("no model", ask(), None, InvalidField, "names no model"),
    ("no model of the type", ask(), {"model_type": "random_forest"}, ModelNotFound, "random_forest"),
    ("model type", ask(model="delays"), {"model_type": "xgboost"}, InvalidField, "of the type 'linear'"),
    ("probabilities", ask(model="delays"), {"probabilities": True}, InvalidField, "regression"),
    ("no label", ask(target="delay"), None, InvalidField, "nothing to learn from"),
    ("all labels", ask(target="night"), None, InvalidField, "nothing to predict"),
    ("feature missing", ask(model="delays", entities=[ROW, {"distance": 1}]), None, ColumnMissing, "row 1"),
    ("wrong type", ask(model="delays", entities=[ROW, ROW | {"distance": "far"}]), None, ColumnInvalid, "distance"),
]


@pytest.mark.parametrize(
    ("query", "parameters", "error", "text"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED]
)
@pytest.mark.parametrize("verb", ["solve", "submit"])
def test_what_cannot_be_answered_is_refused_before_it_is_accepted(
    solver: SolverService,
    model: dict[str, Any],
    query: dict[str, Any],
    parameters: dict[str, Any] | None,
    error: type[Exception],
    text: str,
    verb: str,
    local: Config,
) -> None:
    with pytest.raises(error, match=text):
        getattr(solver, verb)(query, parameters)
    from registry import open_store

    assert list(open_store(local.storage.uri, local).list("tasks/log/")) == []


def test_an_unknown_category_and_a_null_are_scored(solver: SolverService, model: dict[str, Any]) -> None:
    answer = solver.solve(ask(model="delays", entities=[ROW | {"carrier": "??"}, ROW | {"distance": None}]))
    assert len(answer["predictions"]) == 2


def test_the_data_error_names_feature_and_row(solver: SolverService, model: dict[str, Any]) -> None:
    with pytest.raises(DataError) as missing:
        solver.solve(ask(model="delays", entities=[ROW, {"distance": 1, "night": True}]))
    assert missing.value.context == {"feature": "carrier", "row": 1}
    with pytest.raises(DataError) as wrong:
        solver.solve(ask(model="delays", entities=[ROW, ROW, ROW | {"distance": "far"}]))
    assert (wrong.value.context["feature"], wrong.value.context["row"]) == ("distance", 2)


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        (ask(entities="/etc/passwd", model="delays"), None),
        (ask(training_data="file:///etc/passwd"), None),
        (ask(model="delays"), {"output": "../../outside.parquet"}),
    ],
)
def test_who_is_not_trusted_names_no_uri_outside_the_data(
    local: Config, model: dict[str, Any], query: dict[str, Any], parameters: dict[str, Any] | None
) -> None:
    untrusted = get_solver_service(local, trusted=False)
    with pytest.raises(UriNotAllowed):
        untrusted.submit(query, parameters)
    with pytest.raises(UriNotAllowed):
        untrusted.solve(query, parameters)


def test_idempotency_keys(solver: SolverService, model: dict[str, Any], local: Config) -> None:
    first = solver.submit(ask(model="delays"), idempotency_key="k", caller="ann")
    get_model_registry(local).delete_model(model["model_id"])
    # The same question is the same task, even though the model it names has gone since.
    assert solver.submit(ask(model="delays"), idempotency_key="k", caller="ann") == first
    with pytest.raises(ModelNotFound):
        solver.submit(ask(model="delays"), idempotency_key="k", caller="bob")
    with pytest.raises((Conflict, ModelNotFound)):
        solver.submit(ask(model="other"), idempotency_key="k", caller="ann")
    for bad in ("", "x" * 256, "line\nfeed"):
        with pytest.raises(InvalidField, match="idempotency key"):
            solver.submit(ask(model="delays"), idempotency_key=bad)


@pytest.mark.slow
def test_a_failure_of_the_task_is_raised_as_it_was_and_told_in_the_status(solver: SolverService) -> None:
    entities = [{"x": index, "y": None if index == 0 else "same"} for index in range(30)]
    query = {"type": "prediction", "entities": entities, "target": "y"}
    with pytest.raises(DataError) as failed:
        solver.solve(query, {"model_type": "linear"}, timeout=120)
    status = solver.wait(solver.submit(query, {"model_type": "linear"}), 120)
    assert (status["state"], status["problem"]["code"]) == ("FAILED", failed.value.code)
    assert "result" not in status


def test_waiting_too_long_leaves_the_task_to_be_asked_for(solver: SolverService) -> None:
    entities = [*labelled(200), dict(ROW)]
    with pytest.raises(ResultTimeout, match="goes on") as late:
        solver.solve({"type": "prediction", "entities": entities}, {"model_type": "linear"}, timeout=0.001)
    status = solver.wait(late.value.context["task_id"], 120)
    assert status["state"] == "SUCCEEDED"
    assert len(status["result"]["predictions"]) == 1


@pytest.mark.parametrize("call", ["status", "cancel"])
def test_ids_that_are_none(solver: SolverService, call: str) -> None:
    with pytest.raises(TaskNotFound):
        getattr(solver, call)(new_task_id())
    with pytest.raises(InvalidField):
        getattr(solver, call)("task-1")


def test_a_finished_task_cannot_be_cancelled(solver: SolverService, model: dict[str, Any]) -> None:
    task_id = solver.submit(ask(model="delays"))
    solver.wait(task_id, 60)
    with pytest.raises(TaskNotFinished):
        solver.cancel(task_id)


def test_the_service_travels(solver: SolverService, model: dict[str, Any]) -> None:
    task_id = solver.submit(ask(model="delays"))
    copy: SolverService = pickle.loads(pickle.dumps(get_solver_service(solver.config, trusted=False)))
    assert copy.trusted is False
    assert copy.wait(task_id, 60)["state"] == "SUCCEEDED"


def test_a_small_prediction_costs_little_more_than_the_model_itself(
    solver: SolverService, model: dict[str, Any], local: Config, clock: Callable[[Callable[[], object]], float]
) -> None:
    loaded = get_model_registry(local).load_model(model["model_id"])
    frame = pd.DataFrame([ROW])
    bare = clock(lambda: loaded.predict(frame))
    assert clock(lambda: solver.solve(ask(model="delays"))) - bare < 0.03
