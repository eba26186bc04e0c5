"""Which engines are asked for a nonlinear program: first for a local optimum, then for a proof that none is better."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from solver.optimization.check import OPTIMALITY
from solver.optimization.engine import Options
from solver.optimization.job import Job
from solver.optimization.judge import SETTLED, Solution, judge
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.process import run_job
from solver.optimization.race import Found, Progress

_GLOBAL = ("scip", "differential-evolution")
_LEAST_SECONDS = 0.5
_EXACT = 1e-7
"""Up to this KKT residual a point is the optimum as far as numbers go."""


def order(program: NonlinearProgram) -> Sequence[str]:
    """Return the engines for a program, the one to be asked first first."""
    if not program.steady:
        return ("differential-evolution", "cobyqa")
    if program.integer.any():
        return ("scip", "differential-evolution")
    return ("slsqp", "scip", "cobyqa") if not program.smooth else ("slsqp", "scip", "trust-constr", "cobyqa")


def solve_nonlinear(
    program: NonlinearProgram,
    options: Options,
    engines: Sequence[str],
    memory: int | None,
    progress: Progress | None,
) -> list[Found]:
    """Ask one engine after another, each from the best point so far, until one has a proof, or time is up.

    Of a point that is as good as a global engine's, within the gap, that engine's bound is the proof, too.
    """
    end = time.monotonic() + options.time_limit
    found: list[Found] = []
    hint = options.hint

    def ask(engine: str) -> Solution:
        left = max(end - time.monotonic(), _LEAST_SECONDS)
        job = Job(program, engine, options._replace(time_limit=left, hint=hint), memory)
        run = run_job(job, progress=progress)
        found.append((engine, run, judge(program, run, options)))
        return found[-1][2]

    for engine in engines:
        local = any(solution.reason == "LOCALLY_OPTIMAL" for _, _, solution in found)
        if (found and end - time.monotonic() < _LEAST_SECONDS) or (local and engine not in _GLOBAL):
            continue
        solution = ask(engine)
        if solution.check is not None and solution.check.feasible:
            hint = solution.x
        if solution.reason not in SETTLED:
            continue
        rough = solution.check is not None and (solution.check.kkt_residual or 0.0) > _EXACT
        if rough and "slsqp" in engines and not program.integer.any() and end - time.monotonic() > _LEAST_SECONDS:
            # A global engine's point is as good as its tolerances; from there, the local one finds the optimum itself.
            ask("slsqp")
        break
    return _joined(found, options)


def _joined(found: list[Found], options: Options) -> list[Found]:
    """Give what is known of the bound to the best point, and to a local optimum rather than one within tolerances."""
    bounds = [solution.bound for _, _, solution in found if solution.bound is not None]
    if not bounds or any(solution.reason == "INFEASIBLE" for _, _, solution in found):
        return found
    bound = max(bounds)
    joined = []
    for engine, run, solution in found:
        if solution.check is not None and solution.reason in ("LOCALLY_OPTIMAL", "FEASIBLE"):
            distance = max(0.0, solution.check.objective - bound)
            gap = float(distance / max(abs(solution.check.objective), 1e-10))
            close = distance <= (options.relative_gap + OPTIMALITY) * max(1.0, abs(solution.check.objective))
            reason = "OPTIMAL" if close and np.isfinite(distance) else solution.reason
            solution = solution._replace(reason=reason, bound=bound, gap=gap)
        joined.append((engine, run, solution))
    return joined
