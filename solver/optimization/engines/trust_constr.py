"""Trust-region method of SciPy: local optima of nonlinear programs, by exact first derivatives."""

from __future__ import annotations

from typing import Any

import scipy
from scipy.optimize import BFGS, Bounds, minimize

from solver.optimization.engine import Events, Options, Outcome
from solver.optimization.model import Model
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.nonlinear.search import Search, Stopped, local_refusal

NAME = "trust-constr"

_STEPS = 3000


def version() -> str:
    """Return the version of the library."""
    return str(scipy.__version__)


def refuses(program: Model) -> str | None:
    """Say why a program cannot be solved."""
    return local_refusal(program, derivatives=True)


def solve(program: Model, options: Options, events: Events) -> Outcome:
    """Solve a program that is to be minimised."""
    assert isinstance(program, NonlinearProgram), "others are refused"
    search = Search(program, options, events)
    bounds: Any = Bounds(program.lower, program.upper, keep_feasible=False)
    starts, ended = 0, True
    try:
        for start in search.starts():
            starts += 1
            found = minimize(
                search.objective, start, jac=search.gradient, hess=BFGS(), bounds=bounds,
                constraints=search.constraint(), method="trust-constr",
                options={"maxiter": _STEPS, "gtol": 1e-9, "xtol": 1e-12, "barrier_tol": 1e-10},
            )  # fmt: skip
            if search.keep(found.x):
                break
    except Stopped:
        ended = False
    return search.outcome(local=True, ended=ended, counts={"starts": starts})
