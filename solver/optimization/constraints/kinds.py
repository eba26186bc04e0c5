"""The kinds of constraints, by the names that they have in JSON, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from solver.optimization.constraints import logic, scheduling
from solver.optimization.constraints.fields import all_members, items, whole
from solver.optimization.constraints.program import Constraint
from solver.optimization.expressions import refuse

if TYPE_CHECKING:
    from solver.optimization.constraints.read import Reading

_MOST_NODES = 500_000

Build = Callable[["Reading", Any, str, str, tuple[int, ...]], Constraint]


def _booleans(kind: type[logic.Booleans]) -> Build:
    def build(reading: Reading, value: Any, path: str, name: str, condition: tuple[int, ...]) -> Constraint:
        return kind(name=name, condition=condition, literals=reading.literals(value, path))

    return build


def _equality(kind: type[logic.Equality]) -> Build:
    def build(reading: Reading, value: Any, path: str, name: str, _: tuple[int, ...]) -> Constraint:
        given = all_members(value, path, ("target", "expressions"))
        target = reading.affine(given["target"], f"{path}.target")
        return kind(name=name, target=target, expressions=reading.affines(given["expressions"], f"{path}.expressions"))

    return build


def _quotient(kind: type[logic.Quotient]) -> Build:
    def build(reading: Reading, value: Any, path: str, name: str, _: tuple[int, ...]) -> Constraint:
        keys = ("target", "numerator", "denominator")
        given = all_members(value, path, keys)
        target, above, below = (reading.affine(given[key], f"{path}.{key}") for key in keys)
        return kind(name=name, target=target, numerator=above, denominator=below)

    return build


def _table(kind: type[logic.Table]) -> Build:
    def build(reading: Reading, value: Any, path: str, name: str, _: tuple[int, ...]) -> Constraint:
        given = all_members(value, path, ("expressions", "tuples"))
        expressions = reading.affines(given["expressions"], f"{path}.expressions")
        rows = []
        for place, row in enumerate(items(given["tuples"], f"{path}.tuples")):
            where = f"{path}.tuples[{place}]"
            if len(items(row, where)) != len(expressions):
                refuse(where, f"has {len(row)} values, and there are {len(expressions)} expressions")
            rows.append(tuple(whole(one, where) for one in row))
        return kind(name=name, expressions=expressions, tuples=tuple(rows))

    return build


def _linear(reading: Reading, value: Any, path: str, name: str, condition: tuple[int, ...]) -> Constraint:
    return reading.linear(value, path, name, condition)


def _all_different(reading: Reading, value: Any, path: str, name: str, _: tuple[int, ...]) -> Constraint:
    return logic.AllDifferent(name=name, expressions=reading.affines(value, path))


def _implication(reading: Reading, value: Any, path: str, name: str, _: tuple[int, ...]) -> Constraint:
    literals = reading.literals(value, path)
    if len(literals) != 2:
        refuse(path, f"has {len(literals)} literals", "It has two: [if this, then that].")
    return logic.Implication(name=name, first=literals[0], second=literals[1])


def _element(reading: Reading, value: Any, path: str, name: str, _: tuple[int, ...]) -> Constraint:
    given = all_members(value, path, ("index", "expressions", "target"))
    return logic.Element(
        name=name,
        index=reading.affine(given["index"], f"{path}.index"),
        expressions=reading.affines(given["expressions"], f"{path}.expressions"),
        target=reading.affine(given["target"], f"{path}.target"),
    )


def _abs_equality(reading: Reading, value: Any, path: str, name: str, _: tuple[int, ...]) -> Constraint:
    given = all_members(value, path, ("target", "expression"))
    return logic.AbsEquality(
        name=name,
        target=reading.affine(given["target"], f"{path}.target"),
        expression=reading.affine(given["expression"], f"{path}.expression"),
    )


def _circuit(reading: Reading, value: Any, path: str, name: str, _: tuple[int, ...]) -> Constraint:
    arcs = []
    for place, arc in enumerate(items(value, path)):
        where = f"{path}[{place}]"
        if len(items(arc, where)) != 3:
            refuse(where, f"has {len(arc)} parts", "An arc is [from, to, literal].")
        tail, head = whole(arc[0], where), whole(arc[1], where)
        if not (0 <= tail < _MOST_NODES and 0 <= head < _MOST_NODES):
            refuse(where, "has a node that is no number from 0 on")
        arcs.append((tail, head, reading.literal(arc[2], where)))
    if not arcs:
        refuse(path, "is empty")
    return logic.Circuit(name=name, arcs=tuple(arcs))


def _no_overlap(reading: Reading, value: Any, path: str, name: str, _: tuple[int, ...]) -> Constraint:
    return scheduling.NoOverlap(name=name, intervals=reading.intervals(value, path))


def _no_overlap_2d(reading: Reading, value: Any, path: str, name: str, _: tuple[int, ...]) -> Constraint:
    given = all_members(value, path, ("x_intervals", "y_intervals"))
    first, second = (reading.intervals(given[key], f"{path}.{key}") for key in ("x_intervals", "y_intervals"))
    if len(first) != len(second):
        refuse(path, f"has {len(first)} x_intervals and {len(second)} y_intervals")
    return scheduling.NoOverlap2D(name=name, x_intervals=first, y_intervals=second)


def _cumulative(reading: Reading, value: Any, path: str, name: str, _: tuple[int, ...]) -> Constraint:
    given = all_members(value, path, ("intervals", "demands", "capacity"))
    intervals = reading.intervals(given["intervals"], f"{path}.intervals")
    demands = tuple(
        reading.affine(one, f"{path}.demands[{place}]")
        for place, one in enumerate(items(given["demands"], f"{path}.demands"))
    )
    if len(demands) != len(intervals):
        refuse(path, f"has {len(intervals)} intervals and {len(demands)} demands")
    capacity = reading.affine(given["capacity"], f"{path}.capacity")
    return scheduling.Cumulative(name=name, intervals=intervals, demands=demands, capacity=capacity)


BUILDERS: Mapping[str, Build] = {
    "linear": _linear,
    **{
        kind.kind: _booleans(kind)
        for kind in (logic.BoolOr, logic.BoolAnd, logic.BoolXor, logic.AtMostOne, logic.ExactlyOne)
    },
    "implication": _implication,
    "all_different": _all_different,
    "element": _element,
    **{kind.kind: _table(kind) for kind in (logic.AllowedAssignments, logic.ForbiddenAssignments)},
    **{kind.kind: _equality(kind) for kind in (logic.MaxEquality, logic.MinEquality, logic.MultiplicationEquality)},
    "abs_equality": _abs_equality,
    **{kind.kind: _quotient(kind) for kind in (logic.DivisionEquality, logic.ModuloEquality)},
    "circuit": _circuit,
    "no_overlap": _no_overlap,
    "no_overlap_2d": _no_overlap_2d,
    "cumulative": _cumulative,
}
KINDS = tuple(BUILDERS)
"""The names of the kinds of constraints."""
CONDITIONAL = ("linear", "bool_or", "bool_and")
"""Those that may have a condition."""
