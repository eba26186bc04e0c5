"""Solves a program by the engine that suits it, and answers with no more than our own check confirms.

An engine whose answer does not hold is told of as such, and the next one is asked in the time that is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from solver.optimization.check import OPTIMALITY, Check, Proof, check_optimality, check_point, is_convex
from solver.optimization.engine import Limit, Options, Outcome, Reason
from solver.optimization.job import Incumbent, Job
from solver.optimization.process import Run, run_job
from solver.optimization.program import Program

_ORDERS: Mapping[str, Sequence[str]] = {
    "LP": ("highs", "scip", "clarabel"),
    "MIP": ("highs", "scip"),
    "QP": ("clarabel", "scip"),
    "MIQP": ("scip",),
}
"""Which engine is asked first, and which next when its answer does not hold; as measured on public instances."""
_LEAST_SECONDS = 0.5


class Attempt(NamedTuple):
    """What one engine said, and what of it holds."""

    engine: str
    version: str
    seconds: float
    said: Reason
    """By the engine."""
    reason: Reason
    """After our check."""
    limit: Limit | None
    detail: str


class Solution(NamedTuple):
    """What is known in the end; of the program as it was given, whichever its direction."""

    reason: Reason
    limit: Limit | None
    detail: str
    check: Check | None
    """Of the point; None without one."""
    proof: Proof | None
    x: Any
    bound: float | None
    gap: float | None
    duals: Any
    reduced_costs: Any
    run: Run
    attempts: Sequence[Attempt] = ()


def solve_program(
    program: Program,
    options: Options,
    *,
    engines: Sequence[str] | None = None,
    memory: int | None = None,
    progress: Callable[[float, Incumbent | None], None] | None = None,
) -> Solution:
    """Solve a program.

    Parameters
    ----------
    program : Program
        In either direction.
    options : Options
        The time limit is that of all engines together.
    engines : sequence of str, optional
        To be asked in this order; by default chosen by the kind of the program.
    memory : int, optional
        Bytes that the process of an engine may take.
    progress : callable, optional
        Told a few times a second of the seconds passed and of the best solution so far.

    Examples
    --------
    >>> from solver.optimization.program import make_program
    >>> program = make_program(
    ...     linear=np.array([3.0, 2.0]), lower=np.zeros(2), upper=np.full(2, np.inf), integer=np.zeros(2, bool),
    ...     rows=np.array([0, 0]), columns=np.array([0, 1]), values=np.array([1.0, 1.0]),
    ...     row_lower=np.array([-np.inf]), row_upper=np.array([4.0]), maximize=True,
    ... )
    >>> solution = solve_program(program, Options(time_limit=10))
    >>> solution.reason, solution.check.objective, solution.duals.tolist()
    ('OPTIMAL', 12.0, [3.0])
    """
    least = minimised(program)
    end = time.monotonic() + options.time_limit
    attempts: list[Attempt] = []
    best: Solution | None = None
    for engine in engines or _order(least):
        left = end - time.monotonic()
        if best is not None and left < _LEAST_SECONDS:
            break
        job = Job(least, engine, options._replace(time_limit=max(left, _LEAST_SECONDS)), memory)
        run = run_job(job, progress=progress)
        found = judge(least, run, options)
        attempts.append(
            Attempt(engine, run.version, run.seconds, run.outcome.reason, found.reason, found.limit, found.detail)
        )
        if best is None or _rank(found) > _rank(best):
            best = found
        if found.reason not in _UNSETTLED:
            break
    assert best is not None, "there is at least one engine"
    return _turned(best._replace(attempts=attempts), program)


_UNSETTLED = ("IMPRECISE", "NUMERICAL_ERROR", "OTHER_ERROR")
"""After these another engine is asked."""
_ORDER = ("OTHER_ERROR", "NUMERICAL_ERROR", "NO_SOLUTION_FOUND", "IMPRECISE", "INFEASIBLE_OR_UNBOUNDED", "FEASIBLE")


def minimised(program: Program) -> Program:
    """Return the same program to be minimised."""
    if not program.maximize:
        return program
    turned = program.quadratic._replace(coefficients=-program.quadratic.coefficients)
    return replace(program, maximize=False, linear=-program.linear, offset=-program.offset, quadratic=turned)


def _order(program: Program) -> Sequence[str]:
    """Return the engines for a program to be minimised, the one to be asked first first."""
    return ("scip",) if program.kind == "QP" and not is_convex(program) else _ORDERS[program.kind]


def _rank(solution: Solution) -> int:
    return _ORDER.index(solution.reason) if solution.reason in _ORDER else len(_ORDER)


def judge(program: Program, run: Run, options: Options) -> Solution:
    """Take from an engine's word what the check confirms."""
    outcome = run.outcome
    reason, detail, x = outcome.reason, outcome.detail, outcome.x
    check = None if x is None else check_point(program, x)
    proof = None
    bound = outcome.bound
    if check is not None and not check.feasible:
        said = f"the engine called its point {reason.lower()}, and it is not feasible"
        reason, detail = "IMPRECISE", f"{detail}; {said}".removeprefix("; ")
    elif check is not None and x is not None and reason in ("OPTIMAL", "IMPRECISE"):
        reason, proof, wrong = _judge_optimum(program, check, outcome, options)
        detail = f"{detail}; {wrong}".removeprefix("; ").removesuffix("; ")
        bound = proof.bound if proof is not None and proof.optimal else bound
    elif check is None and reason == "OPTIMAL":
        reason, detail = "OTHER_ERROR", "the engine said optimal and gave no point"
    gap = None if check is None or bound is None else _gap(check.objective, bound)
    duals = outcome.duals if proof is not None else None
    reduced = proof.reduced_costs if proof is not None else None
    return Solution(reason, outcome.limit, detail, check, proof, x, bound, gap, duals, reduced, run)


