"""A linear, mixed-integer or quadratic program as arrays: what every reader makes, and every engine takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from compute.errors import InvalidField

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MAX_VARIABLES = 2_000_000
MAX_NONZEROS = 10_000_000

INFINITE = 1e20
"""From here on a bound is none, as in MPS files and most engines."""


class Rows(NamedTuple):
    """A sparse matrix by rows: row ``i`` has ``columns[starts[i]:starts[i + 1]]``, none of them twice."""

    starts: Integers
    columns: Integers
    values: Floats


class Terms(NamedTuple):
    """Quadratic terms ``coefficients[k] * x[rows[k]] * x[columns[k]]``, with ``rows <= columns`` and no pair twice."""

    rows: Integers
    columns: Integers
    coefficients: Floats


class Choices(NamedTuple):
    """What bounds and rows alone do not say."""

    semicontinuous: tuple[int, ...] = ()
    """Variables that are within their bounds, or 0."""
    sets: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Special ordered sets: of the variables at most one (1) is not 0, or two that are neighbours (2)."""
    indicators: tuple[tuple[int, int, bool], ...] = ()
    """Row, variable, value: the row counts when that variable, which is 0 or 1, has the value."""

    @property
    def given(self) -> bool:
        """Whether there are any."""
        return any(self)


@dataclass(frozen=True)
class Program:
    """Minimise or maximise ``offset + linear @ x + quadratic(x)`` where ``row_lower <= A @ x <= row_upper``.

    Also ``lower <= x <= upper``, and ``x`` whole where ``integer`` says so. Made by `make_program`, which checks.

    Attributes
    ----------
    linear, lower, upper : ndarray of float64, shape (n,)
        A bound that is none is infinite.
    integer : ndarray of bool, shape (n,)
    matrix : Rows
        ``A``, of the shape (m, n).
    row_lower, row_upper : ndarray of float64, shape (m,)
    quadratic : Terms
        Empty for a linear program.
    variables, constraints : tuple of str
        Their names; empty when they have none.
    notes : tuple of str
        What a reader had to say: bounds given twice, and the like.
    """

    linear: Floats
    lower: Floats
    upper: Floats
    integer: Flags
    matrix: Rows
    row_lower: Floats
    row_upper: Floats
    quadratic: Terms
    maximize: bool = False
    offset: float = 0.0
    name: str = ""
    variables: tuple[str, ...] = field(default=(), repr=False)
    constraints: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    choices: Choices = field(default_factory=Choices)

    @property
    def size(self) -> tuple[int, int]:
        """Constraints and variables: the shape of the matrix."""
        return len(self.row_lower), len(self.linear)

    @property
    def kind(self) -> str:
        """``LP``, ``MIP``, ``QP`` or ``MIQP``."""
        if len(self.quadratic.rows):
            return "MIQP" if self.integer.any() or self.choices.given else "QP"
        return "MIP" if self.integer.any() or self.choices.given else "LP"

    def activities(self, x: Floats) -> Floats:
        """Return ``A @ x``."""
        rows = np.repeat(np.arange(self.size[0]), np.diff(self.matrix.starts))
        found = np.bincount(rows, weights=self.matrix.values * x[self.matrix.columns], minlength=self.size[0])
        return np.asarray(found, np.float64)

    def objective(self, x: Floats) -> float:
        """Return the value of the objective."""
        terms = self.quadratic
        return float(self.offset + self.linear @ x + terms.coefficients @ (x[terms.rows] * x[terms.columns]))

    def gradient(self, x: Floats) -> Floats:
        """Return the gradient of the objective."""
        terms, count = self.quadratic, self.size[1]
        by_row = np.bincount(terms.rows, weights=terms.coefficients * x[terms.columns], minlength=count)
        by_column = np.bincount(terms.columns, weights=terms.coefficients * x[terms.rows], minlength=count)
        return np.asarray(self.linear + by_row + by_column)

    def statistics(self) -> dict[str, object]:
        """Return what a person wants to know of it first."""
        equal = self.row_lower == self.row_upper
        binary = self.integer & (self.lower >= 0) & (self.upper <= 1)
        return {
            "kind": self.kind,
            "variables": self.size[1],
            "integer_variables": int(self.integer.sum()),
            "binary_variables": int(binary.sum()),
            "constraints": self.size[0],
            "equalities": int(equal.sum()),
            "nonzeros": len(self.matrix.values),
            "quadratic_terms": len(self.quadratic.rows),
            "semicontinuous_variables": len(self.choices.semicontinuous),
            "special_ordered_sets": len(self.choices.sets),
            "indicator_constraints": len(self.choices.indicators),
        }


