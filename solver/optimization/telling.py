"""Tells of a search while it goes on, and keeps the best point so far where it outlives the search."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from registry import TaskContext
from solver.optimization.engine import Options
from solver.optimization.job import Incumbent
from solver.optimization.judge import Solution
from solver.optimization.model import Model
from solver.optimization.query import OptimizationParameters
from solver.optimization.solve import so_far, solve_program
from solver.optimization.words import as_answer, placed

_PAUSE = 2.0
"""Seconds from keeping one point to keeping the next."""
_SHARE = 20
"""And so many times what keeping one takes: large ones are kept less often."""
_KEPT = (
    "termination", "objective_value", "best_objective_bound", "relative_gap", "variable_values", "intervals", "check",
)  # fmt: skip


class Telling:
    """Has a program solved, and is told of the search a few times a second.

    Parameters
    ----------
    context : TaskContext
        Where it goes.
    program : Model
        As it was given, whichever its direction.
    options : Options
        Of the search.
    names : sequence of str, optional
        The variables whose values are told; by default all.
    share : float
        How much of the task the search is, from 0 to 1.
    """

    def __init__(
        self,
        context: TaskContext,
        program: Model,
        options: Options,
        *,
        names: Sequence[str] | None = None,
        share: float = 1.0,
    ) -> None:
        self._context, self._program, self._options = context, program, options
        self._names, self._share = names, share
        self._lock = threading.Lock()
        self._told: Incumbent | None = None
        self._kept: Incumbent | None = None
        self._next = 0.0

    def __call__(self, seconds: float, best: Incumbent | None) -> None:
        """Report how far the search is; engines that race call this from threads of their own."""
        with self._lock:
            words, facts = self._words(best)
            fraction = self._share * min(1.0, seconds / self._options.time_limit)
            self._context.progress(fraction, f"{seconds:.0f} s: {words}", **facts)
            if time.monotonic() >= self._next:
                self._keep()

    def solve(self, parameters: OptimizationParameters) -> Solution:
        """Solve the program; what ends the search early leaves the best so far."""
        options = self._options
        if options.hint is None and (earlier := self._context.kept()) is not None:
            # Of an attempt that was lost with its worker: what it had found is not.
            options = options._replace(hint=placed(self._program, earlier["variable_values"]))
        try:
            return solve_program(
                self._program, options,
                engines=parameters.engines, memory=parameters.memory, progress=self, spare=parameters.threads is None,
            )  # fmt: skip
        except BaseException:
            with self._lock:
                self._keep()
            raise

    def _words(self, best: Incumbent | None) -> tuple[str, dict[str, Any]]:
        if best is None:
            return "no solution yet", {}
        sign = -1.0 if self._program.maximize else 1.0
        known = best.bound if best.bound is not None and np.isfinite(best.bound) else None
        words = f"best {sign * best.objective:.9g}" + ("" if best.bound is None else f", bound {sign * best.bound:.9g}")
        if self._told is not None and best.objective == self._told.objective:
            return words, {}
        self._told = best
        incumbent = {
            "objective": sign * best.objective,
            "bound": None if known is None else sign * known,
            "seconds": round(best.seconds, 3),
        }
        return words, {"incumbent": incumbent}

    def _keep(self) -> None:
        best = self._told
        if best is None or best is self._kept:
            return
        began = time.monotonic()
        solution = so_far(self._program, best, self._options)
        if solution.check is not None and solution.check.feasible:
            answer = as_answer(self._program, solution)
            if self._names is not None:
                values = answer["variable_values"]
                answer["variable_values"] = {name: values.get(name, 0.0) for name in self._names}
            self._context.keep({name: answer[name] for name in _KEPT if name in answer})
        self._kept = best
        now = time.monotonic()
        self._next = now + max(_PAUSE, _SHARE * (now - began))
