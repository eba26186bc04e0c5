"""Tells of a search while it goes on, and keeps the best point so far where it outlives the search."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from registry import TaskContext
from solver.optimization.engine import Options
from solver.optimization.job import Incumbent
from solver.optimization.model import Model
from solver.optimization.solve import so_far
from solver.optimization.words import as_answer

_PAUSE = 2.0
"""Seconds from keeping one point to keeping the next."""
_SHARE = 20
"""And so many times what keeping one takes: large ones are kept less often."""
_KEPT = (
    "termination", "objective_value", "best_objective_bound", "relative_gap", "variable_values", "intervals", "check",
)  # fmt: skip


class Telling:
    """Is told of a search by `solver.optimization.solve.solve_program`, a few times a second.

    Parameters
    ----------
    context : TaskContext
        Where it goes.
    program : Model
        As it was given, whichever its direction.
    options : Options
        Of the search.
    """

    def __init__(self, context: TaskContext, program: Model, options: Options) -> None:
        self._context, self._program, self._options = context, program, options
        self._lock = threading.Lock()
        self._told: Incumbent | None = None
        self._kept: Incumbent | None = None
        self._next = 0.0

    def __call__(self, seconds: float, best: Incumbent | None) -> None:
        """Report how far the search is; engines that race call this from threads of their own."""
        with self._lock:
            words, facts = self._words(best)
            self._context.progress(min(1.0, seconds / self._options.time_limit), f"{seconds:.0f} s: {words}", **facts)
            if time.monotonic() >= self._next:
                self._keep()

    def keep(self) -> None:
        """Keep the best point now: the search ends without an answer."""
        with self._lock:
            self._keep()

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
            self._context.keep({name: answer[name] for name in _KEPT if name in answer})
        self._kept = best
        now = time.monotonic()
        self._next = now + max(_PAUSE, _SHARE * (now - began))
