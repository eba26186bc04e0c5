"""Constraint programs: read, solved by CP-SAT, and each constraint checked by our own code."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compute.errors import InvalidField
from solver import SolverService
from solver.optimization.constraints.kinds import KINDS
from solver.optimization.constraints.read import read_constraints
from solver.optimization.engine import Events, Options, Outcome
from solver.optimization.engines import cp_sat
from solver.optimization.judge import judge
from solver.optimization.process import Run
from solver.optimization.query import OptimizationQuery

X, Y, Z = "x", "y", "z"
NUMBERS = {name: {"lower": -2, "upper": 2} for name in "xyz"}
BOOLEANS = {name: {"boolean": True} for name in "abc"}
BOXES = {
    "one": {"start": {"lower": 0, "upper": 3}, "duration": 2},
    "two": {"start": {"lower": 0, "upper": 3}, "duration": {"lower": 0, "upper": 2}},
    "three": {"start": {"lower": 0, "upper": 2}, "duration": 2, "optional": True},
}
ARCS = [[0, 0, "a"], [0, 1, "not a"], [1, 0, "b"], [1, 2, "not b"], [2, 0, "c"], [2, 2, "not c"], [1, 1, "a"]]

EVERY_KIND: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "linear": [
        ({"variables": NUMBERS}, "x + 2*y - z <= 1"),
        ({"variables": NUMBERS}, "x != y"),
        ({"variables": NUMBERS}, "-1 <= x + y <= 1"),
        ({"variables": NUMBERS}, {"coefficients": {"x": 3, "z": -1}, "offset": 1, "lower": 2}),
    ],
    "bool_or": [({"variables": BOOLEANS}, ["a", "not b", "c"])],
    "bool_and": [({"variables": BOOLEANS}, ["a", "not b"])],
    "bool_xor": [({"variables": BOOLEANS}, ["a", "b", "c"])],
    "at_most_one": [({"variables": BOOLEANS}, ["a", "b", "not c"])],
    "exactly_one": [({"variables": BOOLEANS}, ["a", "b", "c"])],
    "implication": [({"variables": BOOLEANS}, ["a", "not b"])],
    "all_different": [({"variables": NUMBERS}, ["x", "y + 1", "2*z"])],
    "element": [({"variables": NUMBERS}, {"index": "x + 1", "expressions": ["y", 2, "z", -1], "target": "z"})],
    "allowed_assignments": [({"variables": NUMBERS}, {"expressions": ["x", "y"], "tuples": [[0, 1], [2, 2], [-1, 0]]})],
    "forbidden_assignments": [({"variables": NUMBERS}, {"expressions": ["x", "y"], "tuples": [[0, 1], [2, 2]]})],
    "max_equality": [({"variables": NUMBERS}, {"target": "x", "expressions": ["y", "z - 1"]})],
    "min_equality": [({"variables": NUMBERS}, {"target": "x", "expressions": ["y", "z - 1"]})],
    "multiplication_equality": [({"variables": NUMBERS}, {"target": "x", "expressions": ["y", "z"]})],
    "abs_equality": [({"variables": NUMBERS}, {"target": "x", "expression": "y - z"})],
    "division_equality": [({"variables": NUMBERS}, {"target": "x", "numerator": "3*y", "denominator": "z + 3"})],
    "modulo_equality": [({"variables": NUMBERS}, {"target": "x", "numerator": "3*y", "denominator": "z + 3"})],
    "circuit": [
        ({"variables": BOOLEANS}, ARCS),
        ({"variables": BOOLEANS}, [[0, 1, "a"], [1, 0, "b"], [0, 0, "not a"], [1, 1, "not b"]]),
    ],
    "no_overlap": [({"intervals": BOXES, "horizon": 5}, ["one", "two", "three"])],
    "no_overlap_2d": [
        (
            {"intervals": {**BOXES, "three": {"start": 1, "duration": 2, "optional": True}}, "horizon": 4},
            {"x_intervals": ["one", "two"], "y_intervals": ["three", "one"]},
        )
    ],
    "cumulative": [
        (
            {"intervals": BOXES, "horizon": 5, "variables": {"x": {"lower": 0, "upper": 2}}},
            {"intervals": ["one", "two", "three"], "demands": [1, "x", 2], "capacity": 3},
        )
    ],
}


def ignore(*_: object) -> None:
    """Tell nobody."""


@pytest.mark.parametrize("kind", KINDS)
def test_our_check_and_cp_sat_agree_on_every_point(kind: str) -> None:
    for model, given_value in EVERY_KIND[kind]:
        conditions = [None, "cold"] if kind in ("linear", "bool_or", "bool_and") else [None]
        for condition in conditions:
            variables = {**model.get("variables", {}), **({"cold": {"boolean": True}} if condition else {})}
            constraint = {kind: given_value, **({"if": condition} if condition else {})}
            program = read_constraints({**model, "variables": variables, "constraints": [constraint]})
            ranges = [range(domain[0][0], domain[-1][1] + 1) for domain in program.domains]
            ours = {
                point
                for point in itertools.product(*ranges)
                if program.check(np.array(point, np.float64)).feasible
            }  # fmt: skip
            options = Options(time_limit=60, solutions=100_000)
            found: set[tuple[int, ...]] = set()

            def seen(_: float, x: Any, __: object, found: set[tuple[int, ...]] = found) -> None:
                found.add(tuple(x.astype(int).tolist()))

            assert cp_sat.solve(program, options, Events(seen)).reason == "OPTIMAL"
            assert found == ours
            assert 0 < len(ours) < np.prod([len(one) for one in ranges])


SHOP = next(
    example["constraints"]
    for example in OptimizationQuery.model_json_schema()["examples"]
    if "constraints" in example
)  # fmt: skip


def test_a_schedule_is_a_question(solver: SolverService) -> None:
    answer = solver.solve({"type": "optimization", "constraints": SHOP}, {"solutions": 3, "time_limit": 30})
    assert answer["termination"]["reason"] == "OPTIMAL"
    assert (answer["objective_value"], answer["best_objective_bound"]) == (13.0, 13.0)
    assert answer["intervals"]["glue"]["start"] >= answer["intervals"]["saw"]["end"]
    assert answer["variable_values"]["end"] == max(
        place["end"] for name, place in answer["intervals"].items() if place and name != "saw"
    )
    assert (answer["check"]["feasible"], answer["check"]["violated_constraints"]) == (True, [])
    assert answer["program"]["constraints_by_kind"]["linear"] == 2
    assert answer["solution_pool"][0]["objective_value"] == 13.0
    assert answer["incumbents"]


def test_several_solutions_are_different() -> None:
    program = read_constraints({"variables": NUMBERS, "constraints": [{"all_different": ["x", "y", "z"]}]})
    outcome = cp_sat.solve(program, Options(solutions=7), Events(ignore))
    solution = judge(program, Run(outcome, [], None, "", 0.0, ""), Options(solutions=7))
    assert solution.reason == "OPTIMAL"
    assert len({x.tobytes() for x, _ in solution.pool}) == len(solution.pool)


def test_a_hint_and_a_goal_to_maximize(solver: SolverService) -> None:
    model = {"variables": NUMBERS, "constraints": [{"all_different": ["x", "y", "z"]}], "maximize": "x + 2*y + 3*z"}
    answer = solver.solve({"type": "optimization", "constraints": model}, {"hint": {"z": 2, "y": 1, "x": 0}})
    assert (answer["objective_value"], answer["best_objective_bound"]) == (8.0, 8.0)
    assert answer["variable_values"] == {"x": 0, "y": 1, "z": 2}


def test_what_no_point_satisfies(solver: SolverService) -> None:
    model = {"variables": {"x": {"values": [1, 4]}}, "constraints": ["2 <= x <= 3"]}
    answer = solver.solve({"type": "optimization", "constraints": model})
    assert (answer["termination"]["reason"], answer["variable_values"]) == ("INFEASIBLE", None)


def test_a_wrong_solution_is_told_by_its_constraints() -> None:
    program = read_constraints(SHOP).minimised()
    right = cp_sat.solve(program, Options(), Events(ignore))
    assert right.x is not None
    wrong = right.x.copy()
    wrong[program.variables.index("glue.start")] = 0
    found = judge(program, Run(Outcome("OPTIMAL", x=wrong, bound=13.0), [], None, "", 0.0, ""), Options())
    assert found.reason == "IMPRECISE"
    assert "it is not feasible: c0" in found.detail


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "has the unknown key 'colour'"),
        ({"variables": {"x": {"lower": 0}}}, r"variables\.x\.upper is missing"),
        ({"variables": {"x": {"lower": 3, "upper": 2}}}, "no value is between them"),
        ({"variables": {"x": {"lower": 0.5, "upper": 2}}}, "which is not whole"),
        ({"variables": {"x": {"lower": float("nan"), "upper": 2}}}, "not a whole number"),
        ({"variables": {"x y": {"boolean": True}}}, "is no name"),
        ({"constraints": ["x + w <= 3"]}, "expected one of the variables"),
        ({"constraints": ["x * y <= 3"]}, "multiplies 'x' and 'y'"),
        ({"constraints": ["0.5*x <= 3"]}, "which is not whole"),
        ({"constraints": ["__import__('os') <= 3"]}, "expected numbers, variables"),
        ({"constraints": ["(" * 10_000 + "x" + ")" * 10_000 + " <= 1"]}, "nests more than"),
        ({"constraints": ["x + 1"]}, "expected a comparison"),
        ({"constraints": ["x in y"]}, "expected <=, <, >=, >, == or !="),
        ({"constraints": [{"no_overlap": ["cut"]}]}, "not the name of an interval"),
        ({"constraints": [{"bool_or": ["x"]}]}, "'x', which is no boolean"),
        ({"constraints": [{"bool_or": ["a"], "bool_and": ["a"]}]}, "has no kind, or two"),
        ({"constraints": [{"all_different": ["x"], "if": "a"}]}, "if stands at all_different"),
        ({"constraints": [{"element": {"index": "x"}}]}, "expressions is missing"),
        ({"constraints": [{"implication": ["a"]}]}, "has 1 literals"),
        ({"constraints": [{"circuit": [[0, 1]]}]}, "has 2 parts"),
        ({"constraints": [7]}, "is 7, not an object"),
        ({"constraints": "x"}, "not a list"),
        ({"intervals": {"cut": {"duration": 3}}}, "there is no horizon"),
        ({"intervals": {"cut": {"duration": 3, "start": "x + y"}}}, "has more than one variable"),
        ({"minimize": "x", "maximize": "y"}, "has both minimize and maximize"),
        ({"minimize": {"coefficients": {"w": 1}}}, "names 'w', which is no variable"),
    ],
)
def test_what_is_wrong_is_told_by_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        read_constraints({"variables": {**NUMBERS, **BOOLEANS}, **change})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats()
    | st.sampled_from(["x", "a", "not a", "one", "x + y <= 3", "one.end", "2*x", "x**2", "not", "", "one.present"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            [*KINDS, "if", "name", "target", "expressions", "tuples", "index", "intervals", "demands", "capacity",
             "coefficients", "lower", "upper", "values", "boolean", "start", "duration", "end", "optional", "present"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=14,
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.dictionaries(st.sampled_from(["variables", "intervals", "minimize", "horizon", "name"]), JSON, max_size=3),
    constraints=st.lists(st.dictionaries(st.sampled_from(KINDS), JSON, min_size=1, max_size=1) | JSON, max_size=3),
)
def test_constraints_are_refused_or_understood(parts: dict[str, Any], constraints: list[Any]) -> None:
    model = {"variables": {**NUMBERS, **BOOLEANS}, "intervals": BOXES, "horizon": 5, "constraints": constraints}
    with contextlib.suppress(InvalidField):
        program = read_constraints({**model, **parts})
        program.check(np.zeros(len(program.variables)))
