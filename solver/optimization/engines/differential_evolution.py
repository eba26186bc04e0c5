"""Differential evolution of SciPy: a search through the whole of bounded variables, whatever the functions are."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy
from scipy.optimize import Bounds, differential_evolution

from solver.optimization.engine import Events, Options, Outcome
from solver.optimization.model import Model
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.nonlinear.search import Search, Stopped

NAME = "differential-evolution"

_GENERATIONS = 2000


def version() -> str:
    """Return the version of the library."""
    return str(scipy.__version__)


def refuses(program: Model) -> str | None:
    """Say why a program cannot be solved."""
    if not isinstance(program, NonlinearProgram):
        return "it is no nonlinear program"
    bounded = np.isfinite(program.lower).all() and np.isfinite(program.upper).all()
    return None if bounded else "not all of its variables are bounded"


def solve(program: Model, options: Options, events: Events) -> Outcome:
    """Solve a program that is to be minimised."""
    assert isinstance(program, NonlinearProgram), "others are refused"
    search = Search(program, options, events)
    ended, generations = True, 0

    def after(intermediate_result: Any) -> None:
        nonlocal generations
        generations += 1
        search.keep(intermediate_result.x)

    try:
        found = differential_evolution(
            search.objective, Bounds(program.lower, program.upper), constraints=search.constraint(),
            integrality=program.integer, x0=next(search.starts()), rng=options.seed, maxiter=_GENERATIONS,
            callback=after, polish=False, tol=1e-8,
        )  # fmt: skip
        search.keep(found.x)
    except Stopped:
        ended = False
    return search.outcome(local=False, ended=ended, counts={"generations": generations})
