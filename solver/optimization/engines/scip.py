"""SCIP: mixed-integer programs, and quadratic and nonlinear ones to global optimality. https://scipopt.org."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyscipopt

from solver.optimization.constraints.program import ConstraintProgram
from solver.optimization.engine import Events, Limit, Options, Outcome, Reason
from solver.optimization.engines.scip_nonlinear import KNOWN, fill_nonlinear
from solver.optimization.model import Model
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.program import Floats, Program

NAME = "scip"

_ENDINGS: Mapping[str, tuple[Reason, Limit | None]] = {
    "optimal": ("OPTIMAL", None),
    "gaplimit": ("OPTIMAL", None),
    "infeasible": ("INFEASIBLE", None),
    "unbounded": ("UNBOUNDED", None),
    "inforunbd": ("INFEASIBLE_OR_UNBOUNDED", None),
    "timelimit": ("FEASIBLE", "TIME"),
    "nodelimit": ("FEASIBLE", "NODE"),
    "memlimit": ("FEASIBLE", "MEMORY"),
    "userinterrupt": ("FEASIBLE", "INTERRUPTED"),
}


def version() -> str:
    """Return the version of the library."""
    return str(pyscipopt.Model().version())


def refuses(program: Model) -> str | None:
    """Say why a program cannot be solved."""
    if isinstance(program, ConstraintProgram):
        return "it is a constraint program"
    if isinstance(program, NonlinearProgram) and (unknown := program.operations - KNOWN):
        return f"it has {', '.join(sorted(unknown))}"
    return None


def solve(program: Model, options: Options, events: Events) -> Outcome:
    """Solve a program that is to be minimised."""
    model = pyscipopt.Model()
    model.hideOutput(options.quiet)
    if isinstance(program, NonlinearProgram):
        variables = fill_nonlinear(model, program)
    else:
        assert isinstance(program, Program), "others are refused"
        variables = _fill(model, program)
    model.setParam("limits/time", options.time_limit)
    model.setParam("limits/gap", options.relative_gap)
    model.setParam("randomization/randomseedshift", options.seed)
    model.setParam("lp/threads", options.threads)
    model.setParam("misc/catchctrlc", False)
    if options.search == "branching":
        model.setHeuristics(pyscipopt.SCIP_PARAMSETTING.OFF)  # type: ignore[attr-defined]
        model.setParam("separating/maxroundsroot", 1)
        model.setParam("separating/maxrounds", 0)
    if options.hint is not None:
        _hint(model, variables, options.hint)
    model.includeEventhdlr(_Incumbents(variables, events), "incumbents", "tells of each better solution")
    events.on_stop(model.interruptSolve)
    # Without the interpreter's lock, so that another thread can stop it.
    model.optimizeNogil()
    return _outcome(model, variables, options.solutions)


class _Incumbents(pyscipopt.Eventhdlr):
    def __init__(self, variables: list[Any], events: Events) -> None:
        self._variables = variables
        self._events = events

    def eventinit(self) -> None:
        self.model.catchEvent(pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND, self)  # type: ignore[attr-defined]

    def eventexit(self) -> None:
        self.model.dropEvent(pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND, self)  # type: ignore[attr-defined]

    def eventexec(self, event: Any) -> None:  # noqa: ARG002
        best = self.model.getBestSol()
        point = _values(self.model, best, self._variables)
        bound = self.model.getDualbound()
        known = abs(bound) < self.model.infinity()
        self._events.found(self.model.getSolObjVal(best), point, bound if known else None)


def _fill(model: Any, program: Program) -> list[Any]:
    height, width = program.size
    lower, upper = program.lower.tolist(), program.upper.tolist()
    costs, whole = program.linear.tolist(), program.integer.tolist()
    variables = [
        model.addVar(
            f"x{number}",
            vtype="I" if whole[number] else "C",
            lb=None if lower[number] == -np.inf else lower[number],
            ub=None if upper[number] == np.inf else upper[number],
            obj=costs[number],
        )
        for number in range(width)
    ]
    starts, columns = program.matrix.starts.tolist(), program.matrix.columns.tolist()
    values = program.matrix.values.tolist()
    below, above = program.row_lower.tolist(), program.row_upper.tolist()
    indicators = {row: (column, value) for row, column, value in program.choices.indicators}
    for row in range(height):
        places = range(starts[row], starts[row + 1])
        left = pyscipopt.quicksum(values[place] * variables[columns[place]] for place in places)
        if below[row] == -np.inf and above[row] == np.inf:
            continue
        # A constraint without variables is a comparison of numbers, which PySCIPOpt does not take.
        if not len(places):
            left = 0.0 * variables[0]
        if row in indicators:
            column, value = indicators[row]
            sides = [left <= above[row]] * (above[row] < np.inf) + [left >= below[row]] * (below[row] > -np.inf)
            for side in sides:
                model.addConsIndicator(side, variables[column], activeone=value)
        elif below[row] == above[row]:
            model.addCons(left == below[row])
        elif below[row] == -np.inf:
            model.addCons(left <= above[row])
        elif above[row] == np.inf:
            model.addCons(left >= below[row])
        else:
            model.addCons(pyscipopt.ExprCons(left, below[row], above[row]))
    for kind, columns in program.choices.sets:
        add = model.addConsSOS1 if kind == 1 else model.addConsSOS2
        add([variables[column] for column in columns], list(range(1, len(columns) + 1)))
    for column in program.choices.semicontinuous:
        _or_zero(model, variables[column], lower[column], upper[column])
    terms = program.quadratic
    if len(terms.rows):
        # SCIP's objective is linear: a variable stands for the rest, and is at least that.
        value = model.addVar("objective", lb=None, ub=None, obj=1.0)
        quadratic = pyscipopt.quicksum(
            coefficient * variables[row] * variables[column]
            for row, column, coefficient in zip(
                terms.rows.tolist(), terms.columns.tolist(), terms.coefficients.tolist(), strict=True
            )
        )
        model.addCons(quadratic - value <= 0)
    model.addObjoffset(program.offset)
    return variables


def _or_zero(model: Any, variable: Any, lower: float, upper: float) -> None:
    """Have a variable be within its bounds, or 0."""
    on = model.addVar(vtype="B")
    model.chgVarLb(variable, None if lower == -np.inf else min(0.0, lower))
    model.chgVarUb(variable, None if upper == np.inf else max(0.0, upper))
    for side in (variable <= 0.0, variable >= 0.0):
        model.addConsIndicator(side, on, activeone=False)
    if lower > 0:
        model.addConsIndicator(variable >= lower, on)
    if upper < 0:
        model.addConsIndicator(variable <= upper, on)


def _hint(model: Any, variables: list[Any], hint: Floats) -> None:
    partial = model.createPartialSol()
    for variable, value in zip(variables, hint.tolist(), strict=True):
        if np.isfinite(value):
            model.setSolVal(partial, variable, value)
    model.addSol(partial)


def _values(model: Any, solution: Any, variables: list[Any]) -> Floats:
    return np.fromiter((model.getSolVal(solution, variable) for variable in variables), np.float64, len(variables))


def _outcome(model: Any, variables: list[Any], wanted: int) -> Outcome:
    status = model.getStatus()
    reason, limit = _ENDINGS.get(status, ("OTHER_ERROR", None))
    x = _values(model, model.getBestSol(), variables) if model.getNSols() and reason != "INFEASIBLE" else None
    if reason == "FEASIBLE" and x is None:
        reason = "NO_SOLUTION_FOUND"
    bound = model.getDualbound()
    known = abs(bound) < model.infinity() and reason not in ("INFEASIBLE", "UNBOUNDED", "INFEASIBLE_OR_UNBOUNDED")
    detail = "" if status in _ENDINGS else f"SCIP ended with {status!r}"
    pool = []
    if wanted > 1:
        pool = [_values(model, solution, variables) for solution in model.getSols()[:wanted]]
    counts = {"nodes": int(model.getNTotalNodes()), "simplex_iterations": int(model.getNLPIterations())}
    return Outcome(reason, limit, detail, x, float(bound) if known else None, counts=counts, pool=pool)
