"""Programs with whole numbers whose parts have nothing to do with each other: each part is solved by itself.

A tree search over two parts at once goes through the combinations of both; over one after the other, through their sum.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from solver.optimization.engine import Conflict, Options, Outcome
from solver.optimization.job import Incumbent
from solver.optimization.judge import Solution, judge
from solver.optimization.process import Run
from solver.optimization.program import Integers, Program, make_program
from solver.optimization.race import Found, Progress

_LEAST_WHOLE = 8
"""Whole numbers of a part that is worth a process of its own; smaller ones go together."""
_MOST = 16


class Block(NamedTuple):
    """A part of a program."""

    program: Program
    rows: Integers
    columns: Integers


def blocks(program: Program) -> list[Block]:
    """Return the parts of a program that share no constraint; one, if there is nothing to part.

    Examples
    --------
    >>> program = make_program(
    ...     linear=np.ones(20), lower=np.zeros(20), upper=np.ones(20), integer=np.ones(20, bool),
    ...     rows=np.repeat([0, 1], 10), columns=np.arange(20), values=np.ones(20),
    ...     row_lower=np.full(2, 3.0), row_upper=np.full(2, np.inf),
    ... )
    >>> [block.columns.tolist()[:2] for block in blocks(program)]
    [[0, 1], [10, 11]]
    """
    height, width = program.size
    rows = np.repeat(np.arange(height), np.diff(program.matrix.starts))
    terms = program.quadratic
    # A graph of variables and, behind them, constraints.
    first = np.concatenate([program.matrix.columns, terms.rows])
    second = np.concatenate([width + rows, terms.columns])
    graph = sparse.coo_matrix((np.ones(len(first), np.int8), (first, second)), (width + height,) * 2)
    _, labels = connected_components(graph, directed=False)
    whole = np.bincount(labels, weights=np.concatenate([program.integer, np.zeros(height)]))
    large = np.flatnonzero(whole >= _LEAST_WHOLE)
    if program.choices.given or len(large) < 2:
        return [Block(program, np.arange(height), np.arange(width))]
    # The largest by themselves, and all the others together.
    alone = large[np.argsort(-whole[large], kind="stable")][: _MOST - 1]
    group = np.full(len(whole), len(alone))
    group[np.sort(alone)] = np.arange(len(alone))
    groups = group[labels]
    # A constraint of no variable may still be one that cannot hold.
    groups[width:][np.diff(program.matrix.starts) == 0] = 0
    found = [_part(program, np.flatnonzero(groups[:width] == one), np.flatnonzero(groups[width:] == one), rows)
             for one in range(len(alone) + 1)]  # fmt: skip
    return [block for block in found if block is not None]


def solve_blocks(
    program: Program,
    parts: Sequence[Block],
    options: Options,
    solve: Callable[[Program, Options, Progress], Solution],
    progress: Progress | None = None,
) -> list[Found]:
    """Solve the parts of a program to be minimised, as many at once as there are threads, and join what was found.

    Parameters
    ----------
    solve : callable
        Solves one part, and tells how far it is.
    progress : callable, optional
        Told of the best point of the whole, once every part has one.

    Returns
    -------
    list of (engine, run, solution)
        One; or none, when a part has neither a solution nor a proof that it has none.
    """
    began = time.monotonic()
    end = began + options.time_limit
    lanes = min(options.threads, len(parts))
    best = _Best(program, parts, progress)

    def one(number: int) -> Solution:
        # What an easy part leaves of its time is for those after it.
        rounds = -(-(len(parts) - number) // lanes)
        left = max(0.5, (end - time.monotonic()) / rounds)
        block, hint = parts[number], options.hint
        own = options._replace(
            time_limit=left, threads=max(1, options.threads // lanes), solutions=1,
            hint=None if hint is None else hint[block.columns],
        )  # fmt: skip
        solution = solve(block.program, own, best.of(number))
        best.ended(number, solution)
        return solution

    with ThreadPoolExecutor(lanes, thread_name_prefix="blocks") as threads:
        solutions = list(threads.map(one, range(len(parts))))
    engine = ", ".join(sorted({solution.attempts[-1].engine for solution in solutions}))
    outcome, conflict = _joined(program, parts, solutions)
    if outcome is None:
        return []
    version = ", ".join(sorted({solution.run.version for solution in solutions}))
    log = "\n".join(solution.run.log for solution in solutions)
    run = Run(outcome, [], conflict, version, time.monotonic() - began, log, options)
    return [(engine, run, judge(program, run, options))]


class _Best:
    """The best points of the parts, put together."""

    def __init__(self, program: Program, parts: Sequence[Block], progress: Progress | None) -> None:
        self._program, self._parts, self._progress = program, parts, progress
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._each: list[Incumbent | None] = [None] * len(parts)
        self._whole: Incumbent | None = None

    def of(self, number: int) -> Progress:
        """Return what is told of one part."""
        return lambda _, best: self._tell(number, best)

    def ended(self, number: int, solution: Solution) -> None:
        """Take the point with which a part ended."""
        if solution.check is not None and solution.check.feasible:
            seconds = time.monotonic() - self._began
            self._tell(number, Incumbent(seconds, solution.check.objective, solution.x, solution.bound))

    def _tell(self, number: int, best: Incumbent | None) -> None:
        if self._progress is None:
            return
        with self._lock:
            if best is not None and best is not self._each[number]:
                self._each[number] = best
                self._whole = self._joined()
            whole = self._whole
        self._progress(time.monotonic() - self._began, whole)

    def _joined(self) -> Incumbent | None:
        x, objective, bounds = np.zeros(self._program.size[1]), self._program.offset, [self._program.offset]
        for block, best in zip(self._parts, self._each, strict=True):
            if best is None:
                return None
            x[block.columns] = best.x
            objective += best.objective
            bounds.append(-np.inf if best.bound is None else best.bound)
        bound = float(sum(bounds))
        seconds = time.monotonic() - self._began
        return Incumbent(seconds, float(objective), x, bound if np.isfinite(bound) else None)


def _joined(
    program: Program, parts: Sequence[Block], solutions: Sequence[Solution]
) -> tuple[Outcome | None, Conflict | None]:
    detail = f"{len(parts)} parts that share no constraint, solved apart"
    for block, solution in zip(parts, solutions, strict=True):
        if solution.reason == "INFEASIBLE":
            found = solution.run.conflict
            if found is not None:
                found = Conflict(block.rows[found.constraints], block.columns[found.variables], found.irreducible)
            return Outcome("INFEASIBLE", detail=detail), found
    x, bound = np.zeros(program.size[1]), program.offset
    for block, solution in zip(parts, solutions, strict=True):
        if solution.reason not in ("OPTIMAL", "FEASIBLE") or solution.x is None:
            return None, None
        x[block.columns] = solution.x
        bound += -np.inf if solution.bound is None else solution.bound
    optimal = all(solution.reason == "OPTIMAL" for solution in solutions)
    limit = next((solution.limit for solution in solutions if solution.limit is not None), None)
    known = float(bound) if np.isfinite(bound) else None
    return Outcome("OPTIMAL" if optimal else "FEASIBLE", limit, detail, x, known), None


def _part(program: Program, columns: Integers, rows: Integers, row_of: Integers) -> Block | None:
    if not len(columns):
        return None
    column_places, row_places = np.zeros(program.size[1], np.int64), np.zeros(program.size[0], np.int64)
    column_places[columns], row_places[rows] = np.arange(len(columns)), np.arange(len(rows))
    entries = np.isin(row_of, rows)
    terms = program.quadratic
    inside = np.isin(terms.rows, columns)
    part = make_program(
        linear=program.linear[columns], lower=program.lower[columns], upper=program.upper[columns],
        integer=program.integer[columns],
        rows=row_places[row_of[entries]], columns=column_places[program.matrix.columns[entries]],
        values=program.matrix.values[entries], row_lower=program.row_lower[rows], row_upper=program.row_upper[rows],
        quadratic=(column_places[terms.rows[inside]], column_places[terms.columns[inside]], terms.coefficients[inside]),
        name=program.name,
        variables=tuple(program.variables[place] for place in columns.tolist()) if program.variables else (),
        constraints=tuple(program.constraints[place] for place in rows.tolist()) if program.constraints else (),
    )  # fmt: skip
    return Block(part, rows, columns)
