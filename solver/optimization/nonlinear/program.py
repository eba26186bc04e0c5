"""A nonlinear program, and our own check of its points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from solver.optimization.check import FEASIBILITY, INTEGRALITY, Check
from solver.optimization.nonlinear.function import OPERATIONS, Function, Node
from solver.optimization.program import Flags, Floats

STATIONARITY = 1e-4
"""Up to which relative KKT residual a point counts as a local optimum."""
_ACTIVE = 1e-6


@dataclass(frozen=True)
class NonlinearProgram:
    """Minimise or maximise a function where other functions, and the variables, are within bounds.

    Attributes
    ----------
    objective : Function
    rows : tuple of Function
        The left sides of the constraints.
    row_lower, row_upper : ndarray of float64, shape (m,)
    lower, upper : ndarray of float64, shape (n,)
        A bound that is none is infinite.
    integer : ndarray of bool, shape (n,)
    start : ndarray of float64, shape (n,), or None
        Where to begin; not a number where nothing is known.
    """

    objective: Function = field(repr=False)
    rows: tuple[Function, ...] = field(repr=False)
    row_lower: Floats
    row_upper: Floats
    lower: Floats
    upper: Floats
    integer: Flags
    variables: tuple[str, ...] = field(repr=False)
    constraints: tuple[str, ...] = field(repr=False)
    start: Floats | None = field(default=None, repr=False)
    maximize: bool = False
    name: str = ""
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Constraints and variables."""
        return len(self.rows), len(self.lower)

    @property
    def kind(self) -> str:
        """``NLP`` or ``MINLP``."""
        return "MINLP" if self.integer.any() else "NLP"

    @property
    def names(self) -> tuple[Sequence[str], Sequence[str]]:
        """The names of the variables and of the constraints."""
        return self.variables, self.constraints

    @property
    def operations(self) -> set[str]:
        """The names of the operations in it."""
        return self.objective.operations.union(*(row.operations for row in self.rows))

    @property
    def smooth(self) -> bool:
        """Whether derivatives exist everywhere."""
        return all(OPERATIONS[one].smooth for one in self.operations)

    @property
    def steady(self) -> bool:
        """Whether nothing jumps."""
        return all(OPERATIONS[one].steady for one in self.operations)

    def minimised(self) -> NonlinearProgram:
        """Return the same program to be minimised."""
        return replace(self, objective=negated(self.objective), maximize=False) if self.maximize else self

    def statistics(self) -> dict[str, object]:
        """Return what a person wants to know of it first."""
        return {
            "kind": self.kind,
            "variables": self.size[1],
            "integer_variables": int(self.integer.sum()),
            "constraints": self.size[0],
            "equalities": int((self.row_lower == self.row_upper).sum()),
            "nonlinear_constraints": sum(bool(row.steps) for row in self.rows),
            "operations": sorted(self.operations),
        }

    def check(self, x: Floats) -> Check:
        """Check a point against bounds, constraints and whole numbers, and how near to a local optimum it is."""
        value = self.objective.value(x)
        activity = np.array([row.value(x) for row in self.rows], np.float64)
        if not (np.isfinite(x).all() and np.isfinite(value) and np.isfinite(activity).all()):
            return Check(False, np.nan, np.inf, np.inf, np.inf, np.inf)
        of_bounds = np.maximum(0.0, np.maximum(self.lower - x, x - self.upper))
        of_rows = np.maximum(0.0, np.maximum(self.row_lower - activity, activity - self.row_upper))
        relative = max(
            (of_bounds / np.maximum(1.0, np.abs(x))).max(initial=0.0),
            (of_rows / np.maximum(1.0, np.abs(activity))).max(initial=0.0),
        )
        whole = x[self.integer]
        off = np.abs(whole - np.round(whole)).max(initial=0.0)
        broken = [self.constraints[row] for row in np.flatnonzero(of_rows > FEASIBILITY)[:10].tolist()]
        return Check(
            bool(relative <= FEASIBILITY and off <= INTEGRALITY),
            value,
            float(of_bounds.max(initial=0.0)),
            float(of_rows.max(initial=0.0)),
            float(relative),
            float(off),
            tuple(broken),
            self.kkt_residual(x, activity),
        )

    def kkt_residual(self, x: Floats, activity: Floats) -> float | None:
        """Return by how much the conditions of a local optimum are missed, relative to the gradient.

        The best multipliers of what is active, with the signs that they must have (Karush, Kuhn and Tucker), leave
        this much of the gradient of the objective. None where there is no gradient. Of a program to minimise.
        """
        # Not at the top: a second of imports, which programs of other kinds do not need.
        from scipy.optimize import lsq_linear

        free = ~self.integer
        sign = -1.0 if self.maximize else 1.0
        gradient = sign * self.objective.gradient(x)
        columns, low, high = [], [], []
        for value, lower, upper, row in zip(
            [*activity, *x], [*self.row_lower, *self.lower], [*self.row_upper, *self.upper],
            [*self.rows, *range(len(x))], strict=True,
        ):  # fmt: skip
            near = _ACTIVE * max(1.0, abs(value))
            at_lower, at_upper = value <= lower + near, value >= upper - near
            if at_lower or at_upper:
                columns.append(np.eye(1, len(x), row)[0] if isinstance(row, int) else row.gradient(x))
                low.append(-np.inf if at_upper else 0.0)
                high.append(np.inf if at_lower else 0.0)
        if not np.isfinite(gradient).all() or not all(np.isfinite(column).all() for column in columns):
            return None
        # Scaled first: squares of what is very steep are beyond the largest number.
        left = gradient[free] / (1.0 + np.abs(gradient).max(initial=0.0))
        if columns and len(left):
            matrix = np.stack(columns, axis=1)[free]
            # A steep constraint counts no more than a flat one.
            matrix = matrix / np.maximum(1e-12, np.abs(matrix).max(axis=0))
            matrix = matrix / np.maximum(1e-12, np.linalg.norm(matrix, axis=0))
            left = left - matrix @ lsq_linear(matrix, left, (low, high)).x
        return float(np.abs(left).max(initial=0.0))


def negated(function: Function) -> Function:
    """Return minus a function."""
    steps = (*function.steps, Node("neg", (len(function.steps) - 1,))) if function.steps else ()
    return Function(-function.offset, function.columns, -function.coefficients, steps)
