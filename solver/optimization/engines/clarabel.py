"""Clarabel: linear programs and convex quadratic ones, by an interior point method. https://clarabel.org."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version as installed

import clarabel
import numpy as np
from scipy import sparse

from solver.optimization.check import is_convex
from solver.optimization.engine import Events, Limit, Options, Outcome, Reason
from solver.optimization.model import Model
from solver.optimization.program import Program

NAME = "clarabel"

_ENDINGS: Mapping[str, tuple[Reason, Limit | None]] = {
    "Solved": ("OPTIMAL", None),
    "AlmostSolved": ("IMPRECISE", None),
    "PrimalInfeasible": ("INFEASIBLE", None),
    "DualInfeasible": ("UNBOUNDED", None),
    "AlmostPrimalInfeasible": ("NUMERICAL_ERROR", None),
    "AlmostDualInfeasible": ("NUMERICAL_ERROR", None),
    "MaxIterations": ("NO_SOLUTION_FOUND", "ITERATION"),
    "MaxTime": ("NO_SOLUTION_FOUND", "TIME"),
}


def version() -> str:
    """Return the version of the library."""
    return installed("clarabel")


def refuses(program: Model) -> str | None:
    """Say why a program cannot be solved."""
    if not isinstance(program, Program):
        return "it is a constraint program, or a nonlinear one"
    if program.choices.given:
        return "it has semi-continuous variables, ordered sets or indicators"
    if program.integer.any():
        return "some of its variables are integers"
    return None if is_convex(program) else "its objective is not convex"


def solve(program: Model, options: Options, events: Events) -> Outcome:  # noqa: ARG001  (it cannot be stopped)
    """Solve a program that is to be minimised."""
    assert isinstance(program, Program), "others are refused"
    height, width = program.size
    matrix = sparse.csr_matrix(
        (program.matrix.values, program.matrix.columns, program.matrix.starts), shape=(height, width)
    )
    equal = np.isfinite(program.row_lower) & (program.row_lower == program.row_upper)
    above = np.isfinite(program.row_upper) & ~equal
    below = np.isfinite(program.row_lower) & ~equal
    high, low = np.isfinite(program.upper), np.isfinite(program.lower)
    identity = sparse.identity(width, format="csr")
    # Clarabel's form: A x + s = b, with s zero in the first block and not negative in the rest.
    blocks = [matrix[equal], matrix[above], -matrix[below], identity[high], -identity[low]]
    sides = [
        program.row_upper[equal], program.row_upper[above], -program.row_lower[below],
        program.upper[high], -program.lower[low],
    ]  # fmt: skip
    terms = program.quadratic
    hessian = sparse.csc_matrix(
        (terms.coefficients * np.where(terms.rows == terms.columns, 2.0, 1.0), (terms.rows, terms.columns)),
        shape=(width, width),
    )
    stacked = sparse.csc_matrix(sparse.vstack(blocks))
    side = np.concatenate(sides)
    settings = clarabel.DefaultSettings()
    settings.time_limit = options.time_limit
    settings.max_threads = options.threads
    settings.verbose = not options.quiet
    cones = [clarabel.ZeroConeT(int(equal.sum())), clarabel.NonnegativeConeT(len(side) - int(equal.sum()))]
    answer = clarabel.DefaultSolver(hessian, program.linear, stacked, side, cones, settings).solve()
    reason, limit = _ENDINGS.get(str(answer.status), ("NUMERICAL_ERROR", None))
    solved = reason in ("OPTIMAL", "IMPRECISE")
    multipliers = np.array(answer.z)
    duals = np.zeros(height)
    ends = np.cumsum([equal.sum(), above.sum(), below.sum()])
    duals[equal] -= multipliers[: ends[0]]
    duals[above] -= multipliers[ends[0] : ends[1]]
    duals[below] += multipliers[ends[1] : ends[2]]
    return Outcome(
        reason,
        limit,
        "" if str(answer.status) in _ENDINGS else f"Clarabel ended with {answer.status}",
        np.array(answer.x) if solved else None,
        float(answer.obj_val_dual) + program.offset if reason == "OPTIMAL" else None,
        duals if solved else None,
        {"iterations": int(answer.iterations)},
    )
