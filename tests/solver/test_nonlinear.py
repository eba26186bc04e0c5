"""Nonlinear programs: derivatives, local optima with a check of our own, global proofs, and searches."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compute.errors import InvalidField
from solver import SolverService
from solver.optimization.engine import Events, Options, Outcome
from solver.optimization.engines import cobyqa, differential_evolution, scip, slsqp, trust_constr
from solver.optimization.judge import judge
from solver.optimization.nonlinear.function import OPERATIONS, Function, Graph
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.nonlinear.read import read_written
from solver.optimization.process import Run

HS71 = {
    "variables": {name: {"lower": 1, "upper": 5} for name in "abcd"},
    "minimize": "a*d*(a + b + c) + c",
    "subject_to": ["product: a*b*c*d >= 25", "squares: a**2 + b**2 + c**2 + d**2 == 40"],
}


def ignore(*_: object) -> None:
    """Tell nobody."""


def program_of(model: dict[str, Any]) -> NonlinearProgram:
    program = read_written(model)
    assert isinstance(program, NonlinearProgram)
    return program.minimised()


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_derivatives_are_what_differences_say(operation: str) -> None:
    many = 3 if operation in ("+", "*", "min", "max") else 2 if operation in ("-", "/", "**") else 1
    graph = Graph()
    inner = [graph.add("*", graph.number(0.3), graph.variable(column)) for column in range(many)]
    function = graph.function(graph.add(operation, *inner), 1.0, {0: 2.0})
    x = np.array([1.1, 2.3, 0.7])
    gradient = function.gradient(x)
    for column in range(3):
        step = np.eye(1, 3, column)[0] * 1e-6
        assert gradient[column] == pytest.approx((function.value(x + step) - function.value(x - step)) / 2e-6, abs=1e-6)


def test_a_local_optimum_is_told_as_one_and_a_proof_makes_it_global(solver: SolverService) -> None:
    local = solver.solve({"type": "optimization", "expressions": HS71}, {"engines": ["slsqp"]})
    assert local["termination"]["reason"] == "LOCALLY_OPTIMAL"
    assert local["objective_value"] == pytest.approx(17.0140173, rel=1e-7)
    assert local["best_objective_bound"] is None
    assert (local["check"]["feasible"], local["check"]["kkt_residual"] < 1e-6) == (True, True)
    assert local["program"]["kind"] == "NLP"
    whole = {**HS71, "variables": {name: {"lower": 1, "upper": 5, "integer": name == "b"} for name in "abcd"}}
    answer = solver.solve({"type": "optimization", "expressions": whole}, {"time_limit": 60})
    assert (answer["termination"]["reason"], answer["program"]["kind"]) == ("OPTIMAL", "MINLP")
    assert answer["variable_values"]["b"] == pytest.approx(5)
    assert answer["best_objective_bound"] <= answer["objective_value"] + 1e-6


def test_a_proof_belongs_to_the_best_point(solver: SolverService) -> None:
    waves = {"variables": {"x": {"lower": 0, "upper": 10}}, "maximize": "x*sin(x)"}
    answer = solver.solve({"type": "optimization", "expressions": waves}, {"time_limit": 60})
    assert answer["termination"]["reason"] == "OPTIMAL"
    assert answer["objective_value"] == pytest.approx(7.9167273716, rel=1e-9)
    assert answer["best_objective_bound"] >= answer["objective_value"] - 1e-6


@pytest.mark.parametrize("engine", [slsqp, trust_constr, cobyqa, differential_evolution, scip])
def test_every_engine_finds_an_optimum_within_a_circle(engine: Any) -> None:
    program = program_of(
        {
            "variables": {"x": {"lower": -2, "upper": 2}, "y": {"lower": -2, "upper": 2}},
            "minimize": "exp(x) + exp(y)",
            "subject_to": ["x**2 + y**2 <= 1"],
        }
    )
    outcome = engine.solve(program, Options(time_limit=5), Events(ignore))
    assert outcome.x is not None
    assert program.check(outcome.x).feasible
    assert program.objective.value(outcome.x) == pytest.approx(2 * math.exp(-math.sqrt(0.5)), rel=1e-3)


def test_what_jumps_is_searched_and_proves_nothing(solver: SolverService) -> None:
    steps = {"variables": {"x": {"lower": -3, "upper": 3}}, "minimize": "floor(2*x)**2 + abs(x - 0.3)"}
    answer = solver.solve({"type": "optimization", "expressions": steps}, {"engines": ["differential-evolution"]})
    assert (answer["termination"]["reason"], answer["termination"]["limit"]) == ("FEASIBLE", "OTHER")
    assert answer["objective_value"] == pytest.approx(0.0, abs=1e-4)
    assert "proves nothing" in answer["termination"]["detail"]


def test_a_wrong_optimum_is_not_passed_on() -> None:
    program = program_of(HS71)

    def judged(reason: Any, x: list[float], bound: float | None = None) -> Any:
        run = Run(Outcome(reason, x=np.array(x), bound=bound), [], None, "", 0.0, "")
        return judge(program, run, Options())

    assert judged("LOCALLY_OPTIMAL", [1, 4.74299964, 3.82114998, 1.37940830]).reason == "LOCALLY_OPTIMAL"
    found = judged("LOCALLY_OPTIMAL", [1, 5, math.sqrt(13), 1])
    assert found.reason == "IMPRECISE"
    assert found.check.broken == ("product",)
    found = judged("LOCALLY_OPTIMAL", [2, 4, 4, 2])
    assert found.reason == "FEASIBLE"
    assert "misses them by" in found.detail
    assert judged("OPTIMAL", [2, 4, 4, 2], 17.0).reason == "FEASIBLE"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("exp(w)", "expected one of the variables"),
        ("exp(x, y)", "expected one argument in parentheses"),
        ("eval(x)", "and the functions exp"),
        ("x.__class__(1)", "and the functions exp"),
        ("x**3 if x else 1", "expected numbers, variables"),
        ("log(-1) + x**3", "below 1e308"),
        ("exp(1000) * x**3", "below 1e308"),
        ("1e308**10", "a number below 1e300"),
        ("x**3 + " + "(" * 10_000 + "x" + ")" * 10_000, "nests more than"),
        ("exp(" * 99 + "x" + ")" * 99 + "+" + "-" * 200 + "x", "nests more than"),
    ],
)
def test_what_is_wrong_is_told_by_its_position(expression: str, message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        read_written({"variables": {"x": {}, "y": {}}, "minimize": expression})


def test_what_is_linear_stays_a_program_of_arrays() -> None:
    model = {"variables": {"x": {}, "y": {}}, "minimize": "x**2 + x*y", "subject_to": ["x + 2*y >= 1"]}
    assert read_written(model).kind == "QP"
    assert read_written({**model, "subject_to": ["x*y >= 1"]}).kind == "NLP"
    assert read_written({**model, "minimize": "x*y*x"}).kind == "NLP"
    assert read_written({**model, "minimize": "pi*x*y"}).kind == "QP"
    assert read_written({**model, "minimize": "pi*exp(x)"}).kind == "NLP"
    assert read_written({**model, "minimize": "x/y + 2**x"}).kind == "NLP"


WORDS = [
    "x",
    "y",
    "1",
    "0.5",
    "2e9",
    "+",
    "-",
    "*",
    "/",
    "**",
    "(",
    ")",
    "exp(",
    "log(",
    "sqrt(",
    "max(",
    ",",
    "floor(",
]


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=12))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    with contextlib.suppress(InvalidField):
        read_written({"variables": {"x": {}, "y": {}}, "minimize": " ".join(words)})


def _larger(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    called = st.tuples(st.sampled_from(["exp", "log", "sqrt", "-"]), part).map(lambda pair: f"{pair[0]}({pair[1]})")
    joined = st.tuples(part, st.sampled_from(["+", "-", "*", "/", "**"]), part)
    return called | joined.map(lambda three: f"({three[0]} {three[1]} {three[2]})")


@settings(max_examples=100, deadline=None)
@given(
    text=st.recursive(st.sampled_from(["x", "y", "1", "0.5", "3", "2e9"]), _larger, max_leaves=8),
    x=st.floats(-10, 10),
    y=st.floats(-10, 10),
)
@example(text="sqrt(x)", x=2.5e-261, y=0.0)
def test_expressions_mean_what_python_means(text: str, x: float, y: float) -> None:
    text = f"({text}) + exp(x)"  # nonlinear, whatever was drawn
    try:
        program = read_written({"variables": {"x": {}, "y": {}}, "minimize": text, "subject_to": [f"{text} <= 1"]})
    except InvalidField as error:
        if "below 1e30" not in str(error):  # as is said of constant parts without a value, or with too large a one
            raise
        return
    assert isinstance(program, NonlinearProgram)
    point = np.array([x, y])
    ours = program.objective.value(point)
    program.objective.gradient(point)
    program.check(point)
    names = {name: getattr(math, name) for name in ("exp", "log", "sqrt")}
    try:
        theirs = eval(text, {"__builtins__": {}}, {**names, "x": x, "y": y})
    except (ArithmeticError, ValueError, TypeError):
        return
    if not isinstance(theirs, complex) and math.isfinite(theirs) and abs(theirs) < 1e100:
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6) or not math.isfinite(ours)


def test_a_function_without_a_value_is_not_a_solution() -> None:
    program = program_of({"variables": {"x": {"lower": -1, "upper": 1}}, "minimize": "log(x)*x"})
    assert not program.check(np.array([-0.5])).feasible
    assert isinstance(program.objective, Function)
