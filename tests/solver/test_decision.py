"""A plan is the best one for what registered models predict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compute import Config
from compute.errors import ColumnMissing, InvalidField, ModelNotFound
from jobs import train_model
from registry import get_model_registry
from solver import SolverService
from tests.solver.conftest import flights, records

ROWS = records(flights(12, seed=3).drop(columns="delay"))


def plan(costs: object, most: int = 4) -> dict[str, Any]:
    """Choose some of the flights, so that the delay of all is least."""
    count = len(ROWS)
    return {
        "type": "decision",
        "model": {
            "variables": {"count": count, "lower_bounds": 0, "upper_bounds": 1, "integers": True},
            "objective": {"linear_coefficients": costs},
            "linear_constraints": {"lower_bounds": [most]},
            "linear_constraint_matrix": {
                "row_ids": [0] * count,
                "column_ids": list(range(count)),
                "coefficients": [1] * count,
            },
        },
    }


def predicted(**wanted: object) -> dict[str, Any]:
    return {"$predict": wanted}


def test_the_plan_is_the_best_one_for_the_predictions(
    solver: SolverService, model: dict[str, Any], local: Config
) -> None:
    answer = solver.solve(plan(predicted(model=f"{model['name']}", rows=ROWS)))
    loaded = get_model_registry(local).load_model(model["model_id"])
    values = loaded.predict(ROWS).tolist()
    chosen = {int(name[1:]) for name, value in answer["variable_values"].items() if value > 0.5}
    assert chosen == set(sorted(range(len(ROWS)), key=lambda row: values[row])[:4])
    assert answer["objective_value"] == pytest.approx(sum(sorted(values)[:4]))
    (told,) = answer["predictions"]
    assert told["field"] == "model.objective.linear_coefficients"
    assert (told["model_id"], told["version"]) == (model["model_id"], model["version"])
    assert told["digest"] == loaded.record.artifact.digest
    assert told["values"] == pytest.approx(values)


def test_the_version_is_that_of_when_it_was_asked(solver: SolverService, model: dict[str, Any], local: Config) -> None:
    task_id = solver.submit(plan(predicted(model=model["name"], rows=ROWS)))
    # Another version, which predicts otherwise, comes before it is answered or after.
    table = flights(200)
    train_model(table.assign(delay=-table["delay"]), "delay", name=model["name"], config=local)
    told = solver.wait(task_id, 60)["result"]["predictions"][0]
    assert told["model_id"] == model["model_id"]


def test_bounds_and_several_models_may_be_predicted(solver: SolverService, model: dict[str, Any]) -> None:
    question = plan(predicted(model=model["name"], rows=ROWS), most=0)
    question["model"]["variables"] |= {
        "integers": False,
        "lower_bounds": predicted(model=model["model_id"], rows=ROWS),
        "upper_bounds": None,
    }
    answer = solver.solve(question)
    values = answer["predictions"][0]["values"]
    # Each at its lower bound, which is its own cost.
    assert answer["objective_value"] == pytest.approx(sum(value**2 for value in values))
    assert {told["field"] for told in answer["predictions"]} == {
        "model.objective.linear_coefficients", "model.variables.lower_bounds",
    }  # fmt: skip


def test_what_is_wrong_is_told_before_it_is_a_task(solver: SolverService, model: dict[str, Any], local: Config) -> None:
    name = model["name"]
    with pytest.raises(ModelNotFound):
        solver.submit(plan(predicted(model="nothing", rows=ROWS)))
    with pytest.raises(ColumnMissing, match="distance"):
        solver.submit(plan(predicted(model=name, rows=[{"carrier": "AA"}] * len(ROWS))))
    for costs, message in (
        (predicted(model=name, rows=ROWS[:3]), r"linear_coefficients has 3 items, and there are 12"),
        (predicted(model=name, rows=[]), r"linear_coefficients\.\$predict\.rows: List should have at least 1"),
        (predicted(model=name), r"\$predict\.rows: Field required"),
        ({**predicted(model=name, rows=ROWS), "scale": 2}, r"linear_coefficients has more than \$predict"),
        (predicted(model=name, rows=ROWS, probability_of="late"), r"is a regression, and has no classes"),
    ):
        with pytest.raises(InvalidField, match=message):
            solver.submit(plan(costs))


def test_the_probability_of_a_class_may_be_a_cost(
    solver: SolverService, classifier: dict[str, Any], local: Config
) -> None:
    answer = solver.solve(plan(predicted(model="late", rows=ROWS, probability_of="late")))
    loaded = get_model_registry(local).load_model(classifier["model_id"])
    assert loaded.record.signature is not None
    place = list(loaded.record.signature.classes or ()).index("late")
    assert answer["predictions"][0]["values"] == pytest.approx(loaded.predict(ROWS, proba=True)[:, place].tolist())
    with pytest.raises(InvalidField, match=r"predicts classes, and None is none of them.*'fine', 'late'"):
        solver.submit(plan(predicted(model="late", rows=ROWS)))


def noisy_model(local: Config) -> dict[str, Any]:
    """A regression of a target with errors, uniform from -10 to 10."""
    frame = flights(3000)
    frame["delay"] += np.random.default_rng(5).uniform(-10, 10, len(frame))
    return train_model(frame, "delay", model_type="linear", name="noisy", config=local)


def newsvendor(rows: list[dict[str, Any]], **uncertainty: Any) -> dict[str, Any]:
    """Buy beforehand at 1, or for three times as much when the need is known."""
    count = len(rows)
    return {
        "type": "decision",
        "model": {
            "variables": {
                "names": [*(f"early{n}" for n in range(count)), *(f"late{n}" for n in range(count))],
                "lower_bounds": 0,
            },
            "objective": {"linear_coefficients": [1] * count + [3] * count},
            "linear_constraints": {"lower_bounds": predicted(model="noisy", rows=rows)},
            "linear_constraint_matrix": {
                "row_ids": [*range(count), *range(count)],
                "column_ids": list(range(2 * count)),
                "coefficients": [1] * (2 * count),
            },
        },
        "uncertainty": {"later": [f"late{n}" for n in range(count)], **uncertainty},
    }


def test_under_scenarios_the_plan_is_the_critical_quantile(solver: SolverService, local: Config) -> None:
    noisy_model(local)
    answer = solver.solve(newsvendor(ROWS[:2], scenarios=400), timeout=120)
    predictions = answer["predictions"][0]["values"]
    for n in range(2):  # buying early pays up to the quantile (3 - 1) / 3 of the need
        assert answer["variable_values"][f"early{n}"] - predictions[n] == pytest.approx(10 / 3, abs=1.5)
    assert set(answer["variable_values"]) == {"early0", "early1"}
    compared = answer["comparison"]
    assert compared["stochastic_objective"] == pytest.approx(answer["objective_value"])
    assert compared["value_of_stochastic_solution"] > 0
    assert compared["cost_of_uncertainty"] > 0
    assert compared["point_plan"]["predicted_objective"] < compared["stochastic_objective"]
    assert compared["point_plan"]["objective_value"] == pytest.approx(
        compared["stochastic_objective"] + compared["value_of_stochastic_solution"]
    )
    again = solver.solve(newsvendor(ROWS[:2], scenarios=400), timeout=120)
    assert again["variable_values"] == answer["variable_values"]
    few = solver.solve(newsvendor(ROWS[:2], scenarios=30, method="quantiles"), timeout=120)
    for n in range(2):  # quantiles at equal distances need fewer scenarios
        assert few["variable_values"][f"early{n}"] - predictions[n] == pytest.approx(10 / 3, abs=1.0)


def test_who_fears_the_worst_buys_more_beforehand(solver: SolverService, local: Config) -> None:
    noisy_model(local)
    mean = solver.solve(newsvendor(ROWS[:1], scenarios=200), timeout=120)
    worst = solver.solve(newsvendor(ROWS[:1], scenarios=200, measure="cvar", alpha=0.9), timeout=120)
    assert worst["variable_values"]["early0"] > mean["variable_values"]["early0"]
    # Over the worst tenth there is next to nothing to be had from buying late.
    assert worst["objective_value"] == pytest.approx(worst["predictions"][0]["values"][0] + 9.0, abs=1.5)
    assert worst["comparison"]["value_of_stochastic_solution"] > 0


def test_a_plan_that_breaks_a_constraint_in_some_scenario_is_said_to(solver: SolverService, local: Config) -> None:
    noisy_model(local)
    question = newsvendor(ROWS[:1], scenarios=20, later=[])
    answer = solver.solve(question, timeout=120)
    assert answer["comparison"]["point_plan"]["objective_value"] in (None, pytest.approx(answer["objective_value"]))
    with pytest.raises(InvalidField, match="nobody"):
        solver.solve(newsvendor(ROWS[:1], later=["nobody"]))
