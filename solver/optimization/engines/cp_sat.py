"""CP-SAT of OR-Tools: constraint programs, and those of arrays whose numbers are all whole, within bounds.

It gives wrong answers where variables are continuous, so it never gets such a program.
https://developers.google.com/optimization/cp.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version as installed
from itertools import islice
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from solver.optimization.constraints.program import ConstraintProgram
from solver.optimization.engine import Events, Limit, Options, Outcome, Reason
from solver.optimization.engines.cp_sat_model import of_constraints
from solver.optimization.model import Model
from solver.optimization.program import Floats, Program

NAME = "cp-sat"

_LARGEST = 2**52
_SCALES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 2.0, 4.0, 8.0, 3.0, 6.0, 12.0)
_EXACT = 1e-9
_ENDINGS: Mapping[Any, tuple[Reason, Limit | None]] = {
    cp_model.OPTIMAL: ("OPTIMAL", None),
    cp_model.INFEASIBLE: ("INFEASIBLE", None),
    cp_model.FEASIBLE: ("FEASIBLE", "TIME"),
    cp_model.UNKNOWN: ("NO_SOLUTION_FOUND", "TIME"),
    cp_model.MODEL_INVALID: ("OTHER_ERROR", None),
}


def version() -> str:
    """Return the version of the library."""
    return installed("ortools")


def refuses(program: Model) -> str | None:
    """Say why a program cannot be solved."""
    if isinstance(program, ConstraintProgram):
        return None
    if not isinstance(program, Program):
        return "it is nonlinear"
    if program.choices.given:
        return "it has semi-continuous variables, ordered sets or indicators"
    if len(program.quadratic.rows):
        return "it has quadratic terms"
    if not program.integer.all():
        return "not all of its variables are integers"
    if not (np.abs(program.lower).max() < _LARGEST and np.abs(program.upper).max() < _LARGEST):
        return "not all of its variables are bounded"
    if any(_scale(program, row) is None for row in range(program.size[0])):
        return "its coefficients are no multiples of one number"
    return None


def solve(program: Model, options: Options, events: Events) -> Outcome:
    """Solve a program that is to be minimised."""
    if isinstance(program, Program):
        if (np.ceil(program.lower - _EXACT) > np.floor(program.upper + _EXACT)).any():
            return Outcome("INFEASIBLE", detail="no whole number is between the bounds of a variable")
        model, variables = _of_arrays(program)
    else:
        assert isinstance(program, ConstraintProgram), "others are refused"
        model, variables = of_constraints(program)
    if options.hint is not None:
        for variable, value in zip(variables, options.hint.tolist(), strict=True):
            if np.isfinite(value):
                model.add_hint(variable, round(value))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = options.time_limit
    solver.parameters.num_workers = options.threads
    solver.parameters.random_seed = options.seed
    solver.parameters.relative_gap_limit = options.relative_gap
    solver.parameters.log_search_progress = not options.quiet
    incumbents = _Incumbents(variables, events)
    if options.solutions > 1:
        solver.parameters.fill_additional_solutions_in_response = True
        solver.parameters.solution_pool_size = options.solutions
        if not model.has_objective():
            # All that there are, until enough are found; CP-SAT does so in one thread only.
            solver.parameters.enumerate_all_solutions = True
            solver.parameters.num_workers = 1
            incumbents.enough = options.solutions
    events.on_stop(solver.stop_search)
    status = solver.solve(model, incumbents)
    reason, limit = _ENDINGS[status]
    if limit is not None and events.stopped:
        limit = "INTERRUPTED"
    found = reason in ("OPTIMAL", "FEASIBLE")
    if found and not model.has_objective():
        reason, limit = "OPTIMAL", None
    x = np.array([float(solver.value(variable)) for variable in variables]) if found else None
    bound = float(solver.best_objective_bound) if reason != "INFEASIBLE" else None
    detail = "" if reason != "OTHER_ERROR" else f"CP-SAT does not take the program: {model.validate()[:500]}"
    places = [variable.index for variable in variables]
    more = islice(solver.response_proto.additional_solutions, options.solutions)
    pool = [np.array(solution.values, np.float64)[places] for solution in more]
    return Outcome(reason, limit, detail, x, bound, counts={"branches": solver.num_branches}, pool=pool)


class _Incumbents(cp_model.CpSolverSolutionCallback):
    def __init__(self, variables: list[Any], events: Events) -> None:
        super().__init__()
        self._variables = variables
        self._events = events
        self._seen = 0
        self.enough: int | None = None

    def on_solution_callback(self) -> None:
        point = np.array([float(self.value(variable)) for variable in self._variables])
        self._events.found(self.objective_value, point, self.best_objective_bound)
        self._seen += 1
        if self._seen == self.enough:
            self.stop_search()


def _of_arrays(program: Program) -> tuple[Any, list[Any]]:
    model = cp_model.CpModel()
    lower = np.ceil(program.lower - _EXACT).astype(int).tolist()
    upper = np.floor(program.upper + _EXACT).astype(int).tolist()
    variables = [model.new_int_var(low, high, "") for low, high in zip(lower, upper, strict=True)]
    for row in range(program.size[0]):
        _add(model, program, row, variables)
    model.minimize(cp_model.LinearExpr.weighted_sum(variables, program.linear.tolist()) + program.offset)
    return model, variables


def _add(model: Any, program: Program, row: int, variables: list[Any]) -> None:
    scale = _scale(program, row)
    assert scale is not None, "such a program is refused"
    part = slice(program.matrix.starts[row], program.matrix.starts[row + 1])
    coefficients = np.round(program.matrix.values[part] * scale).astype(int).tolist()
    low, high = program.row_lower[row] * scale, program.row_upper[row] * scale
    left = cp_model.LinearExpr.weighted_sum(
        [variables[column] for column in program.matrix.columns[part].tolist()], coefficients
    )
    # The left side is a whole number, so a bound between two of them is the next one inward.
    domain = cp_model.Domain(
        int(np.ceil(low - _EXACT * max(1, abs(low)))) if np.isfinite(low) else -(2**62),
        int(np.floor(high + _EXACT * max(1, abs(high)))) if np.isfinite(high) else 2**62,
    )
    model.add_linear_expression_in_domain(left, domain)


def _scale(program: Program, row: int) -> float | None:
    """Return by what a row is multiplied so that its coefficients are whole numbers."""
    values = program.matrix.values[program.matrix.starts[row] : program.matrix.starts[row + 1]]
    return next((scale for scale in _SCALES if _whole(values * scale)), None)


def _whole(values: Floats) -> bool:
    rounded = np.round(values)
    return bool((np.abs(values - rounded) <= _EXACT * np.maximum(1.0, np.abs(values))).all()) and bool(
        (np.abs(rounded) < _LARGEST).all()
    )
