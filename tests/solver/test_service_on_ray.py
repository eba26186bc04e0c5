"""The solver on a Ray cluster: the same service, its tasks with the detached actor and on the cluster's workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from compute import Config
from compute.errors import TaskCancelled
from jobs import train_model
from registry import task_actor
from registry.actor import NAMESPACE, actor_name
from solver import SolverService, get_solver_service
from tests.solver.conftest import flights, labelled, records

ROW = {"distance": 1000, "carrier": "UA", "night": False}


@pytest.fixture
def solver(ray_cluster: str, config: Config) -> Iterator[SolverService]:
    import ray

    yield get_solver_service(config)
    for name in (actor_name(config.storage.uri), task_actor.actor_name(config)):
        with suppress(ValueError):  # the test did not get as far as to start it
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))


def test_tasks_answers_at_once_and_training(solver: SolverService) -> None:
    answer = solver.solve(
        query_data={"type": "prediction", "entities": [*labelled(100), ROW]},
        parameters={"model_type": "linear", "name": "delays"},
        timeout=120,
    )
    assert answer["row_numbers"] == [100]
    assert answer["predictions"] == pytest.approx([20.0], abs=2.0)
    query = {"type": "prediction", "model": "delays", "entities": records(flights(30).drop(columns="delay"))}
    status = solver.wait(solver.submit(query), 60)
    assert status["state"] == "SUCCEEDED"
    assert status["result"]["predictions"] == pytest.approx(solver.solve(query)["predictions"])


@pytest.mark.slow
def test_from_within_a_task_of_the_cluster(solver: SolverService, config: Config) -> None:
    import ray

    train_model(flights(100), "delay", model_type="linear", name="delays", config=config)

    @ray.remote
    def ask(service: SolverService) -> dict[str, Any]:
        query = {"type": "prediction", "model": "delays", "entities": [ROW]}
        return service.wait(service.submit(query), 60) | {"at_once": service.solve(query)["predictions"]}

    status = ray.get(ask.remote(solver))
    assert status["result"]["predictions"] == pytest.approx(status["at_once"])


@pytest.mark.slow
def test_a_question_outlives_the_actor_that_accepted_it(solver: SolverService, config: Config) -> None:
    import ray

    query = {"type": "prediction", "entities": [*labelled(100), ROW]}
    task_ids = [solver.submit(query, {"model_type": "linear", "name": f"m{number}"}) for number in range(3)]
    pid = ray.get(task_actor.get_actor(config).__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    for task_id in task_ids:
        status = solver.wait(task_id, 90)
        assert status["state"] == "SUCCEEDED", status
        # However often it ran, it trained one model.
        assert status["result"]["version"] == 1


def test_a_cancelled_training_raises_for_who_waits(solver: SolverService) -> None:
    query = {"type": "prediction", "entities": [*labelled(2000), ROW]}
    endless = {"distribute_data": False, "model_params": {"n_estimators": 1_000_000}}
    task_id = solver.submit(query, endless)
    assert solver.cancel(task_id)["state"] == "CANCELLED"
    with pytest.raises(TaskCancelled):
        solver.answer(solver._registry().wait(task_id))


@pytest.mark.slow
def test_the_call_of_the_documentation_over_the_cluster(solver: SolverService) -> None:
    answer = solver.solve(
        query_data={"type": "prediction", "entities": [*labelled(2000), ROW]},
        parameters={"model_type": "xgboost", "distribute_data": True},
        timeout=280,
    )
    assert answer["training"]["plan"]["mode"] == "distributed"
    assert answer["predictions"] == pytest.approx([20.0], abs=3.0)
