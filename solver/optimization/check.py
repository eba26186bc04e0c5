"""Our own check of what an engine says: whether it is a solution, and whether its duals prove it to be the best one.

For a convex objective ``f`` to minimise, any multipliers ``y`` of the constraints and the reduced costs
``r = grad f(x) - A.T @ y`` give a bound (weak duality): for every feasible ``z``

    f(z) >= f(x) + y @ (A @ z - A @ x) + r @ (z - x)

and the smallest value of the right side over the bounds of ``A @ z`` and of ``z`` is found entry by entry.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from solver.optimization.program import Floats, Program

FEASIBILITY = 1e-6
"""How far a value may be outside, relative to the numbers that make it up."""
INTEGRALITY = 1e-5
OPTIMALITY = 1e-6


class Check(NamedTuple):
    """What was found at a point."""

    feasible: bool
    objective: float
    bound_violation: float
    """By how much a variable is outside its bounds, at most."""
    constraint_violation: float
    """The same of constraints."""
    relative_violation: float
    """Of both, relative to the numbers that make the value up; what decides."""
    integrality_violation: float
    """How far a variable that must be whole is from that, at most."""
    broken: tuple[str, ...] = ()
    """The names of some constraints that do not hold, of constraint programs and nonlinear ones."""
    kkt_residual: float | None = None
    """Of a nonlinear program: by how much the conditions of a local optimum are missed, relative to the gradient."""


class Proof(NamedTuple):
    """What duals prove of a point."""

    optimal: bool
    bound: float
    """No feasible point is better than this, if ``dual_violation`` were zero."""
    dual_violation: float
    """The largest multiplier, relative to the objective's, that points to where there is no bound."""
    reduced_costs: Floats


def check_point(program: Program, x: Floats) -> Check:
    """Check a point against the bounds, the constraints and the whole numbers of a program.

    Examples
    --------
    >>> from solver.optimization.program import make_program
    >>> program = make_program(
    ...     linear=np.ones(2), lower=np.zeros(2), upper=np.full(2, 9.0), integer=np.array([True, False]),
    ...     rows=np.array([0, 0]), columns=np.array([0, 1]), values=np.ones(2),
    ...     row_lower=np.array([2.5]), row_upper=np.array([np.inf]),
    ... )
    >>> check_point(program, np.array([2.0, 0.5])).feasible, check_point(program, np.array([2.0, 0.0])).feasible
    (True, False)
    """
    if x.shape != program.linear.shape or not np.isfinite(x).all():
        return Check(False, math.nan, math.inf, math.inf, math.inf, math.inf)
    activity = program.activities(x)
    matrix = program.matrix
    parts = np.abs(matrix.values * x[matrix.columns])
    rows = np.repeat(np.arange(program.size[0]), np.diff(matrix.starts))
    largest = np.zeros(program.size[0])
    np.maximum.at(largest, rows, parts)
    of_bounds = _outside(x, program.lower, program.upper)
    of_rows = _outside(activity, program.row_lower, program.row_upper)
    choices = program.choices
    for column in choices.semicontinuous:
        of_bounds[column] = min(of_bounds[column], abs(x[column]))
    for row, column, value in choices.indicators:
        of_rows[row] *= round(x[column]) == value
    relative = max(
        _largest(of_bounds / np.maximum(1.0, np.abs(x))),
        _largest(of_rows / np.maximum(1.0, np.maximum(np.abs(activity), largest))),
    )
    relative = max(relative, *(_more_than(kind, x[list(columns)]) for kind, columns in choices.sets), 0.0)
    whole = x[program.integer]
    broken = _largest(np.abs(whole - np.round(whole)))
    feasible = relative <= FEASIBILITY and broken <= INTEGRALITY
    return Check(bool(feasible), program.objective(x), _largest(of_bounds), _largest(of_rows), float(relative), broken)


