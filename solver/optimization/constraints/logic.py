"""Constraints on numbers and booleans: each can tell CP-SAT of itself, and check itself without it."""

# ruff: noqa: ARG002, D102  (the base class says what the methods do)
from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from solver.optimization.constraints.program import (
    Affine,
    Constraint,
    ConstraintProgram,
    Domain,
    Point,
    Target,
    is_true,
)


@dataclass(frozen=True, kw_only=True)
class Linear(Constraint):
    """An expression is in a domain."""

    kind = "linear"
    expression: Affine
    domain: Domain

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        value = self.expression.at(x)
        return any(low <= value <= high for low, high in self.domain)

    def post(self, target: Target) -> Any:
        return target.within(self.expression, self.domain)


@dataclass(frozen=True, kw_only=True)
class Booleans(Constraint):
    """So many of some literals hold, as `kind` says."""

    literals: tuple[int, ...]

    def _true(self, x: Point) -> int:
        return sum(is_true(literal, x) for literal in self.literals)

    def _posted(self, target: Target) -> list[Any]:
        return [target.literal(literal) for literal in self.literals]


@dataclass(frozen=True, kw_only=True)
class BoolOr(Booleans):
    """At least one holds."""

    kind = "bool_or"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return self._true(x) >= 1

    def post(self, target: Target) -> Any:
        return target.model.add_bool_or(self._posted(target))


@dataclass(frozen=True, kw_only=True)
class BoolAnd(Booleans):
    """All hold."""

    kind = "bool_and"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return self._true(x) == len(self.literals)

    def post(self, target: Target) -> Any:
        return target.model.add_bool_and(self._posted(target))


@dataclass(frozen=True, kw_only=True)
class BoolXor(Booleans):
    """An odd number of them holds."""

    kind = "bool_xor"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return self._true(x) % 2 == 1

    def post(self, target: Target) -> Any:
        return target.model.add_bool_xor(self._posted(target))


@dataclass(frozen=True, kw_only=True)
class AtMostOne(Booleans):
    """One holds, or none."""

    kind = "at_most_one"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return self._true(x) <= 1

    def post(self, target: Target) -> Any:
        return target.model.add_at_most_one(self._posted(target))


@dataclass(frozen=True, kw_only=True)
class ExactlyOne(Booleans):
    """One holds, and no other."""

    kind = "exactly_one"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return self._true(x) == 1

    def post(self, target: Target) -> Any:
        return target.model.add_exactly_one(self._posted(target))


@dataclass(frozen=True, kw_only=True)
class Implication(Constraint):
    """When the first literal holds, the second does."""

    kind = "implication"
    first: int
    second: int

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return not is_true(self.first, x) or is_true(self.second, x)

    def post(self, target: Target) -> Any:
        return target.model.add_implication(target.literal(self.first), target.literal(self.second))


@dataclass(frozen=True, kw_only=True)
class AllDifferent(Constraint):
    """No two of them have one value."""

    kind = "all_different"
    expressions: tuple[Affine, ...]

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return len({expression.at(x) for expression in self.expressions}) == len(self.expressions)

    def post(self, target: Target) -> Any:
        return target.model.add_all_different([target.expression(one) for one in self.expressions])


@dataclass(frozen=True, kw_only=True)
class Element(Constraint):
    """``target == expressions[index]``."""

    kind = "element"
    index: Affine
    expressions: tuple[Affine, ...]
    target: Affine

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        place = self.index.at(x)
        return 0 <= place < len(self.expressions) and self.expressions[place].at(x) == self.target.at(x)

    def post(self, target: Target) -> Any:
        values = [target.expression(one) for one in self.expressions]
        return target.model.add_element(target.expression(self.index), values, target.expression(self.target))


@dataclass(frozen=True, kw_only=True)
class Table(Constraint):
    """The values are one of the rows; or, when forbidden, none of them."""

    expressions: tuple[Affine, ...]
    tuples: tuple[tuple[int, ...], ...]

    def _listed(self, x: Point) -> bool:
        return tuple(expression.at(x) for expression in self.expressions) in self.tuples


@dataclass(frozen=True, kw_only=True)
class AllowedAssignments(Table):
    """The values are one of the rows."""

    kind = "allowed_assignments"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return self._listed(x)

    def post(self, target: Target) -> Any:
        return target.model.add_allowed_assignments([target.expression(one) for one in self.expressions], self.tuples)


