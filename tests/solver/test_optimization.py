"""Programs are solved to their published values, and no engine is believed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solver.optimization.check import check_optimality, check_point, is_convex
from solver.optimization.engine import Events, Options, Outcome
from solver.optimization.engines import clarabel, cp_sat, highs, scip
from solver.optimization.files import read_program
from solver.optimization.judge import judge
from solver.optimization.model import minimised
from solver.optimization.process import Run
from solver.optimization.program import Program, make_program
from solver.optimization.solve import solve_program
from tests.solver.conftest import HARD, INSTANCES


def ignore(*_: object) -> None:
    """Tell nobody."""


# Published values


@pytest.mark.parametrize(
    ("file", "engine", "optimum"),
    [
        ("afiro.mps.gz", "highs", -464.75314286),
        ("afiro.mps.gz", "scip", -464.75314286),
        ("afiro.mps.gz", "clarabel", -464.75314286),
        ("p0033.mps.gz", "highs", 3089),
        ("p0033.mps.gz", "scip", 3089),
        ("p0033.mps.gz", "cp-sat", 3089),
        ("HS35.qps.gz", "clarabel", 1 / 9),
        ("HS35.qps.gz", "scip", 1 / 9),
        ("CVXQP1_S.qps.gz", "clarabel", 11590.718),
    ],
)
def test_every_engine_reproduces_published_values(file: str, engine: str, optimum: float) -> None:
    solution = solve_program(read_program(INSTANCES / file), Options(time_limit=30), engines=[engine])
    assert solution.reason == "OPTIMAL"
    assert solution.check is not None
    assert solution.check.feasible
    # SCIP ends at a gap of 1e-4.
    assert solution.check.objective == pytest.approx(optimum, rel=1e-4 if engine == "scip" else 1e-6)
    assert (solution.proof is not None) == (engine != "scip" and "p0033" not in file)


@pytest.mark.parametrize("file", ["galenet.mps", "infeasible-mip0.mps"])
def test_what_makes_a_program_infeasible_is_told_and_is_infeasible(file: str) -> None:
    program = read_program(INSTANCES / file)
    solution = solve_program(program, Options(time_limit=30))
    conflict = solution.run.conflict
    assert (solution.reason, solution.x) == ("INFEASIBLE", None)
    assert conflict is not None
    assert conflict.irreducible

    def without(member: tuple[str, int] | None) -> str:
        """Solve what is left of the program, without one of its members, by another engine."""
        rows = [row for row in conflict.constraints.tolist() if member != ("row", row)]
        columns = [column for column in conflict.variables.tolist() if member != ("column", column)]
        bounds: list[np.ndarray[Any, Any]] = []
        for whole, kept in (
            (program.lower, columns), (program.upper, columns), (program.row_lower, rows), (program.row_upper, rows),
        ):  # fmt: skip
            bounds.append(np.full(len(whole), -np.inf if len(bounds) % 2 == 0 else np.inf))
            bounds[-1][kept] = whole[kept]
        part = make_program(
            linear=np.zeros(program.size[1]), lower=bounds[0], upper=bounds[1], integer=program.integer,
            rows=np.repeat(np.arange(program.size[0]), np.diff(program.matrix.starts)),
            columns=program.matrix.columns, values=program.matrix.values, row_lower=bounds[2], row_upper=bounds[3],
        )  # fmt: skip
        return scip.solve(part, Options(time_limit=20), Events(ignore)).reason

    assert without(None) == "INFEASIBLE"
    members = [("row", row) for row in conflict.constraints.tolist()]
    members += [("column", column) for column in conflict.variables.tolist()]
    assert {without(member) for member in members} == {"OPTIMAL"}


# No engine is believed


def outcome(**said: Any) -> Run:
    return Run(Outcome(**said), [], None, "1", 0.1, "")


def test_a_wrong_word_of_an_engine_is_not_passed_on() -> None:
    program = minimised(read_program(INSTANCES / "afiro.mps.gz"))
    right = highs.solve(program, Options(), Events(ignore))
    assert judge(program, outcome(**vars(right)), Options()).reason == "OPTIMAL"
    assert right.x is not None
    assert right.duals is not None
    outside = right.x.copy()
    outside[0] = -1.0
    found = judge(program, outcome(**{**vars(right), "x": outside}), Options())
    assert (found.reason, found.detail) == ("IMPRECISE", "the engine called its point optimal, and it is not feasible")
    worse = highs.solve(_turned(program), Options(), Events(ignore)).x
    found = judge(program, outcome(**{**vars(right), "x": worse}), Options())
    assert (found.reason, found.check is not None and found.check.feasible) == ("IMPRECISE", True)
    assert "its duals prove no better bound than -464.753" in found.detail
    found = judge(program, outcome(**{**vars(right), "duals": -right.duals}), Options())
    assert found.reason == "IMPRECISE"
    found = judge(program, outcome(**{**vars(right), "duals": None, "bound": -500.0}), Options())
    assert (found.reason, found.bound) == ("FEASIBLE", -500.0)
    assert judge(program, outcome(reason="OPTIMAL"), Options()).reason == "OTHER_ERROR"
    nothing = np.full(program.size[1], np.nan)
    assert judge(program, outcome(reason="FEASIBLE", x=nothing), Options()).reason == "IMPRECISE"


def _turned(program: Program) -> Program:
    """The same constraints, and a random other objective."""
    other = np.random.default_rng(5).random(program.size[1])
    return make_program(
        linear=other, lower=program.lower, upper=program.upper, integer=program.integer,
        rows=np.repeat(np.arange(program.size[0]), np.diff(program.matrix.starts)),
        columns=program.matrix.columns, values=program.matrix.values,
        row_lower=program.row_lower, row_upper=program.row_upper,
    )  # fmt: skip


def test_an_engine_that_cannot_is_told_of_and_the_next_is_asked() -> None:
    solution = solve_program(
        read_program(INSTANCES / "HS35.qps.gz"), Options(time_limit=20), engines=["highs", "cp-sat", "clarabel"]
    )
    assert [attempt.reason for attempt in solution.attempts] == ["OTHER_ERROR", "OTHER_ERROR", "OPTIMAL"]
    assert solution.attempts[0].detail == "highs cannot solve it: it has quadratic terms"


def test_cp_sat_gets_no_continuous_variable_and_no_broken_row() -> None:
    program = read_program(INSTANCES / "afiro.mps.gz")
    assert cp_sat.refuses(program) == "not all of its variables are integers"
    thirds = _boxed(linear=[1.0, 1.0], rows=[[1 / 3, np.pi]], sides=[(0.0, 5.0)])
    assert cp_sat.refuses(thirds) == "its coefficients are no multiples of one number"


def test_a_quadratic_objective_that_is_not_convex_is_solved_globally() -> None:
    program = make_program(
        linear=np.array([0.5, 0.0]), lower=np.full(2, -2.0), upper=np.full(2, 2.0), integer=np.zeros(2, bool),
        rows=np.array([0, 0]), columns=np.array([0, 1]), values=np.ones(2), row_lower=np.array([-3.0]),
        row_upper=np.array([3.0]), quadratic=(np.array([0, 1]), np.array([0, 1]), np.array([-1.0, -1.0])),
    )  # fmt: skip
    assert not is_convex(program)
    assert clarabel.refuses(program) == "its objective is not convex"
    solution = solve_program(program, Options(time_limit=20))
    assert (solution.reason, [attempt.engine for attempt in solution.attempts]) == ("OPTIMAL", ["scip"])
    # The corner (-2, 1) or (-2, 2) beyond the row: -4 - 4 - 1 at (-2, 2).
    assert solution.check is not None
    assert solution.check.objective == pytest.approx(-9.0, rel=1e-4)


# Engines agree, and duals prove


def _boxed(linear: list[float], rows: list[list[float]], sides: list[tuple[float, float]], high: float = 9) -> Program:
    matrix = np.array(rows, np.float64).reshape(len(rows), len(linear))
    places = np.nonzero(np.ones_like(matrix))
    return make_program(
        linear=np.array(linear), lower=np.zeros(len(linear)), upper=np.full(len(linear), high),
        integer=np.ones(len(linear), bool), rows=places[0], columns=places[1], values=matrix.ravel(),
        row_lower=np.array([side[0] for side in sides]), row_upper=np.array([side[1] for side in sides]),
    )  # fmt: skip


SMALL = st.integers(-9, 9).map(float)


@st.composite
def programs(draw: st.DrawFn, integer: bool) -> Program:
    """A program with a feasible point."""
    width, height = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    matrix = np.array(draw(st.lists(SMALL, min_size=width * height, max_size=width * height))).reshape(height, width)
    point = np.array(draw(st.lists(st.integers(0, 9), min_size=width, max_size=width)), np.float64)
    below = np.array(draw(st.lists(st.sampled_from([0.0, 3.0, np.inf]), min_size=height, max_size=height)))
    above = np.array(draw(st.lists(st.sampled_from([0.0, 2.5, np.inf]), min_size=height, max_size=height)))
    places = np.nonzero(np.ones_like(matrix))
    return make_program(
        linear=np.array(draw(st.lists(SMALL, min_size=width, max_size=width))), lower=np.zeros(width),
        upper=np.full(width, 9.0), integer=np.full(width, integer), rows=places[0], columns=places[1],
        values=matrix.ravel(), row_lower=matrix @ point - below, row_upper=matrix @ point + above,
        maximize=draw(st.booleans()), offset=draw(SMALL),
    )  # fmt: skip


QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(programs(integer=True))
def test_engines_agree_on_whole_numbers(program: Program) -> None:
    program = minimised(program)
    values = set()
    for engine in (highs, scip, cp_sat):
        found = engine.solve(program, Options(time_limit=20, relative_gap=0.0), Events(ignore))
        assert found.reason == "OPTIMAL"
        assert found.x is not None
        assert check_point(program, found.x).feasible
        values.add(round(program.objective(np.round(found.x)), 6))
    assert len(values) == 1


@QUICK
@given(programs(integer=False))
def test_engines_agree_on_linear_programs_and_their_duals_prove_it(program: Program) -> None:
    program = minimised(program)
    values = []
    for engine in (highs, clarabel):
        found = engine.solve(program, Options(time_limit=20), Events(ignore))
        assert found.x is not None
        assert found.duals is not None
        proof = check_optimality(program, found.x, found.duals)
        assert check_point(program, found.x).feasible
        assert proof.optimal
        # Complementary slackness: what has a price is at a bound.
        activity = program.activities(found.x)
        slack = np.minimum(np.abs(activity - program.row_lower), np.abs(activity - program.row_upper))
        assert np.abs(found.duals * np.where(np.isfinite(slack), slack, 0)).max(initial=0) < 1e-4
        values.append(program.objective(found.x))
    assert values[0] == pytest.approx(values[1], rel=1e-6, abs=1e-5)


# Parts


def test_parts_that_share_no_constraint_are_solved_apart() -> None:
    random = np.random.default_rng(3)
    weights = random.integers(5, 40, 30).astype(float)
    program = make_program(
        linear=random.integers(5, 40, 30).astype(float), lower=np.zeros(30), upper=np.ones(30),
        integer=np.arange(30) % 15 != 14, rows=np.repeat([0, 1], 15), columns=random.permutation(30), values=weights,
        row_lower=np.full(2, -np.inf), row_upper=np.full(2, 90.0), maximize=True, offset=7.0,
    )  # fmt: skip
    told: list[Any] = []
    solution = solve_program(
        program, Options(time_limit=60, threads=2, relative_gap=0.0), progress=lambda _, best: told.append(best)
    )
    assert solution.check is not None
    # The best of all parts together, as they are minimised.
    assert -told[-1].objective == pytest.approx(solution.check.objective)
    assert check_point(program, told[-1].x).objective == pytest.approx(solution.check.objective)
    assert told[-1].bound == pytest.approx(-(solution.bound or 0.0))
    whole = scip.solve(minimised(program), Options(time_limit=60, relative_gap=0.0), Events(ignore))
    assert solution.reason == "OPTIMAL"
    assert "2 parts that share no constraint" in solution.attempts[0].detail
    assert whole.bound is not None
    assert solution.check is not None
    assert solution.check.objective == pytest.approx(-whole.bound)
    assert solution.bound == pytest.approx(-whole.bound)
    impossible = dataclasses.replace(program, row_lower=np.array([0.0, 1e6]), row_upper=np.array([90.0, 2e6]))
    solution = solve_program(impossible, Options(time_limit=60))
    assert solution.reason == "INFEASIBLE"
    assert solution.run.conflict is not None
    assert solution.run.conflict.constraints.tolist() == [1]


def test_time_is_up_and_the_gap_is_told() -> None:
    solution = solve_program(read_program(HARD), Options(time_limit=1.5))
    assert (solution.reason, solution.limit) == ("FEASIBLE", "TIME")
    assert solution.gap is not None
    assert solution.gap > 0.1
    assert solution.run.incumbents