def check_optimality(program: Program, x: Floats, duals: Floats) -> Proof:
    """Find what the duals of a continuous, convex program to minimise prove of a point.

    Parameters
    ----------
    program : Program
        To be minimised.
    x : ndarray, shape (n,)
        Feasible.
    duals : ndarray, shape (m,)
        The change of the objective for a change of each constraint's bound.

    Examples
    --------
    >>> from solver.optimization.program import make_program
    >>> program = make_program(
    ...     linear=np.ones(1), lower=np.zeros(1), upper=np.full(1, np.inf), integer=np.zeros(1, bool),
    ...     rows=np.array([0]), columns=np.array([0]), values=np.ones(1),
    ...     row_lower=np.array([2.0]), row_upper=np.array([np.inf]),
    ... )
    >>> check_optimality(program, np.array([2.0]), np.array([1.0])).optimal
    True
    >>> check_optimality(program, np.array([3.0]), np.array([1.0])).bound
    2.0
    """
    matrix, gradient = program.matrix, program.gradient(x)
    rows = np.repeat(np.arange(program.size[0]), np.diff(matrix.starts))
    weights = matrix.values * duals[rows]
    reduced = gradient - np.bincount(matrix.columns, weights=weights, minlength=program.size[1])
    loss_rows, open_rows = _loss(duals, program.activities(x), program.row_lower, program.row_upper)
    loss_columns, open_columns = _loss(reduced, x, program.lower, program.upper)
    scale = 1.0 + _largest(np.abs(gradient))
    value = program.objective(x)
    bound = value - loss_rows - loss_columns
    violation = max(open_rows, open_columns) / scale
    # The bound may be a little better than the point where the point is a little outside.
    optimal = violation <= OPTIMALITY and abs(value - bound) <= OPTIMALITY * (1.0 + abs(value))
    return Proof(bool(optimal), float(bound), float(violation), reduced)


def is_convex(program: Program) -> bool:
    """Whether the objective of a program to minimise is convex, as far as that is found cheaply."""
    terms = program.quadratic
    if not len(terms.rows):
        return True
    used, places = np.unique(np.concatenate([terms.rows, terms.columns]), return_inverse=True)
    first, second = places[: len(terms.rows)], places[len(terms.rows) :]
    diagonal = np.zeros(len(used))
    np.add.at(diagonal, first[first == second], 2 * terms.coefficients[first == second])
    if (diagonal < 0).any():
        return False
    beside = np.zeros(len(used))
    other = first != second
    np.add.at(beside, first[other], np.abs(terms.coefficients[other]))
    np.add.at(beside, second[other], np.abs(terms.coefficients[other]))
    if (diagonal >= beside).all():
        return True
    if len(used) > _LARGEST_DENSE:
        return False
    dense = np.diag(diagonal + 1e-9 * max(1.0, float(diagonal.max())))
    dense[first[other], second[other]] = dense[second[other], first[other]] = terms.coefficients[other]
    try:
        np.linalg.cholesky(dense)
    except np.linalg.LinAlgError:
        return False
    return True


_LARGEST_DENSE = 5_000


def _more_than(most: int, values: Floats) -> float:
    """Return how large the smallest change is that leaves one value, or two neighbours, of an ordered set."""
    sizes = np.abs(values)
    if len(sizes) <= most:
        return 0.0
    return min(_largest(np.delete(sizes, range(first, first + most))) for first in range(len(sizes) - most + 1))


def _outside(values: Floats, lower: Floats, upper: Floats) -> Floats:
    return np.maximum(0.0, np.maximum(lower - values, values - upper))


def _largest(values: Floats) -> float:
    return float(values.max(initial=0.0))


def _loss(multipliers: Floats, values: Floats, lower: Floats, upper: Floats) -> tuple[float, float]:
    """Return by how much moving to the best bounds would improve, and the largest multiplier that finds none."""
    target = np.where(multipliers > 0, lower, upper)
    bounded = np.isfinite(target)
    loss = float(multipliers[bounded] @ (values[bounded] - target[bounded]))
    return loss, _largest(np.abs(multipliers[~bounded]))
