"""Takes from an engine's word what our own check confirms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from solver.optimization.check import OPTIMALITY, Check, Proof, check_optimality
from solver.optimization.engine import Limit, Options, Outcome, Reason, Search
from solver.optimization.model import Model, checked
from solver.optimization.nonlinear.program import STATIONARITY
from solver.optimization.process import Run
from solver.optimization.program import Floats, Program


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
    seed: int
    search: Search


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
    pool: Sequence[tuple[Floats, float]] = ()
    """Different feasible points and their values, the best first, if more than one was wanted."""
    attempts: Sequence[Attempt] = ()
    engine: str = ""
    """Whose point, or proof that there is none, this is."""


UNSETTLED = ("IMPRECISE", "NUMERICAL_ERROR", "OTHER_ERROR")
"""After these another engine is worth asking."""
SETTLED = ("OPTIMAL", "INFEASIBLE", "UNBOUNDED", "INFEASIBLE_OR_UNBOUNDED")
"""After these nothing more is to be found."""


def judge(program: Model, run: Run, options: Options) -> Solution:
    """Take from an engine's word what the check confirms."""
    outcome = run.outcome
    reason, detail, x = outcome.reason, outcome.detail, outcome.x
    check = None if x is None else checked(program, x)
    proof = None
    bound = outcome.bound
    if check is not None and not check.feasible:
        said = f"the engine called its point {reason.lower()}, and it is not feasible"
        said += f": {', '.join(check.broken)}" * bool(check.broken)
        reason, detail = "IMPRECISE", f"{detail}; {said}".removeprefix("; ")
    elif check is not None and x is not None and reason in ("OPTIMAL", "IMPRECISE"):
        reason, proof, wrong = _judge_optimum(program, check, outcome, options)
        detail = f"{detail}; {wrong}".removeprefix("; ").removesuffix("; ")
        bound = proof.bound if proof is not None and proof.optimal else bound
    elif check is not None and reason == "LOCALLY_OPTIMAL":
        reason, wrong = _judge_local_optimum(check)
        detail = f"{detail}; {wrong}".removeprefix("; ").removesuffix("; ")
    elif check is None and reason in ("OPTIMAL", "LOCALLY_OPTIMAL"):
        reason, detail = "OTHER_ERROR", "the engine said optimal and gave no point"
    gap = None if check is None or bound is None else _gap(check.objective, bound)
    pool = _pool(program, run, options) if options.solutions > 1 else []
    duals = outcome.duals if proof is not None else None
    reduced = proof.reduced_costs if proof is not None else None
    return Solution(reason, outcome.limit, detail, check, proof, x, bound, gap, duals, reduced, run, pool)


def _judge_optimum(
    program: Model, check: Check, outcome: Outcome, options: Options
) -> tuple[Reason, Proof | None, str]:
    """Say whether a feasible point is the best one, as far as duals or the engine's bound show."""
    if outcome.duals is not None and outcome.x is not None and isinstance(program, Program):
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


def _judge_local_optimum(check: Check) -> tuple[Reason, str]:
    """Say whether the conditions of a local optimum hold at a feasible point."""
    if check.kkt_residual is not None and check.kkt_residual <= STATIONARITY:
        return "LOCALLY_OPTIMAL", ""
    missed = "has no derivatives there" if check.kkt_residual is None else f"misses them by {check.kkt_residual:.1e}"
    return "FEASIBLE", f"the engine said that the conditions of a local optimum hold, and the point {missed}"


def _pool(program: Model, run: Run, options: Options) -> list[tuple[Floats, float]]:
    """Return the different feasible points that the engine came by, as many as are wanted."""
    points = [run.outcome.x, *run.outcome.pool, *(one.x for one in run.incumbents if len(one.x))]
    found: dict[bytes, tuple[Floats, float]] = {}
    for x in points:
        if x is not None and (check := checked(program, x)).feasible:
            found.setdefault(np.round(x, 6).tobytes(), (x, check.objective))
    return sorted(found.values(), key=lambda pair: pair[1])[: options.solutions]


def _gap(objective: float, bound: float) -> float | None:
    """Return the relative distance of a value and a bound, as MIP solvers reckon it."""
    if not (np.isfinite(objective) and np.isfinite(bound)):
        return None
    distance = max(0.0, objective - bound)
    return 0.0 if distance == 0 else float(distance / max(abs(objective), 1e-10))
