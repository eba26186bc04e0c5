"""Optimizations as questions to the service: what is asked, told, refused and kept."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compute import Config, TaskState
from compute.errors import DataNotFound, InvalidField, TaskNotFound
from registry import TaskContext, open_store
from registry.task_record import new_task_id
from solver import SolverService
from solver.__main__ import main
from solver.optimization.answer import answer_program
from solver.optimization.check import check_point
from solver.optimization.engine import Options
from solver.optimization.expressions import read_expressions
from solver.optimization.files import read_program
from solver.optimization.job import Incumbent
from solver.optimization.model import minimised
from solver.optimization.query import OptimizationParameters
from solver.optimization.telling import Telling
from tests.solver.conftest import HARD, INSTANCES, KNAPSACK, question, solving, until


def test_a_question_is_answered(solver: SolverService) -> None:
    answer = solver.solve(question(expressions=KNAPSACK), {"seed": 7})
    assert answer["termination"] == {"reason": "OPTIMAL", "limit": None, "detail": ""}
    assert (answer["objective_value"], answer["relative_gap"]) == (20.0, 0.0)
    assert answer["variable_values"] == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert answer["check"]["feasible"]
    assert answer["engine"]["name"] == "highs"
    assert answer["seed"] == 7
    assert answer["program"]["kind"] == "MIP"
    assert answer["incumbents"][-1]["objective_value"] == 20.0


def test_duals_say_what_a_limit_is_worth(solver: SolverService) -> None:
    relaxed = {**KNAPSACK, "variables": {name: {"lower": 0} for name in "abc"}}
    answer = solver.solve(question(expressions=relaxed))
    # By weight, `a` is worth most: 8 for 5.
    assert answer["objective_value"] == pytest.approx(12 / 5 * 8 + 1)
    assert answer["dual_values"] == {"weight": pytest.approx(8 / 5)}
    assert answer["reduced_costs"] == {
        "a": pytest.approx(0.0), "b": pytest.approx(11 - 7 * 8 / 5), "c": pytest.approx(6 - 4 * 8 / 5),
    }  # fmt: skip
    assert answer["check"]["proven_by_duals"]


def test_a_file_is_solved_and_an_infeasible_one_explained(solver: SolverService) -> None:
    answer = solver.solve(question(uri=str(INSTANCES / "galenet.mps")))
    assert answer["termination"]["reason"] == "INFEASIBLE"
    assert answer["infeasible_subsystem"] == {
        "constraints": ["NODE5", "D8"], "variable_bounds": ["T25", "T35", "T57"], "irreducible": True,
    }  # fmt: skip


def test_a_program_is_only_checked(solver: SolverService) -> None:
    answer = solver.solve(question(uri=str(HARD)), {"validation_only": True})
    assert (answer["termination"], answer["program"]["variables"]) == (None, 62)


def test_a_hint_is_taken(solver: SolverService) -> None:
    answer = solver.solve(question(expressions=KNAPSACK), {"hint": {"a": 1, "b": 1, "c": 0}})
    assert answer["incumbents"][0]["objective_value"] == 20.0
    with pytest.raises(InvalidField, match=r"parameters\.hint names the variable 'd'"):
        solver.submit(question(expressions=KNAPSACK), {"hint": {"d": 1}})


def test_a_task_begins_where_another_ended(solver: SolverService) -> None:
    task_id = solver.submit(question(expressions=KNAPSACK))
    best = solver.wait(task_id, 60)["result"]
    more = {**KNAPSACK, "variables": {**KNAPSACK["variables"], "d": {"upper": 1, "integer": True}}}
    warm = {"warm_start": {"task": task_id}}
    answer = solver.solve(question(expressions=more), warm)
    assert answer["incumbents"][0]["objective_value"] == best["objective_value"]
    other = solver.solve(question(expressions=KNAPSACK), {**warm, "hint": {"a": 1, "b": 1, "c": 0}})
    assert other["incumbents"][0]["objective_value"] == 20.0
    with pytest.raises(TaskNotFound):
        solver.submit(question(expressions=KNAPSACK), {"warm_start": {"task": new_task_id(time.time())}})
    infeasible = solver.submit(question(expressions={"variables": {"x": {"upper": 1}}, "subject_to": ["x >= 2"]}))
    solver.wait(infeasible, 60)
    with pytest.raises(InvalidField, match="has no values of variables to begin with"):
        solver.submit(question(expressions=KNAPSACK), {"warm_start": {"task": infeasible}})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "none of them is given"),
        ({"uri": "a.mps", "model": {}}, "model and uri are both given"),
        ({"model": {}}, "the program has no variables"),
        ({"model": {"variables": {"count": 1, "lower_bounds": 2, "upper_bounds": [1]}}}, "has the bounds 2 and 1"),
        ({"model": {"variables": {"count": 1}, "objective": {"linear_coefficients": [float("nan")]}}}, "is nan"),
        (
            {
                "model": {
                    "variables": {"count": 1}, "linear_constraints": {"count": 1},
                    "linear_constraint_matrix": {"row_ids": [0], "column_ids": [1], "coefficients": [1]},
                }
            },
            "there is no variable 1: there are 1, from 0 on",
        ),
        ({"expressions": {"variables": {"x": {}}, "minimize": "__import__('os')"}}, "expected numbers, variables"),
        ({"expressions": {"variables": {"x": {}}, "minimize": "(" * 10_000 + "x" + ")" * 10_000}}, "nests more than"),
        ({"expressions": {"variables": {"x": {}}, "minimize": "1e308**10"}}, "expected a number below 1e300"),
        ({"expressions": {"variables": {"stock": {}}, "minimize": "stok"}}, "did you mean stock"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_it_is_a_task(solver: SolverService, source: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        solver.submit(question(**source))


def test_a_file_that_is_not_there(solver: SolverService, config: Config) -> None:
    with pytest.raises(DataNotFound):
        solver.submit(question(uri=str(INSTANCES / "nothing.mps")))


def test_a_cancelled_task_leaves_no_process(solver: SolverService) -> None:
    task_id = solver.submit(question(uri=str(HARD)), {"time_limit": 600})
    until(lambda: bool(solving()))
    assert solver.cancel(task_id)["state"] == TaskState.CANCELLED
    until(lambda: not solving())


def test_progress_tells_the_best_so_far(solver: SolverService) -> None:
    task_id = solver.submit(question(uri=str(HARD)), {"time_limit": 600})

    def told() -> bool:
        progress = solver.status(task_id).get("progress")
        return progress is not None and "best" in progress["message"]

    until(told)
    solver.cancel(task_id)


@pytest.mark.parametrize("end", ["cancelled", pytest.param("timed out", marks=pytest.mark.slow)])
def test_a_task_that_ends_early_keeps_the_best_plan(solver: SolverService, end: str) -> None:
    limits = {"time_limit": 600, "timeout": 4.0} if end == "timed out" else {"time_limit": 600}
    task_id = solver.submit(question(uri=str(HARD)), limits)
    until(lambda: solver.status(task_id)["best"] is not None)
    if end == "cancelled":
        solver.cancel(task_id)
    status = solver.wait(task_id, 60)
    assert (status["state"], "result" in status) == (end.upper().replace(" ", "_"), False)
    until(lambda: not solving())
    best = solver.status(task_id)["best"]
    assert (best["termination"]["reason"], best["check"]["feasible"]) == ("FEASIBLE", True)
    program = read_program(HARD)
    point = np.array([best["variable_values"][name] for name in program.variables])
    check = check_point(program, point)
    assert check.feasible
    assert check.objective == pytest.approx(best["objective_value"])
    again = solver.solve(question(uri=str(HARD)), {"warm_start": {"task": task_id}, "time_limit": 1})
    assert again["objective_value"] <= best["objective_value"] + 1e-6


def test_what_a_lost_attempt_had_found_is_where_the_next_begins(config: Config) -> None:
    store, task_id = open_store(config.storage.uri, config), new_task_id()
    parameters = OptimizationParameters()
    program = minimised(read_expressions(KNAPSACK))
    lost = TaskContext(task_id, config, store)
    telling = Telling(lost, read_expressions(KNAPSACK), Options(time_limit=10))
    telling(0.1, Incumbent(0.1, -20.0, np.array([1.0, 1.0, 0.0]), None))
    lost.close()
    answer = answer_program(read_expressions(KNAPSACK), parameters, TaskContext(task_id, config, store))
    assert answer["incumbents"][0]["objective_value"] == 20.0
    assert check_point(program, np.array([1.0, 1.0, 0.0])).feasible


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(INSTANCES / "afiro.mps.gz")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["OPTIMAL", "objective -464.7531429, bound -464.7531429, gap 0.00%"]
    assert "  X01 = 80" in lines
    assert main([str(INSTANCES / "galenet.mps")]) == 0
    assert "  constraints NODE5, D8" in capsys.readouterr().out
    assert main([str(HARD), "--time-limit", "1", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["termination"]["limit"] == "TIME"
    (tmp_path / "cut.mps").write_text("NAME\nROWS\n N cost\n")
    assert main([str(tmp_path / "cut.mps")]) == 2
    assert "line 3 of the MPS file is the last one: ENDATA is missing" in capsys.readouterr().err
