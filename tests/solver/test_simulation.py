"""Simulations and sweeps: the figures against what is known, the same whoever works, and rubbish refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from compute import ComputeManager, Config
from compute.errors import InvalidField
from compute.local_backend import LocalBackend
from registry import TaskContext, get_model_registry
from solver import simulation, sweep
from solver.chunks import in_order
from solver.formula import read_formula
from solver.queries import parse
from solver.sampling import Inputs
from solver.simulation_query import SimulationQuery, SweepQuery


@pytest.fixture(scope="module")
def managers() -> Iterator[dict[int, ComputeManager]]:
    """Managers over one and over two processes."""
    made = {workers: ComputeManager(LocalBackend(workers=workers)) for workers in (1, 2)}
    yield made
    for manager in made.values():
        manager.shutdown()


@pytest.fixture
def ask(managers: dict[int, ComputeManager], local: Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    def answer(question: dict[str, Any], parameters: dict[str, Any] | None = None, workers: int = 1) -> dict[str, Any]:
        module: Any = {"simulation": simulation, "sweep": sweep}[question["type"]]
        monkeypatch.setattr(module, "get_compute_manager", lambda config: managers[workers])
        query, options = parse(question, parameters)
        query = module.prepare(query, options, local)
        found: dict[str, Any] = module.answer(query, options, TaskContext("", local))
        return found

    return answer


def examples(kind: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = kind.model_config["json_schema_extra"]["examples"]
    return found


def normal(**changes: Any) -> dict[str, Any]:
    inputs = {"x": {"distribution": "norm", "loc": 10, "scale": 2}, "y": {"distribution": "expon", "scale": 3}}
    return {"type": "simulation", "formula": "2*x + y", "inputs": inputs, **changes}


def test_the_figures_are_those_of_the_distribution(ask: Any) -> None:
    answer = ask(normal(), {"samples": 100_000, "quantiles": [0.5], "confidence": 0.9999})
    assert answer["mean"] == pytest.approx(23.0, abs=0.1)
    assert answer["std"] == pytest.approx(5.0, rel=0.02)
    low, high = answer["mean_interval"]
    assert low < 23.0 < high
    assert sum(answer["histogram"]["counts"]) == 100_000
    assert answer["sensitivities"]["x"] > answer["sensitivities"]["y"] > 0.4
    assert answer["stopped"] == "samples"


def test_the_numbers_are_the_same_whatever_the_number_of_workers(ask: Any) -> None:
    parameters = {"samples": 200_000, "tolerance": 0.002, "seed": 3}
    one, two = ask(normal(), parameters, workers=1), ask(normal(), parameters, workers=2)
    assert one == two
    assert one["stopped"] == "tolerance"
    assert one["samples"] < 200_000
    assert ask(normal(), {**parameters, "seed": 4})["mean"] != one["mean"]


def test_inputs_are_correlated_as_asked() -> None:
    inputs = Inputs(normal()["inputs"], [{"of": ["x", "y"], "is": -0.8}])
    block = inputs.block(0, 0, 20_000)
    ranks = [np.argsort(np.argsort(block[name])) for name in ("x", "y")]
    # Of normal scores with correlation r, Spearman's is 6/pi asin(r/2).
    assert np.corrcoef(*ranks)[0, 1] == pytest.approx(6 / np.pi * np.arcsin(-0.4), abs=0.02)
    assert block["y"].mean() == pytest.approx(3.0, abs=0.1)


def test_every_example_of_a_simulation_is_answered(ask: Any, model: dict[str, Any], local: Config) -> None:
    get_model_registry(local).set_alias("delays", "champion", 1)
    formula, by_model, program = (ask(one, {"samples": 60}, workers=2) for one in examples(SimulationQuery))
    assert formula["samples"] == by_model["samples"] == program["samples"] == 60
    assert by_model["mean"] == pytest.approx(22.0, abs=5)
    assert by_model["sensitivities"]["distance"] == pytest.approx(1.0)
    assert program["terminations"] == {"OPTIMAL": 60}
    assert program["sensitivities"]["wood"] > 0.9


def test_scenarios_without_a_solution_are_counted_and_in_no_figure(ask: Any) -> None:
    expressions = {"variables": {"x": {"lower": 0, "upper": 5}}, "minimize": "x", "subject_to": ["x >= need"]}
    question = {
        "type": "simulation",
        "optimization": {"expressions": expressions},
        "inputs": {"need": {"distribution": "uniform", "loc": 0, "scale": 10}},
    }
    answer = ask(question, {"samples": 100})
    assert answer["terminations"]["OPTIMAL"] + answer["terminations"]["INFEASIBLE"] == 100
    assert answer["without_value"] == answer["terminations"]["INFEASIBLE"] > 20
    assert answer["max"] <= 5


def test_a_sweep_is_every_scenario_by_every_option(ask: Any) -> None:
    answer = ask(examples(SweepQuery)[0], {"variables": True}, workers=2)
    assert [(one["scenario"], one["option"]) for one in answer["results"]] == [(s, o) for s in range(3) for o in (0, 1)]
    values = [one["objective_value"] for one in answer["results"]]
    assert values[::2] == pytest.approx(values[1::2])
    assert {one["engine"] for one in answer["results"]} == {"highs", "scip"}
    assert set(answer["results"][0]["variable_values"]) == {"chairs", "tables"}
    model = {
        "variables": {"count": 1, "lower_bounds": 0, "upper_bounds": [{"$input": "most"}]},
        "objective": {"maximize": True, "linear_coefficients": [1]},
    }
    by_arrays = {"type": "sweep", "optimization": {"model": model}, "scenarios": [{"most": n} for n in range(50)]}
    assert [one["objective_value"] for one in ask(by_arrays, workers=2)["results"]] == list(range(50))
    instances = {"type": "sweep", "instances": [{"model": {**model, "variables": {"count": 1, "upper_bounds": [3]}}}]}
    assert [one["objective_value"] for one in ask(instances)["results"]] == [3.0]


FREE = {"expressions": {"variables": {"x": {}}}}
BAD: list[tuple[dict[str, Any], str]] = [
    (normal(formula="__import__('os').system('x')"), "something else"),
    (normal(formula="x.real"), "something else"),
    (normal(formula="(" * 10_000 + "x" + ")" * 10_000), "characters|no formula"),
    (normal(formula="(" * 2000 + "x" + ")" * 2000), "no formula"),
    (normal(formula="-" * 2000 + "x"), "nested|no formula"),
    (normal(formula="z"), "names 'z'"),
    (normal(formula="min(x)"), "it takes 2"),
    (normal(formula="1" + "0" * 400), "too large"),
    (normal(inputs={}), "empty"),
    (normal(inputs={"x": {"distribution": "rv_continuous"}}), "no distribution"),
    (normal(inputs={"x": {"distribution": "norm", "scale": -1}, "y": 1}), "not defined"),
    (normal(inputs={"x": {"distribution": "gamma"}, "y": 1}), "needs 'a'"),
    (normal(inputs={"x": {"distribution": "norm", "size": 9}, "y": 1}), "no parameter 'size'"),
    (normal(inputs={"x": float("nan"), "y": 1}), "not a number"),
    (normal(correlations=[{"of": ["x", "z"], "is": 0.5}]), "two inputs"),
    (normal(correlations=[{"of": ["x", "y"], "is": 1.5}]), "contradict"),
    (normal(model="m"), "one of formula"),
    ({"type": "sweep", "instances": [{"expressions": {"variables": {"x": {}}}}], "options": [{"mood": 1}]}, "mood"),
    (
        {"type": "sweep", "instances": [{"expressions": {"variables": {"x": {}}}}], "options": [{"engines": ["g"]}]},
        "none of",
    ),
    ({"type": "sweep"}, "give an optimization"),
]


@pytest.mark.parametrize(("question", "text"), BAD)
def test_rubbish_is_refused(ask: Any, question: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidField, match=text):
        ask(question, {"samples": 10} if question["type"] == "simulation" else None)


def test_no_number_overflows_into_an_error(ask: Any) -> None:
    answer = ask(normal(formula="(x * 1e308) ** 10"), {"samples": 20})
    assert (answer["without_value"], answer["mean"]) == (20, None)


def double(shared: int, number: int) -> int:
    return shared * number


def slowly(shared: int, number: int) -> int:
    time.sleep(0.02)
    return shared * number


def test_pieces_come_in_order_and_those_not_taken_are_dropped(managers: dict[int, ComputeManager]) -> None:
    assert list(in_order(lambda: managers[2], double, 2, 1000)) == [2 * number for number in range(1000)]
    slow = in_order(lambda: managers[2], slowly, 2, 1000)
    found = [next(slow) for _ in range(60)]  # more than is done before there are tasks
    assert found == [2 * number for number in range(60)]
    slow.close()
    assert managers[2].resources()["waiting"] == 0


def test_a_formula_takes_arrays() -> None:
    profit = read_formula("where(x > 2, x ** 2, -x)", ["x"], "formula")
    assert profit({"x": np.array([1.0, 3.0])}).tolist() == [-1.0, 9.0]
