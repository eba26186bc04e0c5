"""COBYQA of SciPy: local search without derivatives, also where there are none."""

from __future__ import annotations

import scipy
from scipy.optimize import Bounds, minimize

from solver.optimization.engine import Events, Options, Outcome
from solver.optimization.model import Model
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.nonlinear.search import Search, Stopped, local_refusal

NAME = "cobyqa"


def version() -> str:
    """Return the version of the library."""
    return str(scipy.__version__)


def refuses(program: Model) -> str | None:
    """Say why a program cannot be solved."""
    return local_refusal(program, derivatives=False)


def solve(program: Model, options: Options, events: Events) -> Outcome:
    """Solve a program that is to be minimised."""
    assert isinstance(program, NonlinearProgram), "others are refused"
    search = Search(program, options, events)
    starts, ended = 0, True
    try:
        for start in search.starts():
            starts += 1
            found = minimize(
                search.objective, start, bounds=Bounds(program.lower, program.upper), constraints=search.constraint(),
                method="COBYQA", options={"feasibility_tol": 1e-9},
            )  # fmt: skip
            if search.keep(found.x):
                break
    except Stopped:
        ended = False
    return search.outcome(local=program.smooth, ended=ended, counts={"starts": starts})
