"""Durable tasks: how fast they are taken in, what many open ones cost; and sweeps next to a plain loop."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from typing import Any

import numpy as np

from benchmarks.table import Row, in_turns
from compute import ComputeManager, Config, load_config
from compute.local_backend import LocalBackend
from registry.task_record import new_task_id
from registry.task_service import TaskService
from solver.chunks import in_order
from solver.simulation_query import SweepParameters, SweepQuery
from solver.sweep import _solve, solve_scenario

CLIENTS = 32
OPEN = 100_000
SCENARIOS = 1000


def run(*, quick: bool = False) -> list[Row]:
    """Measure each in turn."""
    return [*_prediction(5 if quick else 30), *_taking_in(1000 if quick else OPEN), *_sweep(40 if quick else SCENARIOS)]


def _config(directory: str) -> Config:
    config = load_config()
    storage = config.storage.model_copy(update={"uri": f"{directory}/state", "data_uri": f"{directory}/data"})
    compute = config.compute.model_copy(update={"backend": "local", "local_workers": 1})
    return config.model_copy(update={"storage": storage, "compute": compute})


def _prediction(turns: int) -> list[Row]:
    """Ask a registered model through the service, and by itself."""
    import pandas as pd

    from jobs import train_model
    from registry import get_model_registry
    from solver import get_solver_service

    with tempfile.TemporaryDirectory() as directory:
        config = _config(directory)
        random = np.random.default_rng(0)
        frame = pd.DataFrame({name: random.random(2000) for name in "abcdef"})
        frame["y"] = frame.sum(axis=1)
        model_id = train_model(frame, "y", name="sum", model_params={"n_estimators": 50}, config=config)["model_id"]
        rows: list[dict[str, Any]] = frame.drop(columns="y").head(10).to_dict("records")
        loaded, service = get_model_registry(config).load_model(model_id), get_solver_service(config)
        question = {"type": "prediction", "model": "sum", "entities": rows}
        work: dict[str, Any] = {"model": lambda: loaded.predict(rows), "service": lambda: service.solve(question)}
        for call in work.values():
            call()
        seconds = in_turns(work, turns)
        service.close()
    beyond = seconds["service"] - seconds["model"]
    return [
        Row("10 rows by the loaded model", seconds["model"] * 1e3, "ms"),
        Row("the same through SolverService.solve, beyond that", beyond * 1e3, "ms", limit=30),
    ]


def _taking_in(count: int) -> list[Row]:
    """Accept tasks from many clients that nobody runs, and look at how long one takes among few and many open ones."""

    def unused() -> ComputeManager:
        raise AssertionError("nothing runs")

    payload = {"json": {"query_data": {"type": "prediction", "entities": [{"x": 1.0}] * 5}}, "sha256": "0" * 64}
    fields = {"kind": "prediction", "entry": "m:f", "payload": payload, "fingerprint": "0" * 64}
    with tempfile.TemporaryDirectory() as directory:
        service = TaskService(_config(directory), name="bench", manager=unused, slots=0, max_open=2 * count)
        few = _latency(service, fields)
        began = time.perf_counter()
        threads = [
            threading.Thread(target=lambda: [service.accept(new_task_id(), **fields) for _ in range(count // CLIENTS)])
            for _ in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rate = count / (time.perf_counter() - began)
        many = _latency(service, fields)
        service.close()
    return [
        Row(f"tasks accepted durably by {CLIENTS} clients, on a directory", rate, "/s", limit=500),
        Row("one accepted and asked for, with 200 open", few * 1e3, "ms"),
        Row(f"the same with {count:,} open", many * 1e3, "ms", many / few, 1.5),
    ]


def _latency(service: TaskService, fields: dict[str, Any]) -> float:
    seconds = []
    for _ in range(200):
        began = time.perf_counter()
        service.get(service.accept(new_task_id(), **fields).task_id)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _sweep(count: int) -> list[Row]:
    """Solve one linear program for many demands, in a loop here and in tasks of two processes."""
    random = np.random.default_rng(1)
    plants, shops = 12, 40
    cost = random.integers(1, 50, (plants, shops)).ravel().tolist()
    cells = plants * shops
    model = {
        "variables": {"count": cells, "lower_bounds": 0},
        "objective": {"linear_coefficients": cost},
        "linear_constraints": {
            "lower_bounds": [None] * plants + [{"$input": f"need{shop}"} for shop in range(shops)],
            "upper_bounds": [5000] * plants + [None] * shops,
        },
        "linear_constraint_matrix": {
            "row_ids": [cell // shops for cell in range(cells)] + [plants + cell % shops for cell in range(cells)],
            "column_ids": [*range(cells), *range(cells)],
            "coefficients": [1] * (2 * cells),
        },
    }
    scenarios = [{f"need{shop}": float(random.integers(50, 150)) for shop in range(shops)} for _ in range(count)]
    query = SweepQuery.model_validate({"type": "sweep", "optimization": {"model": model}, "scenarios": scenarios})
    parameters = SweepParameters()
    shared = (query.model_dump(), parameters.model_dump())
    with ComputeManager(LocalBackend(workers=2)) as manager:
        list(in_order(lambda: manager, _solve, shared, 4))  # warm
        work: dict[str, Any] = {
            "loop": lambda: [solve_scenario(query, parameters, number) for number in range(count)],
            "sweep": lambda: list(in_order(lambda: manager, _solve, shared, count)),
        }
        seconds = in_turns(work, 1 if count < SCENARIOS else 3)
    share = seconds["loop"] / seconds["sweep"] / 2
    return [
        Row(f"{count:,} scenarios in a loop of one process", seconds["loop"], "s"),
        Row("the same as a sweep over two", seconds["sweep"], "s"),
        Row("its share of linear speed", share, "", 0.85 / share, 1.0),
    ]
