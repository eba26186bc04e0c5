"""Solves a program by the engine that suits it, and answers with no more than our own check confirms.

An engine whose answer does not hold is told of as such, and the next one is asked in the time that is left. With more
threads than one, engines race for a program with whole numbers (`solver.optimization.race`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial

from solver.optimization.blocks import blocks, solve_blocks
from solver.optimization.check import is_convex
from solver.optimization.engine import Options, Outcome
from solver.optimization.here import run_here
from solver.optimization.job import Incumbent, Job
from solver.optimization.judge import UNSETTLED, Attempt, Solution, judge
from solver.optimization.model import Model, minimised
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.nonlinear.solve import order as nonlinear_order
from solver.optimization.nonlinear.solve import solve_nonlinear
from solver.optimization.process import Run, run_job
from solver.optimization.program import Program
from solver.optimization.race import Found, Progress, race

_ORDERS: Mapping[str, Sequence[str]] = {
    "LP": ("highs", "scip", "clarabel"),
    "MIP": ("highs", "scip"),
    "QP": ("clarabel", "scip"),
    "MIQP": ("scip",),
}
"""Which engine is asked first, and which next when its answer does not hold; as measured on public instances."""
_LEAST_SECONDS = 0.5


def solve_program(
    program: Model,
    options: Options,
    *,
    engines: Sequence[str] | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    here: bool = False,
    spare: bool = False,
) -> Solution:
    """Solve a program.

    Parameters
    ----------
    program : Model
        In either direction.
    options : Options
        The time limit is that of all engines together.
    engines : sequence of str, optional
        To be asked in this order; by default chosen by the kind of the program.
    memory : int, optional
        Bytes that the process of an engine may take.
    progress : callable, optional
        Told a few times a second of the seconds passed and of the best solution so far.
    here : bool
        A linear or quadratic program in this process, one engine after another, without walls around them: for many
        small ones.
    spare : bool
        For a program with whole numbers that resists, let more engines race on CPUs of this node that are idle.

    Examples
    --------
    >>> import numpy as np
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
    order = engines or _order(least)
    found: list[Found] = []
    if isinstance(least, Program) and least.integer.any() and not here and len(parts := blocks(least)) > 1:
        found = solve_blocks(least, parts, options, partial(_part_of, engines, memory), progress)
    if found:
        pass  # each part has its answer
    elif here and isinstance(least, Program):
        found = _in_turn(least, options, order, memory, progress, here=True)
    elif isinstance(least, NonlinearProgram):
        found = solve_nonlinear(least, options, order, memory, progress)
    elif (options.threads > 1 or spare) and program.kind == "MIP" and len(order) > 1:
        found = race(least, options, order, memory=memory, progress=progress, spare=spare)
    else:
        found = _in_turn(least, options, order, memory, progress)
    found = _unrefuted(found)
    attempts = [
        Attempt(
            engine,
            run.version,
            run.seconds,
            run.outcome.reason,
            solution.reason,
            solution.limit,
            solution.detail,
            run.options.seed,
            run.options.search,
        )
        for engine, run, solution in found
    ]
    engine, _, best = min(found, key=lambda one: _rank(one[2]))
    return _turned(best._replace(attempts=attempts, engine=engine), program)


def so_far(program: Model, best: Incumbent, options: Options) -> Solution:
    """Return what is known while a search goes on: its best point, checked as the answer will be."""
    outcome = Outcome("FEASIBLE", None, "the best so far", best.x, best.bound)
    run = Run(outcome, [best], None, "", best.seconds, "", options)
    return _turned(judge(minimised(program), run, options._replace(solutions=1)), program)


def _part_of(
    engines: Sequence[str] | None, memory: int | None, program: Program, options: Options, progress: Progress
) -> Solution:
    return solve_program(program, options, engines=engines, memory=memory, progress=progress)


def _unrefuted(found: list[Found]) -> list[Found]:
    """Do not pass on that there is no solution when another engine has one that our check confirms."""
    if not any(solution.check is not None and solution.check.feasible for _, _, solution in found):
        return found
    return [
        (engine, run, solution._replace(reason="OTHER_ERROR", detail="it said infeasible, and a solution is known"))
        if solution.reason == "INFEASIBLE"
        else (engine, run, solution)
        for engine, run, solution in found
    ]


def _in_turn(
    program: Model,
    options: Options,
    engines: Sequence[str],
    memory: int | None,
    progress: Progress | None,
    *,
    here: bool = False,
) -> list[Found]:
    """Ask one engine after another, each in the time that is left, until an answer holds."""
    end = time.monotonic() + options.time_limit
    found: list[Found] = []
    for engine in engines:
        left = end - time.monotonic()
        if found and left < _LEAST_SECONDS:
            break
        job = Job(program, engine, options._replace(time_limit=max(left, _LEAST_SECONDS)), memory)
        run = run_here(job) if here else run_job(job, progress=progress)
        found.append((engine, run, judge(program, run, options)))
        if found[-1][2].reason not in UNSETTLED:
            break
    return found


def _order(program: Model) -> Sequence[str]:
    """Return the engines for a program to be minimised, the one to be asked first first."""
    if isinstance(program, NonlinearProgram):
        return nonlinear_order(program)
    if not isinstance(program, Program):
        return ("cp-sat",)
    if program.choices.given:
        return ("scip",)
    if program.kind == "QP" and not is_convex(program):
        return ("scip",)
    if program.kind == "MIP" and program.integer.all():
        return ("highs", "scip", "cp-sat")
    return _ORDERS[program.kind]


def _rank(solution: Solution) -> tuple[int, float]:
    """Return a key by which the best answer is the smallest."""
    place = _WORST_FIRST.index(solution.reason) if solution.reason in _WORST_FIRST else len(_WORST_FIRST)
    check = solution.check
    return -place, 0.0 if check is None else check.objective


_WORST_FIRST = (
    "OTHER_ERROR", "NUMERICAL_ERROR", "NO_SOLUTION_FOUND", "IMPRECISE", "INFEASIBLE_OR_UNBOUNDED", "FEASIBLE",
    "LOCALLY_OPTIMAL",
)  # fmt: skip


def _turned(solution: Solution, program: Model) -> Solution:
    """Give what was found for the program to be minimised back in the direction in which it was asked."""
    if not program.maximize:
        return solution
    check, proof, bound = solution.check, solution.proof, solution.bound
    return solution._replace(
        check=check and check._replace(objective=-check.objective),
        proof=proof and proof._replace(bound=-proof.bound),
        bound=None if bound is None else -bound,
        pool=[(x, -value) for x, value in solution.pool],
        duals=None if solution.duals is None else -solution.duals,
        reduced_costs=None if solution.reduced_costs is None else -solution.reduced_costs,
    )
