"""The solver application over HTTP, through Serve as it is deployed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from compute import Config
from compute.errors import TaskNotFinished
from deployments.tokens import Role
from jobs import train_model
from registry.task_record import new_task_id
from solver.queries import QUERY_TYPES, PredictionQuery
from tests.solver.conftest import flights, labelled, records

ROW = {"distance": 1000, "carrier": "UA", "night": False}

Client = Callable[..., httpx.Client]


@pytest.fixture(scope="module")
def solver_model(solver_url: str, served_config: Config) -> dict[str, Any]:
    """A registered regression that the served solver finds, named ``solver-delays``."""
    return train_model(flights(400), "delay", model_type="linear", name="solver-delays", config=served_config)


@pytest.fixture
def http(client: Client, solver_url: str, solver_model: dict[str, Any]) -> httpx.Client:
    return client(solver_url, Role.WRITE)


def ask(**query: Any) -> dict[str, Any]:
    return {"query_data": {"type": "prediction", "model": "solver-delays", "entities": [ROW], **query}}


def finished(http: httpx.Client, task_id: str) -> dict[str, Any]:
    body: dict[str, Any] = {"state": "PENDING"}
    end = time.monotonic() + 90
    while body["state"] in ("PENDING", "RUNNING"):
        assert time.monotonic() < end, body
        body = http.get(f"/task/{task_id}", params={"wait": 10}).raise_for_status().json()
    return body


def test_a_question_is_accepted_and_answered(http: httpx.Client) -> None:
    response = http.post("/solve", json=ask(entities=records(flights(20, seed=3).drop(columns="delay"))))
    assert response.status_code == 202
    task = response.json()
    assert sorted(task) == ["status", "task_id"]
    assert task["status"] == "PENDING"
    assert response.headers["location"] == f"/solver/task/{task['task_id']}"
    body = finished(http, task["task_id"])
    assert (body["state"], body["type"], body["attempts"]) == ("SUCCEEDED", "prediction", 1)
    assert body["result"]["predictions"] == pytest.approx(flights(20, seed=3)["delay"].tolist(), abs=1.0)
    assert body["submitted_at"] <= body["started_at"] <= body["finished_at"]


def test_the_answer_at_once(http: httpx.Client, solver_model: dict[str, Any]) -> None:
    response = http.post("/solve-sync", json=ask())
    assert response.status_code == 200
    assert response.json()["predictions"] == pytest.approx([20.0], abs=0.5)
    assert response.json()["model_id"] == solver_model["model_id"]


def test_training_first_and_the_answer_at_once(http: httpx.Client) -> None:
    entities = [*labelled(100), dict(ROW)]
    body = {
        "query_data": {"type": "prediction", "entities": entities},
        "parameters": {"model_type": "linear", "name": "trained-over-http"},
    }
    answer = http.post("/solve-sync", json=body, timeout=120).raise_for_status().json()
    assert answer["model"] == "trained-over-http"
    assert answer["row_numbers"] == [100]


def test_an_idempotency_key(http: httpx.Client, client: Client, solver_url: str) -> None:
    key = {"Idempotency-Key": new_task_id()}
    first, again = (http.post("/solve", json=ask(), headers=key).json()["task_id"] for _ in range(2))
    assert first == again
    other_question = http.post("/solve", json=ask(entities=[ROW, ROW]), headers=key)
    assert (other_question.status_code, other_question.json()["code"]) == (409, "conflict")
    other_caller = client(solver_url, Role.ADMIN).post("/solve", json=ask(entities=[ROW, ROW]), headers=key)
    assert other_caller.status_code == 202
    assert other_caller.json()["task_id"] != first


def test_cancel(http: httpx.Client) -> None:
    task_id = http.post("/solve", json=ask()).json()["task_id"]
    finished(http, task_id)
    refused = http.delete(f"/task/{task_id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "task-state-conflict")
    entities = [*labelled(2000), dict(ROW)]
    body = {
        "query_data": {"type": "prediction", "entities": entities},
        "parameters": {"model_type": "xgboost", "distribute_data": False, "model_params": {"n_estimators": 1_000_000}},
    }
    task_id = http.post("/solve", json=body).json()["task_id"]
    cancelled = http.delete(f"/task/{task_id}")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "CANCELLED")
    status = http.get(f"/task/{task_id}").json()
    assert (status["state"], status["problem"]["code"]) == ("CANCELLED", "task-cancelled")


def test_a_task_that_takes_too_long(http: httpx.Client) -> None:
    entities = [*labelled(2000), dict(ROW)]
    body = {
        "query_data": {"type": "prediction", "entities": entities},
        "parameters": {
            "model_type": "xgboost",
            "distribute_data": False,
            "model_params": {"n_estimators": 1_000_000},
            "timeout": 1.0,
        },
    }
    response = http.post("/solve-sync", json=body, params={"timeout": 60}, timeout=90)
    assert (response.status_code, response.json()["code"]) == (504, "task-timed-out")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{nonsense", 400, "bad-request"),
        (b"", 400, "bad-request"),
        (b'{"query_data": {"type": "prediction", "entities": [{"x": NaN}]}}', 400, "bad-request"),
        (b"[]", 422, "invalid-field"),
        (b"{}", 422, "invalid-field"),
        (b'{"query_data": null}', 422, "invalid-field"),
        (b'{"query_data": {"type": "sorcery"}}', 422, "invalid-field"),
        (b'{"query_data": {"type": "prediction", "entities": []}}', 422, "invalid-field"),
        (b'{"query_data": {"type": "prediction", "entities": [{"x": 1}]}, "extra": 1}', 422, "invalid-field"),
        (b'{"query_data": {"type": "prediction", "model": "nobody", "entities": [{"x": 1}]}}', 404, "model-not-found"),
        (b'{"query_data": {"type": "prediction", "model": "m", "entities": "/etc/passwd"}}', 403, "uri-not-allowed"),
        (
            b'{"query_data": {"type": "prediction", "model": "m", "entities": "http://169.254.169.254/x.csv"}}',
            403,
            "uri-not-allowed",
        ),
        (b'{"query_data": {"type": "prediction", "model": "solver-delays", "entities": [{}]}}', 422, "column-missing"),
        (
            b'{"query_data": {"type": "prediction", "model": "solver-delays", '
            b'"entities": [{"distance": "far", "carrier": "UA", "night": true}]}}',
            422,
            "column-invalid",
        ),
    ],
)
@pytest.mark.parametrize("path", ["/solve", "/solve-sync"])
def test_bad_questions(http: httpx.Client, path: str, content: bytes, status: int, code: str) -> None:
    response = http.post(path, content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    if code == "column-invalid":
        assert response.json()["context"]["feature"] == "distance"
        assert response.json()["context"]["row"] == 0


def test_an_unknown_type_is_told_which_there_are(http: httpx.Client) -> None:
    body = http.post("/solve", json={"query_data": {"type": "sorcery"}}).json()
    assert body["context"]["types"] == list(QUERY_TYPES)


@pytest.mark.parametrize(
    ("task_id", "status"),
    [(new_task_id(), 404), ("task-1", 422), ("..%2f..", 404), (new_task_id(0), 410)],
    ids=["unknown", "no id", "a path", "long gone"],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_tasks_that_are_not_there(http: httpx.Client, method: str, task_id: str, status: int) -> None:
    assert http.request(method, f"/task/{task_id}").status_code == status


def test_roles(client: Client, solver_url: str, http: httpx.Client) -> None:
    task_id = http.post("/solve", json=ask()).json()["task_id"]
    reader, nobody = client(solver_url, Role.READ), client(solver_url, None)
    assert reader.get(f"/task/{task_id}").status_code == 200
    for method, path in [("POST", "/solve"), ("POST", "/solve-sync"), ("DELETE", f"/task/{task_id}")]:
        assert reader.request(method, path, json=ask()).status_code == 403
        assert nobody.request(method, path, json=ask()).status_code == 401
    assert nobody.get(f"/task/{task_id}").status_code == 401


def test_the_interface_describes_the_questions(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    reference = document["paths"]["/solve"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schemas = document["components"]["schemas"]
    assert reference == "#/components/schemas/SolveRequest"
    assert {"SolveRequest", "PredictionQuery", "PredictionParameters"} <= set(schemas)
    assert schemas["PredictionQuery"]["examples"] == PredictionQuery.model_json_schema()["examples"]


def test_every_example_of_an_optimization_is_answered(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()["components"]["schemas"]["OptimizationQuery"]
    values = []
    for example in schema["examples"]:
        answer = http.post("/solve-sync", json={"query_data": example, "parameters": {"time_limit": 20}}).json()
        assert answer["termination"]["reason"] == "OPTIMAL"
        values.append(answer["objective_value"])
    assert values == pytest.approx([2200.0, 5.5358079, 13.0, 12.0])


def test_a_program_that_is_none_is_refused_at_once(http: httpx.Client) -> None:
    wrong = {"type": "optimization", "expressions": {"variables": {"x": {}}, "maximize": "x.y"}}
    response = http.post("/solve", json={"query_data": wrong})
    assert response.status_code == 422
    assert response.json()["detail"].startswith("expressions.maximize is wrong at position 0")
    elsewhere = {"type": "optimization", "uri": "file:///etc/passwd"}
    assert http.post("/solve", json={"query_data": elsewhere}).status_code == 403


def test_a_handle_answers_other_programs(serve: Any, http: httpx.Client) -> None:
    answer = serve.get_app_handle("solver").solve.remote(ask()["query_data"]).result(timeout_s=60)
    assert answer["predictions"] == pytest.approx([20.0], abs=0.5)


def test_a_handle_takes_durable_tasks(serve: Any, http: httpx.Client) -> None:
    handle = serve.get_app_handle("solver")
    task_id = handle.submit.remote(ask()["query_data"], idempotency_key="h").result(timeout_s=60)
    assert handle.submit.remote(ask()["query_data"], idempotency_key="h").result(timeout_s=60) == task_id
    assert handle.status.remote(task_id, wait=30).result(timeout_s=60)["state"] == "SUCCEEDED"
    with pytest.raises(TaskNotFinished):
        handle.cancel.remote(task_id).result(timeout_s=60)


def lines(text: str) -> list[dict[str, str]]:
    """The events of a stream."""
    found = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block.strip()]
    return [event for event in found if "event" in event]


def test_a_task_is_followed_as_events_until_its_end(http: httpx.Client) -> None:
    task_id = http.post("/solve", json=ask()).json()["task_id"]
    stream = http.get(f"/task/{task_id}/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = lines(stream.text)
    states = [json.loads(event["data"])["state"] for event in events if event["event"] == "state"]
    assert (states[0], states[-1]) == ("PENDING", "SUCCEEDED")
    assert [float(event["id"]) for event in events] == sorted(float(event["id"]) for event in events)
    rest = http.get(f"/task/{task_id}/events", headers={"Last-Event-ID": events[-2]["id"]})
    assert lines(rest.text) == events[-1:]
    # Who has seen the end is told to come no more.
    assert http.get(f"/task/{task_id}/events", headers={"Last-Event-ID": events[-1]["id"]}).status_code == 204
    assert http.get(f"/task/{task_id}/events", headers={"Last-Event-ID": "x"}).status_code == 422
    assert http.get(f"/task/{new_task_id()}/events").status_code == 404


def test_incumbents_are_told_as_they_are_found(http: httpx.Client) -> None:
    names = [f"x{n}" for n in range(60)]
    weights = [[(7 * n + 13 * m) % 97 + 3 for n in range(60)] for m in range(12)]
    expressions = {
        "variables": {name: {"lower": 0, "upper": 1, "integer": True} for name in names},
        "maximize": " + ".join(f"{(11 * n) % 89 + 5}*{name}" for n, name in enumerate(names)),
        "subject_to": [" + ".join(f"{w}*{n}" for w, n in zip(row, names, strict=True)) + " <= 700" for row in weights],
    }
    question = {"query_data": {"type": "optimization", "expressions": expressions}, "parameters": {"time_limit": 4}}
    task_id = http.post("/solve", json=question).json()["task_id"]
    events = lines(http.get(f"/task/{task_id}/events", timeout=60).text)
    found = [json.loads(event["data"])["incumbent"]["objective"] for event in events if event["event"] == "incumbent"]
    assert found == sorted(found)
    status = http.get(f"/task/{task_id}").json()
    assert status["node"]
    assert status["messages"][0]["message"] == "begun"
    assert status["result"]["objective_value"] >= max(found, default=0.0)


def test_tasks_are_listed_by_state_type_and_token(client: Client, solver_url: str, http: httpx.Client) -> None:
    ids = [http.post("/solve", json=ask()).json()["task_id"] for _ in range(3)]
    for task_id in ids:
        assert http.get(f"/task/{task_id}", params={"wait": 30}).json()["state"] == "SUCCEEDED"
    page = http.get("/tasks", params={"state": "SUCCEEDED", "type": "prediction", "mine": True, "limit": 2}).json()
    assert [task["task_id"] for task in page["tasks"]] == sorted(ids, reverse=True)[:2]
    assert "result" not in page["tasks"][0]
    more = http.get("/tasks", params={"cursor": page["next_cursor"], "mine": True}).json()
    assert more["tasks"][0]["task_id"] == sorted(ids)[0]
    assert client(solver_url, Role.READ).get("/tasks", params={"mine": True}).json()["tasks"] == []
    for wrong in ({"state": "DONE"}, {"type": "sorcery"}, {"cursor": "x"}, {"limit": 0}):
        assert http.get("/tasks", params=wrong).status_code == 422