def _judge_optimum(
    program: Program, check: Check, outcome: Outcome, options: Options
) -> tuple[Reason, Proof | None, str]:
    """Say whether a feasible point is the best one, as far as duals or the engine's bound show."""
    if outcome.duals is not None and outcome.x is not None:
        proof = check_optimality(program, outcome.x, outcome.duals)
        if proof.optimal:
            return "OPTIMAL", proof, ""
        return (
            "IMPRECISE",
            proof,
            (
                f"the engine said {outcome.reason.lower()}, and its duals prove no better bound than {proof.bound:.9g} "
                f"(dual violation {proof.dual_violation:.1e})"
            ),
        )
    if outcome.bound is None:
        return "FEASIBLE", None, "the engine said optimal and gave no bound"
    # Engines differ in what a gap is relative to when the value is close to zero.
    distance = check.objective - outcome.bound
    if distance <= (options.relative_gap + OPTIMALITY) * max(1.0, abs(check.objective)):
        return "OPTIMAL", None, ""
    said = f"the engine said optimal, and its point ({check.objective:.9g}) is not as good as its bound"
    return "FEASIBLE", None, f"{said} ({outcome.bound:.9g})"


def _gap(objective: float, bound: float) -> float | None:
    """Return the relative distance of a value and a bound, as MIP solvers reckon it."""
    if not (np.isfinite(objective) and np.isfinite(bound)):
        return None
    distance = max(0.0, objective - bound)
    return 0.0 if distance == 0 else float(distance / max(abs(objective), 1e-10))


def _turned(solution: Solution, program: Program) -> Solution:
    """Give what was found for the program to be minimised back in the direction in which it was asked."""
    if not program.maximize:
        return solution
    check, proof, bound = solution.check, solution.proof, solution.bound
    return solution._replace(
        check=check and check._replace(objective=-check.objective),
        proof=proof and proof._replace(bound=-proof.bound),
        bound=None if bound is None else -bound,
        duals=None if solution.duals is None else -solution.duals,
        reduced_costs=None if solution.reduced_costs is None else -solution.reduced_costs,
    )
