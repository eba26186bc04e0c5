"""HiGHS: linear and mixed-integer programs. https://highs.dev."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version as installed
from typing import Any

import highspy
import numpy as np

from solver.optimization.engine import Events, Limit, Options, Outcome, Reason
from solver.optimization.model import Model
from solver.optimization.program import Program

NAME = "highs"

_Status = highspy.HighsModelStatus
_ENDINGS: Mapping[Any, tuple[Reason, Limit | None]] = {
    _Status.kOptimal: ("OPTIMAL", None),
    _Status.kModelEmpty: ("OPTIMAL", None),
    _Status.kInfeasible: ("INFEASIBLE", None),
    _Status.kUnbounded: ("UNBOUNDED", None),
    _Status.kUnboundedOrInfeasible: ("INFEASIBLE_OR_UNBOUNDED", None),
    _Status.kTimeLimit: ("FEASIBLE", "TIME"),
    _Status.kIterationLimit: ("FEASIBLE", "ITERATION"),
    _Status.kSolutionLimit: ("FEASIBLE", "OTHER"),
    _Status.kInterrupt: ("FEASIBLE", "INTERRUPTED"),
    _Status.kMemoryLimit: ("FEASIBLE", "MEMORY"),
}


def version() -> str:
    """Return the version of the library."""
    return installed("highspy")


def refuses(program: Model) -> str | None:
    """Say why a program cannot be solved."""
    if not isinstance(program, Program):
        return "it is a constraint program, or a nonlinear one"
    if program.choices.given:
        return "it has semi-continuous variables, ordered sets or indicators"
    # Its own method for quadratic programs has called wrong points optimal.
    return "it has quadratic terms" if len(program.quadratic.rows) else None


def solve(program: Model, options: Options, events: Events) -> Outcome:
    """Solve a program that is to be minimised."""
    assert isinstance(program, Program), "others are refused"
    highs = make_highs(program, options)
    highs.HandleUserInterrupt = True
    events.on_stop(highs.cancelSolve)
    whole = bool(program.integer.any())
    if whole:

        def found(event: Any) -> None:
            told = event.data_out
            events.found(told.objective_function_value, np.array(told.mip_solution), told.mip_dual_bound)

        highs.cbMipImprovingSolution += found
        if options.hint is not None:
            known = np.flatnonzero(np.isfinite(options.hint)).astype(np.int32)
            highs.setSolution(len(known), known, options.hint[known])
    highs.run()
    if highs.getModelStatus() == _Status.kUnboundedOrInfeasible and not events.stopped:
        # Presolve knows no more than that; without it, it is one of the two.
        highs.setOptionValue("presolve", "off")
        highs.run()
    return _outcome(highs, whole=whole)


def make_highs(program: Program, options: Options) -> Any:
    """Return a HiGHS object that holds the program."""
    highs: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", not options.quiet)
    highs.setOptionValue("threads", options.threads)
    highs.setOptionValue("time_limit", options.time_limit)
    highs.setOptionValue("mip_rel_gap", options.relative_gap)
    highs.setOptionValue("random_seed", options.seed)
    height, width = program.size
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = width, height
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = program.linear, program.lower, program.upper
    lp.row_lower_, lp.row_upper_ = program.row_lower, program.row_upper
    lp.offset_ = program.offset
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.num_col_, lp.a_matrix_.num_row_ = width, height
    lp.a_matrix_.start_ = program.matrix.starts.astype(np.int32)
    lp.a_matrix_.index_ = program.matrix.columns.astype(np.int32)
    lp.a_matrix_.value_ = program.matrix.values
    if program.integer.any():
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[flag] for flag in program.integer.tolist()]
    if highs.passModel(lp) == highspy.HighsStatus.kError:
        raise ValueError("HiGHS does not take the program; its log says why")
    return highs


def _outcome(highs: Any, *, whole: bool) -> Outcome:
    status = highs.getModelStatus()
    reason, limit = _ENDINGS.get(status, ("NUMERICAL_ERROR", None))
    info, solution = highs.getInfo(), highs.getSolution()
    # Only a feasible point is one: while it goes on, the simplex method holds others.
    x = np.array(solution.col_value) if info.primal_solution_status == 2 else None
    if reason == "FEASIBLE" and x is None:
        reason = "NO_SOLUTION_FOUND"
    bound = info.mip_dual_bound if whole else (info.objective_function_value if reason == "OPTIMAL" else None)
    duals = np.array(solution.row_dual) if not whole and solution.dual_valid else None
    return Outcome(
        reason,
        limit,
        "" if status in _ENDINGS else f"HiGHS ended with {highs.modelStatusToString(status)!r}",
        x,
        None if bound is None or not np.isfinite(bound) else float(bound),
        duals,
        {"simplex_iterations": int(info.simplex_iteration_count), "nodes": max(0, int(info.mip_node_count))},
    )
