"""A constraint program: variables of whole numbers, intervals of time, constraints, and what is to be minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from solver.optimization.check import Check
from solver.optimization.program import Floats

LARGEST = 2**52
"""Values are kept as floats in places, where whole numbers up to here are exact."""
_NAMED = 10

Point = Sequence[int]
Domain = tuple[tuple[int, int], ...]
"""Ranges, in order; the first and last number of each."""


class Affine(NamedTuple):
    """``constant + sum(coefficients * x[columns])``."""

    columns: tuple[int, ...]
    coefficients: tuple[int, ...]
    constant: int

    def at(self, x: Point) -> int:
        """Return its value."""
        terms = zip(self.columns, self.coefficients, strict=True)
        return self.constant + sum(coefficient * x[column] for column, coefficient in terms)


def is_true(literal: int, x: Point) -> bool:
    """Whether a literal holds: a number of a variable, or ``~number`` for its negation.

    Examples
    --------
    >>> is_true(0, [1]), is_true(~0, [1])
    (True, False)
    """
    return bool(x[literal]) if literal >= 0 else not x[~literal]


class Interval(NamedTuple):
    """From ``start`` to ``end``, when ``present``, a literal, holds; None: always."""

    name: str
    start: Affine
    duration: Affine
    end: Affine
    present: int | None

    def at(self, x: Point) -> tuple[int, int] | None:
        """Return where it begins and ends; None when it is not there."""
        if self.present is not None and not is_true(self.present, x):
            return None
        return self.start.at(x), self.end.at(x)


class Target(ABC):
    """What constraints are posted to: CP-SAT's model, and its forms of our numbers."""

    model: Any

    @abstractmethod
    def expression(self, affine: Affine) -> Any:
        """Return its expression."""

    @abstractmethod
    def literal(self, literal: int) -> Any:
        """Return its literal."""

    @abstractmethod
    def interval(self, number: int) -> Any:
        """Return its interval."""

    @abstractmethod
    def within(self, affine: Affine, domain: Domain) -> Any:
        """Have an expression be in a domain; returns its constraint."""


@dataclass(frozen=True, kw_only=True)
class Constraint(ABC):
    """What must hold, when all of `condition` does."""

    kind: ClassVar[str]

    name: str
    condition: tuple[int, ...] = ()

    @abstractmethod
    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        """Whether it holds, whatever its condition."""

    @abstractmethod
    def post(self, target: Target) -> Any:
        """Tell CP-SAT of it; returns CP-SAT's constraint."""


@dataclass(frozen=True)
class ConstraintProgram:
    """Minimise or maximise an expression of whole numbers under constraints.

    Attributes
    ----------
    variables : tuple of str
        Their names.
    domains : tuple of Domain
    intervals : tuple of Interval
    constraints : tuple of Constraint
    target : Affine or None
        None: any solution will do.
    """

    variables: tuple[str, ...] = field(repr=False)
    domains: tuple[Domain, ...] = field(repr=False)
    intervals: tuple[Interval, ...] = field(repr=False)
    constraints: tuple[Constraint, ...] = field(repr=False)
    target: Affine | None = field(repr=False)
    maximize: bool = False
    name: str = ""
    notes: tuple[str, ...] = ()

    kind = "CP"

    @property
    def size(self) -> tuple[int, int]:
        """Constraints and variables."""
        return len(self.constraints), len(self.variables)

    @property
    def names(self) -> tuple[Sequence[str], Sequence[str]]:
        """The names of the variables and of the constraints."""
        return self.variables, [constraint.name for constraint in self.constraints]

    def minimised(self) -> ConstraintProgram:
        """Return the same program to be minimised."""
        if not self.maximize or self.target is None:
            return replace(self, maximize=False)
        columns, coefficients, constant = self.target
        turned = Affine(columns, tuple(-coefficient for coefficient in coefficients), -constant)
        return replace(self, maximize=False, target=turned)

    def check(self, point: Floats) -> Check:
        """Check a point against every domain, interval and constraint."""
        if len(point) != len(self.variables) or not np.isfinite(point).all():
            return Check(False, np.nan, np.inf, np.inf, np.inf, np.inf)
        x = [round(value) for value in point.tolist()]
        off = float(np.abs(point - np.array(x, np.float64)).max(initial=0.0))
        outside = [
            min(max(low - value, value - high, 0) for low, high in domain)
            for value, domain in zip(x, self.domains, strict=True)
        ]
        broken = [interval.name for interval in self.intervals if not self._fits(interval, x)]
        broken += [
            constraint.name
            for constraint in self.constraints
            if all(is_true(literal, x) for literal in constraint.condition) and not constraint.holds(x, self)
        ]
        value = 0.0 if self.target is None else float(self.target.at(x))
        far = float(max(outside, default=0))
        feasible = not broken and not far and off == 0
        return Check(feasible, value, far, float(len(broken)), float(not feasible), off, tuple(broken[:_NAMED]))

    def statistics(self) -> dict[str, object]:
        """Return what a person wants to know of it first."""
        return {
            "kind": self.kind,
            "variables": len(self.variables),
            "booleans": sum(domain[0][0] >= 0 and domain[-1][1] <= 1 for domain in self.domains),
            "intervals": len(self.intervals),
            "optional_intervals": sum(interval.present is not None for interval in self.intervals),
            "constraints": len(self.constraints),
            "constraints_by_kind": dict(Counter(constraint.kind for constraint in self.constraints)),
        }

    def placed(self, point: Floats) -> dict[str, Any]:
        """Return where the intervals are, by their names; None for those that are not there.

        Examples
        --------
        >>> always = Affine((), (), 0)
        >>> cut = Interval("cut", always, Affine((), (), 3), Affine((), (), 3), None)
        >>> ConstraintProgram((), (), (cut,), (), None).placed(np.empty(0))
        {'cut': {'start': 0, 'end': 3}}
        """
        x = [round(value) for value in point.tolist()]
        places = {interval.name: interval.at(x) for interval in self.intervals}
        return {name: place and {"start": place[0], "end": place[1]} for name, place in places.items()}

    @staticmethod
    def _fits(interval: Interval, x: Point) -> bool:
        if interval.at(x) is None:
            return True
        length = interval.duration.at(x)
        return length >= 0 and interval.start.at(x) + length == interval.end.at(x)
