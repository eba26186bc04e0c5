"""Constraint programs as JSON that a person reads, in the names of CP-SAT.

Expressions are texts such as ``"2*x - cut.end + 3"``; a literal is the name of a boolean, or ``"not b"``.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from solver.optimization.constraints import logic
from solver.optimization.constraints.fields import flag, items, members, whole
from solver.optimization.constraints.kinds import BUILDERS, CONDITIONAL
from solver.optimization.constraints.program import (
    Affine,
    Constraint,
    ConstraintProgram,
    Domain,
    Interval,
)
from solver.optimization.expressions import LABEL, Linear, Reader, added, is_constant, refuse

MAX_VARIABLES = 500_000
MAX_CONSTRAINTS = 500_000

_KEYS = ("name", "horizon", "variables", "intervals", "constraints", "minimize", "maximize")
_DOMAIN_KEYS = ("lower", "upper", "values", "boolean")
_INTERVAL_KEYS = ("start", "duration", "end", "present", "optional")
_FAR = 2**62
_RANGES: Mapping[type[ast.cmpop], Domain] = {
    ast.LtE: ((-_FAR, 0),),
    ast.Lt: ((-_FAR, -1),),
    ast.GtE: ((0, _FAR),),
    ast.Gt: ((1, _FAR),),
    ast.Eq: ((0, 0),),
    ast.NotEq: ((-_FAR, -1), (1, _FAR)),
}
"""Where the left side minus the right one is."""


def read_constraints(model: Mapping[str, Any]) -> ConstraintProgram:
    """Return the program that constraints describe.

    Parameters
    ----------
    model : mapping
        ``variables`` {name: {lower, upper} or {values} or {boolean: true}}, ``intervals`` {name: {start, duration, end,
        present or optional}}, ``constraints``, a list of texts (comparisons) and objects with the name of a kind,
        ``minimize`` or ``maximize``, and ``horizon``, when every interval ends at the latest.

    Raises
    ------
    InvalidField
        Naming the field, and what is wrong with it.

    Examples
    --------
    >>> program = read_constraints({
    ...     "horizon": 20, "variables": {"end": {"lower": 0, "upper": 20}},
    ...     "intervals": {"cut": {"duration": 3}, "drill": {"duration": 5}},
    ...     "constraints": [{"no_overlap": ["cut", "drill"]}, "end >= cut.end", "last: end >= drill.end"],
    ...     "minimize": "end",
    ... })
    >>> program.variables, [constraint.name for constraint in program.constraints]
    (('end', 'cut.start', 'drill.start'), ['c0', 'c1', 'last'])
    """
    return Reading(model).program()


class Reading:
    """What has been read so far; the kinds of constraints read their own parts by it."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._model = model
        self._names: dict[str, Affine] = {}
        """What may stand in an expression: variables, and the parts of intervals."""
        self._variables: list[str] = []
        self._domains: list[Domain] = []
        self._intervals: dict[str, int] = {}

    def program(self) -> ConstraintProgram:
        """Read it all."""
        model = self._model
        if unknown := [key for key in model if key not in _KEYS]:
            refuse("constraints", f"has the unknown key {str(unknown[0])[:80]!r}", f"It has {', '.join(_KEYS)}.")
        goals = [key for key in ("minimize", "maximize") if model.get(key) is not None]
        if len(goals) > 1:
            refuse("constraints", "has both minimize and maximize", "Give one of them.")
        for name, domain in members(model.get("variables", {}), "constraints.variables").items():
            path = f"constraints.variables.{name}"[:120]
            _identifier(name, path)
            self._add(name, _domain(domain, path))
        intervals = [
            self._interval(name, given)
            for name, given in members(model.get("intervals", {}), "constraints.intervals").items()
        ]
        if not self._variables:
            refuse("constraints.variables", "is empty, and no interval has a start", 'Give {"x": {"upper": 10}}.')
        listed = items(model.get("constraints", []), "constraints.constraints")
        if len(listed) > MAX_CONSTRAINTS:
            refuse("constraints.constraints", f"has {len(listed):,} items, and {MAX_CONSTRAINTS:,} are the most")
        constraints = [self._constraint(item, number) for number, item in enumerate(listed)]
        return ConstraintProgram(
            tuple(self._variables),
            tuple(self._domains),
            tuple(intervals),
            tuple(constraints),
            self.affine(model[goals[0]], f"constraints.{goals[0]}") if goals else None,
            maximize=goals == ["maximize"],
            name=str(model.get("name") or ""),
        )

    # What stands in the JSON

    def affine(self, value: object, path: str) -> Affine:
        """Return an expression: a whole number, a text, or ``{"coefficients": {name: number}, "offset": number}``."""
        if isinstance(value, str):
            known = self._names.get(value)
            return known or self._of_terms(Reader(value, path, self._names).polynomial(), path)
        if isinstance(value, Mapping):
            given = members(value, path, ("coefficients", "offset"))
            weights = members(given.get("coefficients", {}), f"{path}.coefficients")
            for name in weights:
                if name not in self._names:
                    refuse(f"{path}.coefficients", f"names {str(name)[:80]!r}, which is no variable")
            terms: Linear = {(name,): whole(weight, f"{path}.coefficients") for name, weight in weights.items()}
            return self._of_terms({**terms, (): whole(given.get("offset", 0), f"{path}.offset")}, path)
        return Affine((), (), whole(value, path))

    def affines(self, value: object, path: str) -> tuple[Affine, ...]:
        """Return a list of expressions, which has some."""
        found = tuple(self.affine(one, f"{path}[{place}]") for place, one in enumerate(items(value, path)))
        if not found:
            refuse(path, "is empty")
        return found

    def literal(self, value: object, path: str) -> int:
        """Return a literal: the number of a boolean variable, or ``~`` that."""
        words = value.split() if isinstance(value, str) else []
        known = self._names.get(words[-1]) if len(words) == 1 or words[:-1] == ["not"] else None
        if known is None or len(known.columns) != 1 or known.coefficients != (1,) or known.constant:
            refuse(path, f"is {value!r:.80}, not the name of a boolean", 'It is "b", or "not b".')
        column = known.columns[0]
        if self._domains[column][0][0] < 0 or self._domains[column][-1][1] > 1:
            refuse(path, f"names {words[-1][:80]!r}, which is no boolean", 'Give it {"boolean": true}.')
        return column if len(words) == 1 else ~column

    def literals(self, value: object, path: str) -> tuple[int, ...]:
        """Return a list of literals."""
        return tuple(self.literal(one, f"{path}[{place}]") for place, one in enumerate(items(value, path)))

    def intervals(self, value: object, path: str) -> tuple[int, ...]:
        """Return the numbers of intervals that are named."""
        found = []
        for place, name in enumerate(items(value, path)):
            if not isinstance(name, str) or name not in self._intervals:
                refuse(f"{path}[{place}]", f"is {name!r:.80}, not the name of an interval")
            found.append(self._intervals[name])
        return tuple(found)

    # Variables and intervals

    def _add(self, name: str, domain: Domain) -> Affine:
        if len(self._variables) >= MAX_VARIABLES:
            refuse("constraints.variables", f"are more than {MAX_VARIABLES:,}, which are the most")
        self._names[name] = Affine((len(self._variables),), (1,), 0)
        self._variables.append(name)
        self._domains.append(domain)
        return self._names[name]

    def _interval(self, name: str, value: object) -> Interval:
        path = f"constraints.intervals.{name}"[:120]
        _identifier(name, path)
        if name in self._names:
            refuse(path, "has the name of a variable")
        given = members(value, path, _INTERVAL_KEYS)
        duration = self._part(f"{name}.duration", given.get("duration"), f"{path}.duration")
        start = self._part(f"{name}.start", given.get("start"), f"{path}.start")
        if given.get("end") is None and not duration.columns:
            end = self._names[f"{name}.end"] = start._replace(constant=start.constant + duration.constant)
        else:
            end = self._part(f"{name}.end", given.get("end"), f"{path}.end")
        for part, affine in (("start", start), ("duration", duration), ("end", end)):
            if len(affine.columns) > 1:
                refuse(f"{path}.{part}", "has more than one variable", "Give it a variable of its own.")
        present: int | None = None
        if given.get("present") is not None:
            present = self.literal(given["present"], f"{path}.present")
            self._names[f"{name}.present"] = _as_affine(present)
        elif flag(given.get("optional", False), f"{path}.optional"):
            present = self._add(f"{name}.present", ((0, 1),)).columns[0]
        self._intervals[name] = len(self._intervals)
        return Interval(name, start, duration, end, present)

    def _part(self, name: str, value: object, path: str) -> Affine:
        """Return the start, the duration or the end of an interval; a variable of its own if it is given by bounds."""
        if value is None or (isinstance(value, Mapping) and "coefficients" not in value):
            if value is None and self._model.get("horizon") is None:
                refuse(path, "is missing, and there is no horizon", 'Give {"lower": 0, "upper": 100}, or a horizon.')
            bounds = {"lower": 0, "upper": self._model.get("horizon"), **(value or {})}
            return self._add(name, _domain(bounds, path))
        affine = self._names[name] = self.affine(value, path)
        return affine

    # Constraints

    def _constraint(self, item: object, number: int) -> Constraint:
        path = f"constraints.constraints[{number}]"
        if isinstance(item, str):
            label = LABEL.match(item)
            name = label[1] if label else f"c{number}"
            return self.linear(label[2] if label else item, path, name, ())
        given = members(item, path)
        kinds = [key for key in given if key in BUILDERS]
        if len(kinds) != 1 or (unknown := [key for key in given if key not in (*kinds, "name", "if")]):
            what = f"has the unknown key {str(unknown[0])[:80]!r}" if len(kinds) == 1 else "has no kind, or two"
            refuse(path, what, f"It has name, if, and one of {', '.join(BUILDERS)}.")
        (kind,) = kinds
        name = given.get("name", f"c{number}")
        if not isinstance(name, str):
            refuse(f"{path}.name", f"is {name!r:.80}", "It is a text.")
        condition: tuple[int, ...] = ()
        if given.get("if") is not None:
            if kind not in CONDITIONAL:
                refuse(f"{path}.if", f"stands at {kind}", f"It may stand at {', '.join(CONDITIONAL)}.")
            several = given["if"] if isinstance(given["if"], list) else [given["if"]]
            condition = self.literals(several, f"{path}.if")
        return BUILDERS[kind](self, given[kind], f"{path}.{kind}", name, condition)

    def linear(self, value: object, path: str, name: str, condition: tuple[int, ...]) -> Constraint:
        """Return a comparison: a text, or coefficients and bounds."""
        if isinstance(value, Mapping):
            given = members(value, path, ("coefficients", "offset", "lower", "upper"))
            bounds = [given.get("lower"), given.get("upper")]
            low, high = (
                end if bound is None else whole(bound, path) for bound, end in zip(bounds, (-_FAR, _FAR), strict=True)
            )
            if low > high:
                refuse(path, f"has the bounds {low} and {high}: no value is between them")
            left = self.affine({key: given[key] for key in ("coefficients", "offset") if key in given}, path)
            return logic.Linear(name=name, condition=condition, expression=left, domain=((low, high),))
        reader = Reader(value, path, self._names)
        tree, sides = reader.sides()
        if len(sides) == 2:
            if type(tree.ops[0]) not in _RANGES:
                reader.wrong(tree, "<=, <, >=, >, == or !=")
            left = self._of_terms(added(sides[0], sides[1], -1.0), path)
            return logic.Linear(name=name, condition=condition, expression=left, domain=_RANGES[type(tree.ops[0])])
        if not is_constant(sides[0]) or not is_constant(sides[2]) or [type(op) for op in tree.ops] != [ast.LtE] * 2:
            reader.wrong(tree, "a number on both ends and <= twice, as in 1 <= x + y <= 3")
        low, high = (self._of_terms(side, path).constant for side in (sides[0], sides[2]))
        if low > high:
            refuse(path, f"has the bounds {low} and {high}: no value is between them")
        left = self._of_terms(sides[1], path)
        return logic.Linear(name=name, condition=condition, expression=left, domain=((low, high),))

    def _of_terms(self, terms: Linear, path: str) -> Affine:
        """Return what a polynomial over names is over variables."""
        constant, found = 0, dict[int, int]()
        for key, value in terms.items():
            weight = whole(value, path)
            if len(key) > 1:
                refuse(path, f"multiplies {key[0]!r:.80} and {key[1]!r:.80}", "Use multiplication_equality.")
            part = self._names[key[0]] if key else Affine((), (), 1)
            constant += weight * part.constant
            for column, coefficient in zip(part.columns, part.coefficients, strict=True):
                found[column] = found.get(column, 0) + weight * coefficient
        kept = {column: coefficient for column, coefficient in found.items() if coefficient}
        return Affine(tuple(kept), tuple(kept.values()), constant)


def _domain(value: object, path: str) -> Domain:
    given = members(value or {}, path, _DOMAIN_KEYS)
    if given.get("boolean") is not None and flag(given["boolean"], f"{path}.boolean"):
        return ((0, 1),)
    if given.get("values") is not None:
        values = sorted({whole(one, f"{path}.values") for one in items(given["values"], f"{path}.values")})
        if not values:
            refuse(f"{path}.values", "is empty")
        return tuple((one, one) for one in values)
    for key in ("lower", "upper"):
        if given.get(key) is None:
            refuse(f"{path}.{key}", "is missing", "Whole numbers have both bounds, or values, or are boolean.")
    low, high = whole(given["lower"], f"{path}.lower"), whole(given["upper"], f"{path}.upper")
    if low > high:
        refuse(path, f"has the bounds {low} and {high}: no value is between them", "See which of the two is meant.")
    return ((low, high),)


def _as_affine(literal: int) -> Affine:
    return Affine((literal,), (1,), 0) if literal >= 0 else Affine((~literal,), (-1,), 1)


def _identifier(name: object, path: str) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        refuse(path, "is no name", "Letters, digits and _, beginning with a letter.")
