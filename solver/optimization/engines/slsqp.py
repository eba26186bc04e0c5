"""SLSQP of SciPy: local optima of nonlinear programs from several starts, by exact derivatives."""

from __future__ import annotations

import numpy as np
import scipy
from scipy.optimize import minimize

from solver.optimization.engine import Events, Options, Outcome
from solver.optimization.model import Model
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.nonlinear.search import Search, Stopped, local_refusal
from solver.optimization.program import Floats

NAME = "slsqp"

_PRECISION = 1e-12
_STEPS = 1000


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
    equal = program.row_lower == program.row_upper
    below = np.isfinite(program.row_lower) & ~equal
    above = np.isfinite(program.row_upper) & ~equal

    def zero(x: Floats) -> Floats:
        return np.asarray((search.activity(x) - program.row_lower)[equal])

    def positive(x: Floats) -> Floats:
        activity = search.activity(x)
        return np.concatenate([(activity - program.row_lower)[below], (program.row_upper - activity)[above]])

    def zero_slopes(x: Floats) -> Floats:
        return np.asarray(search.jacobian(x)[equal])

    def positive_slopes(x: Floats) -> Floats:
        jacobian = search.jacobian(x)
        return np.concatenate([jacobian[below], -jacobian[above]])

    constraints = []
    if equal.any():
        constraints.append({"type": "eq", "fun": zero, "jac": zero_slopes})
    if below.any() or above.any():
        constraints.append({"type": "ineq", "fun": positive, "jac": positive_slopes})
    bounds = list(zip(program.lower.tolist(), program.upper.tolist(), strict=True))
    starts, ended = 0, True
    try:
        for start in search.starts():
            starts += 1
            found = minimize(
                search.objective, start, jac=search.gradient, bounds=bounds, constraints=constraints, method="SLSQP",
                options={"ftol": _PRECISION, "maxiter": _STEPS},
            )  # fmt: skip
            search.keep(found.x)
    except Stopped:
        ended = False
    return search.outcome(local=True, ended=ended, counts={"starts": starts})