@dataclass(frozen=True, kw_only=True)
class ForbiddenAssignments(Table):
    """The values are none of the rows."""

    kind = "forbidden_assignments"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return not self._listed(x)

    def post(self, target: Target) -> Any:
        return target.model.add_forbidden_assignments([target.expression(one) for one in self.expressions], self.tuples)


@dataclass(frozen=True, kw_only=True)
class Equality(Constraint):
    """``target`` is what a function gives of the expressions."""

    target: Affine
    expressions: tuple[Affine, ...]

    def _values(self, x: Point) -> list[int]:
        return [expression.at(x) for expression in self.expressions]

    def _posted(self, target: Target) -> tuple[Any, list[Any]]:
        return target.expression(self.target), [target.expression(one) for one in self.expressions]


@dataclass(frozen=True, kw_only=True)
class MaxEquality(Equality):
    """The largest."""

    kind = "max_equality"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return self.target.at(x) == max(self._values(x))

    def post(self, target: Target) -> Any:
        return target.model.add_max_equality(*self._posted(target))


@dataclass(frozen=True, kw_only=True)
class MinEquality(Equality):
    """The smallest."""

    kind = "min_equality"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return self.target.at(x) == min(self._values(x))

    def post(self, target: Target) -> Any:
        return target.model.add_min_equality(*self._posted(target))


@dataclass(frozen=True, kw_only=True)
class MultiplicationEquality(Equality):
    """The product."""

    kind = "multiplication_equality"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return self.target.at(x) == math.prod(self._values(x))

    def post(self, target: Target) -> Any:
        return target.model.add_multiplication_equality(*self._posted(target))


@dataclass(frozen=True, kw_only=True)
class AbsEquality(Constraint):
    """``target == |expression|``."""

    kind = "abs_equality"
    target: Affine
    expression: Affine

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        return self.target.at(x) == abs(self.expression.at(x))

    def post(self, target: Target) -> Any:
        return target.model.add_abs_equality(target.expression(self.target), target.expression(self.expression))


@dataclass(frozen=True, kw_only=True)
class Quotient(Constraint):
    """``target`` is what a division gives."""

    target: Affine
    numerator: Affine
    denominator: Affine

    def _divided(self, x: Point) -> tuple[int, int] | None:
        """Return quotient, towards zero, and remainder, with the sign of the numerator; None for a division by 0."""
        above, below = self.numerator.at(x), self.denominator.at(x)
        if below == 0:
            return None
        quotient = abs(above) // abs(below) * (1 if (above >= 0) == (below > 0) else -1)
        return quotient, above - quotient * below

    def _posted(self, target: Target) -> tuple[Any, Any, Any]:
        three = (self.target, self.numerator, self.denominator)
        return target.expression(three[0]), target.expression(three[1]), target.expression(three[2])


@dataclass(frozen=True, kw_only=True)
class DivisionEquality(Quotient):
    """The quotient, rounded towards zero."""

    kind = "division_equality"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        divided = self._divided(x)
        return divided is not None and self.target.at(x) == divided[0]

    def post(self, target: Target) -> Any:
        return target.model.add_division_equality(*self._posted(target))


@dataclass(frozen=True, kw_only=True)
class ModuloEquality(Quotient):
    """The remainder, with the sign of the numerator."""

    kind = "modulo_equality"

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        divided = self._divided(x)
        return divided is not None and self.target.at(x) == divided[1]

    def post(self, target: Target) -> Any:
        return target.model.add_modulo_equality(*self._posted(target))


@dataclass(frozen=True, kw_only=True)
class Circuit(Constraint):
    """The arcs whose literals hold go once around through every node; one from a node to itself leaves it out."""

    kind = "circuit"
    arcs: tuple[tuple[int, int, int], ...]

    def holds(self, x: Point, program: ConstraintProgram) -> bool:
        chosen = [(tail, head) for tail, head, literal in self.arcs if is_true(literal, x)]
        after = dict(chosen)
        nodes = {node for tail, head, _ in self.arcs for node in (tail, head)}
        if len(after) != len(chosen) or after.keys() != nodes or Counter(after.values()) != Counter(nodes):
            return False
        visited = {tail for tail, head in chosen if tail != head}
        if not visited:
            return True
        place = first = next(iter(visited))
        steps = 0
        while steps == 0 or place != first:
            place, steps = after[place], steps + 1
        return steps == len(visited)

    def post(self, target: Target) -> Any:
        return target.model.add_circuit([(tail, head, target.literal(literal)) for tail, head, literal in self.arcs])