def make_program(
    *,
    linear: Floats,
    lower: Floats,
    upper: Floats,
    integer: Flags,
    rows: Integers,
    columns: Integers,
    values: Floats,
    row_lower: Floats,
    row_upper: Floats,
    quadratic: tuple[Integers, Integers, Floats] | None = None,
    maximize: bool = False,
    offset: float = 0.0,
    name: str = "",
    variables: tuple[str, ...] = (),
    constraints: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    choices: Choices = Choices(),  # noqa: B008  (it cannot be changed)
) -> Program:
    """Bring what a reader found into the form of `Program`, and refuse what is none.

    Parameters
    ----------
    rows, columns, values : ndarray, shape (nonzeros,)
        The matrix, in any order; entries of one place are added up.
    quadratic : tuple of (rows, columns, coefficients), optional
        Terms in any order and either triangle; those of one pair are added up.
    linear, lower, upper, integer, row_lower, row_upper, maximize, offset, name, variables, constraints, notes, choices
        As in `Program`.

    Raises
    ------
    InvalidField
        Naming the variable or the constraint: a number that is none, bounds that cross, an index that is not there,
        or too large a program.

    Examples
    --------
    >>> program = make_program(
    ...     linear=np.array([3.0, 2.0]), lower=np.zeros(2), upper=np.full(2, np.inf), integer=np.zeros(2, bool),
    ...     rows=np.array([0, 0]), columns=np.array([0, 1]), values=np.array([1.0, 1.0]),
    ...     row_lower=np.array([-np.inf]), row_upper=np.array([4.0]), maximize=True,
    ... )
    >>> program.kind, program.objective(np.array([4.0, 0.0]))
    ('LP', 12.0)
    """
    count, height = len(linear), len(row_lower)
    for what, number, most in (("variables", count, MAX_VARIABLES), ("nonzeros", len(values), MAX_NONZEROS)):
        if number > most:
            raise InvalidField(
                f"the program has {number:,} {what}, and {most:,} are the most",
                hint="Make it smaller: aggregate, or split it.",
                context={"field": what, "limit": most},
            )
    if not count:
        raise InvalidField("the program has no variables", context={"field": "variables"})
    lower, upper = _bounds(lower, upper, variables, "variable")
    row_lower, row_upper = _bounds(row_lower, row_upper, constraints, "constraint")
    for array, what in ((linear, "the objective's coefficients"), (values, "the matrix")):
        if not np.isfinite(array).all():
            place = int(np.flatnonzero(~np.isfinite(array))[0])
            raise InvalidField(f"{what}: number {place} is {array[place]}", context={"field": what, "position": place})
    if not np.isfinite(offset):
        raise InvalidField(f"the objective's offset is {offset}", context={"field": "offset"})
    _indices(rows, height, "constraint")
    _indices(columns, count, "variable")
    terms = quadratic or (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    if not np.isfinite(terms[2]).all():
        raise InvalidField("a quadratic coefficient is not a number", context={"field": "quadratic_coefficients"})
    _indices(terms[0], count, "variable")
    _indices(terms[1], count, "variable")
    first, second = np.minimum(terms[0], terms[1]), np.maximum(terms[0], terms[1])
    first, second, coefficients = _summed(first, second, terms[2], count)
    rows, columns, values = _summed(rows, columns, values, count)
    starts = np.zeros(height + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=height), out=starts[1:])
    return Program(
        linear=np.ascontiguousarray(linear, np.float64),
        lower=lower,
        upper=upper,
        integer=np.asarray(integer, np.bool_),
        matrix=Rows(starts, columns, values),
        row_lower=row_lower,
        row_upper=row_upper,
        quadratic=Terms(first, second, coefficients),
        maximize=bool(maximize),
        offset=float(offset),
        name=name,
        variables=variables,
        constraints=constraints,
        notes=notes,
        choices=_checked(choices, lower, upper, integer),
    )


def _checked(choices: Choices, lower: Floats, upper: Floats, integer: Flags) -> Choices:
    for _, column, _ in choices.indicators:
        if not (integer[column] and lower[column] >= 0 and upper[column] <= 1):
            raise InvalidField(
                f"the indicator variable number {column} is not 0 or 1",
                context={"field": "variable", "position": column},
            )
    return choices


def _bounds(lower: Floats, upper: Floats, names: tuple[str, ...], what: str) -> tuple[Floats, Floats]:
    lower = np.where(lower <= -INFINITE, -np.inf, lower).astype(np.float64)
    upper = np.where(upper >= INFINITE, np.inf, upper).astype(np.float64)
    # Written so that a NaN is wrong, too.
    wrong = ~((lower <= upper) & (lower < INFINITE) & (upper > -INFINITE))
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        label = repr(names[place]) if names else f"number {place}"
        raise InvalidField(
            f"the {what} {label} has the bounds {lower[place]:g} and {upper[place]:g}: no value is between them",
            hint="See which of the two is meant.",
            context={"field": what, "position": place},
        )
    return lower, upper


def _indices(indices: Integers, count: int, what: str) -> None:
    wrong = (indices < 0) | (indices >= count)
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise InvalidField(
            f"there is no {what} {int(indices[place])}: there are {count}, from 0 on",
            context={"field": what, "position": place},
        )


def _summed(rows: Integers, columns: Integers, values: Floats, width: int) -> tuple[Integers, Integers, Floats]:
    """Order entries by row and column, add up those of one place, and leave out zeros."""
    places = np.asarray(rows, np.int64) * width + np.asarray(columns, np.int64)
    if not (np.diff(places) > 0).all():
        places, inverse = np.unique(places, return_inverse=True)
        values = np.asarray(np.bincount(inverse, weights=values, minlength=len(places)), np.float64)
    kept = values != 0
    places, values = places[kept], np.ascontiguousarray(values, np.float64)[kept]
    return places // width, places % width, values
