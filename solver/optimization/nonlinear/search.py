"""What SciPy's methods have in common: a program's functions, their derivatives, when to stop, and the best point."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.optimize import NonlinearConstraint

from solver.optimization.check import FEASIBILITY
from solver.optimization.engine import Events, Options, Outcome
from solver.optimization.model import Model
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.program import Floats

STARTS = 8
_FAR = 10.0
"""Where random starts are, on a side without bound: so far from the other one, or from zero."""
_NOWHERE = 1e20
"""The value of a function where it has none."""


class Stopped(Exception):
    """Time is up, or the search was asked to stop."""


class Search:
    """A search for the best point of a program."""

    def __init__(self, program: NonlinearProgram, options: Options, events: Events) -> None:
        self.program = program
        self.best: Floats | None = None
        self.value = np.inf
        self._options, self._events = options, events
        self._end = time.monotonic() + options.time_limit

    def objective(self, x: Floats) -> float:
        """Return the value to be minimised."""
        self.look()
        return _known(self.program.objective.value(x))

    def gradient(self, x: Floats) -> Floats:
        """Return its derivatives."""
        return np.nan_to_num(self.program.objective.gradient(x), nan=0.0, posinf=_NOWHERE, neginf=-_NOWHERE)

    def activity(self, x: Floats) -> Floats:
        """Return the left sides of the constraints."""
        self.look()
        return np.array([_known(row.value(x)) for row in self.program.rows], np.float64)

    def jacobian(self, x: Floats) -> Floats:
        """Return their derivatives, a row each."""
        rows = [row.gradient(x) for row in self.program.rows]
        return np.nan_to_num(np.stack(rows), nan=0.0, posinf=_NOWHERE, neginf=-_NOWHERE)

    def constraint(self) -> list[Any]:
        """Return the constraints as SciPy takes them."""
        if not self.program.rows:
            return []
        return [NonlinearConstraint(self.activity, self.program.row_lower, self.program.row_upper, jac=self.jacobian)]

    def look(self) -> None:
        """End the search when it is time.

        Raises
        ------
        Stopped
        """
        if self._events.stopped or time.monotonic() > self._end:
            raise Stopped

    def keep(self, x: Floats) -> bool:
        """Keep a point if it is feasible and the best so far; tells whether it is feasible."""
        x = np.clip(x, self.program.lower, self.program.upper)
        x[self.program.integer] = np.round(x[self.program.integer])
        value = self.program.objective.value(x)
        activity = np.array([row.value(x) for row in self.program.rows], np.float64)
        outside = np.maximum(self.program.row_lower - activity, activity - self.program.row_upper)
        feasible = bool((outside <= FEASIBILITY * np.maximum(1.0, np.abs(activity))).all()) and np.isfinite(value)
        if feasible and value < self.value:
            self.best, self.value = x, value
            self._events.found(value, x, None)
        return feasible

    def starts(self) -> Iterator[Floats]:
        """Yield where to begin: the hint, or what the program says; the middle; then at random, by the seed."""
        low, high = self.program.lower, self.program.upper
        for given in (self._options.hint, self.program.start):
            if given is not None and np.isfinite(given).any():
                yield np.clip(np.where(np.isfinite(given), given, self._middle()), low, high)
        yield self._middle()
        random = np.random.default_rng(self._options.seed)
        below = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - _FAR, -_FAR))
        above = np.where(np.isfinite(high), high, np.where(np.isfinite(low), low + _FAR, _FAR))
        for _ in range(STARTS):
            yield random.uniform(below, above)

    def outcome(self, *, local: bool, ended: bool, counts: dict[str, int]) -> Outcome:
        """Say what was found.

        Parameters
        ----------
        local : bool
            Whether the method says that its best point is a local optimum.
        ended : bool
            Whether it came to its own end.
        counts : dict
            Of starts, and the like.
        """
        limit: Any = "INTERRUPTED" if self._events.stopped else ("OTHER" if ended else "TIME")
        if self.best is None:
            detail = "no feasible point was found, which does not mean that there is none" if ended else ""
            return Outcome("NO_SOLUTION_FOUND", limit, detail, counts=counts)
        if local:
            return Outcome("LOCALLY_OPTIMAL", None if ended else limit, "", self.best, counts=counts)
        detail = "the best point of a search, which proves nothing"
        return Outcome("FEASIBLE", limit, detail, self.best, counts=counts)

    def _middle(self) -> Floats:
        low, high = self.program.lower, self.program.upper
        bounded = np.isfinite(low) & np.isfinite(high)
        middle = np.where(bounded, 0.5 * (np.where(bounded, low, 0.0) + np.where(bounded, high, 0.0)), 1.0)
        return np.clip(middle, low, high)


def local_refusal(program: Model, *, derivatives: bool) -> str | None:
    """Say why a program cannot be given to a local method."""
    if not isinstance(program, NonlinearProgram):
        return "it is no nonlinear program"
    if program.integer.any():
        return "some of its variables are integers"
    return "it jumps" if derivatives and not program.steady else None


def _known(value: float) -> float:
    return value if np.isfinite(value) else _NOWHERE
