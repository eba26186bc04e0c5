"""Small programs as people write them: ``{"maximize": "3*x + 2*y", "subject_to": ["x + y <= 4"]}``.

An expression is read by Python's own parser into a tree, of which only numbers, variables, ``+ - * /``, ``** 2`` and
comparisons are taken; nothing is ever evaluated as code.
"""

from __future__ import annotations

import ast
import difflib
import math
import re
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from compute.errors import InvalidField
from solver.optimization.program import Flags, Floats, Program, make_program

MAX_LENGTH = 100_000
MAX_DEPTH = 100
MAX_TERMS = 100_000

_KEYS = ("name", "variables", "minimize", "maximize", "subject_to")
_VARIABLE_KEYS = ("lower", "upper", "integer")
_EXAMPLE = 'Write, for example: "limit: 2*x + y <= 4".'
LABEL = re.compile(r"\s*([^\W\d]\w*)\s*:(.*)", re.DOTALL)

CONSTANTS = {"pi": math.pi}
"""Names that stand for numbers, unless a variable has them."""

Linear = dict[tuple[str, ...], float]
"""A polynomial: coefficients by the variables of each term, in order; ``()`` is the constant."""


class Header(NamedTuple):
    """A program whose expressions are not read yet."""

    name: str
    places: Mapping[str, int]
    """The variables, and their numbers."""
    lower: Floats
    upper: Floats
    integer: Flags
    direction: str
    goal: object
    """The objective; None without one."""
    rows: Sequence[tuple[str, object, str]]
    """Of each constraint the name, the expression, and the path in the question."""


def read_expressions(model: Mapping[str, Any]) -> Program:
    """Return the program that expressions describe.

    Parameters
    ----------
    model : mapping
        ``variables`` {name: {lower, upper, integer}}, one of ``minimize`` and ``maximize``, and ``subject_to``, a list
        of comparisons, each with a name before a colon if it is to have one. As in MathOpt, a variable without bounds
        has none, also below. The objective may have squares and products of two variables; constraints are linear.

    Raises
    ------
    InvalidField
        Naming the expression, the position in it, and what was expected there.

    Examples
    --------
    >>> program = read_expressions({
    ...     "variables": {"x": {"lower": 0}, "y": {"lower": 0, "integer": True}},
    ...     "maximize": "3*x + 2*y", "subject_to": ["limit: x + y <= 4", "1 <= x - 2*(y - 1) <= 3"],
    ... })
    >>> program.constraints, program.row_lower.tolist(), program.row_upper.tolist()
    (('limit', 'c1'), [-inf, -1.0], [4.0, 1.0])
    """
    header = read_header(model)
    places = header.places
    objective: Linear = {}
    if header.goal is not None:
        objective = Reader(header.goal, f"expressions.{header.direction}", places).polynomial()
    rows = [Reader(text, path, places).comparison() for _, text, path in header.rows]
    entries = [(row, places[key[0]], value) for row, (left, _, _) in enumerate(rows) for key, value in left.items()]
    linear = np.zeros(len(places))
    quadratic = []
    for key, value in objective.items():
        if len(key) == 1:
            linear[places[key[0]]] = value
        elif len(key) == 2:
            quadratic.append((places[key[0]], places[key[1]], value))
    return make_program(
        linear=linear,
        lower=header.lower,
        upper=header.upper,
        integer=header.integer,
        rows=np.array([entry[0] for entry in entries], np.int64),
        columns=np.array([entry[1] for entry in entries], np.int64),
        values=np.array([entry[2] for entry in entries], np.float64),
        row_lower=np.array([low for _, low, _ in rows], np.float64),
        row_upper=np.array([high for _, _, high in rows], np.float64),
        quadratic=(
            np.array([term[0] for term in quadratic], np.int64),
            np.array([term[1] for term in quadratic], np.int64),
            np.array([term[2] for term in quadratic], np.float64),
        ),
        maximize=header.direction == "maximize",
        offset=objective.get((), 0.0),
        name=header.name,
        variables=tuple(places),
        constraints=tuple(name for name, _, _ in header.rows),
    )


def read_header(model: Mapping[str, Any]) -> Header:
    """Return all but what the expressions say.

    Raises
    ------
    InvalidField
        Naming the field, and what is wrong with it.
    """
    if unknown := [key for key in model if key not in _KEYS]:
        refuse("expressions", f"has the unknown key {str(unknown[0])[:80]!r}", f"It has {', '.join(_KEYS)}.")
    variables = model.get("variables")
    if not isinstance(variables, Mapping) or not variables:
        refuse("expressions.variables", "is missing", 'Give {"x": {"lower": 0, "upper": 10, "integer": true}, ...}.')
    goals = [key for key in ("minimize", "maximize") if model.get(key) is not None]
    if len(goals) > 1:
        refuse("expressions", "has both minimize and maximize", "Give one of them.")
    subject_to = model.get("subject_to", [])
    if not isinstance(subject_to, Sequence) or isinstance(subject_to, str):
        refuse("expressions.subject_to", "is no list of comparisons", _EXAMPLE)
    if sum(len(text) for text in [*subject_to, *(model[goal] for goal in goals)] if isinstance(text, str)) > MAX_LENGTH:
        refuse("expressions", f"has more than {MAX_LENGTH:,} characters", "Give larger programs as arrays or a file.")
    places = {name: number for number, name in enumerate(variables)}
    lower, upper, integer = _domains(variables)
    rows = []
    for number, text in enumerate(subject_to):
        path = f"expressions.subject_to[{number}]"
        label = LABEL.match(text) if isinstance(text, str) else None
        rows.append((label[1] if label else f"c{number}", label[2] if label else text, path))
    names = [name for name, _, _ in rows]
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        refuse("expressions.subject_to", f"has the name {twice[:80]!r} twice", "")
    direction = goals[0] if goals else "minimize"
    return Header(
        str(model.get("name", "")), places, lower, upper, integer, direction, model[goals[0]] if goals else None, rows
    )


def _domains(variables: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    lower, upper = np.full(len(variables), -np.inf), np.full(len(variables), np.inf)
    integer = np.zeros(len(variables), np.bool_)
    for number, (name, domain) in enumerate(variables.items()):
        path = f"expressions.variables.{name}"[:120]
        if not isinstance(name, str) or not name.isidentifier():
            refuse(path, "is no name of a variable", "Letters, digits and _, beginning with a letter.")
        if domain is not None and not isinstance(domain, Mapping):
            refuse(path, "is no object", f"It has {', '.join(_VARIABLE_KEYS)}, or nothing: {{}}.")
        for key, value in (domain or {}).items():
            if key not in _VARIABLE_KEYS:
                refuse(path, f"has the unknown key {str(key)[:80]!r}", f"It has {', '.join(_VARIABLE_KEYS)}.")
            if key == "integer":
                if not isinstance(value, bool):
                    refuse(f"{path}.integer", f"is {value!r:.80}", "It is true or false.")
                integer[number] = value
            elif value is not None:
                if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
                    refuse(f"{path}.{key}", f"is {value!r:.80}", "A bound is a number, or null for none.")
                (lower if key == "lower" else upper)[number] = value
    return lower, upper, integer


class Reader:
    """Reads one expression over variables of these names."""

    def __init__(self, text: object, path: str, names: Collection[str]) -> None:
        self._path = path
        self._names = names
        if not isinstance(text, str):
            refuse(path, f"is {text!r:.80}, not a text", _EXAMPLE)
        self._text = text.strip()
        depth = deepest = 0
        for character in self._text:
            depth += (character in "([{") - (character in ")]}")
            deepest = max(deepest, depth)
        # Before it is parsed: the parser itself goes as deep as the text does. Signs and powers nest, too.
        if (
            deepest > MAX_DEPTH
            or re.search(rf"([-+~]\s*){{{MAX_DEPTH}}}", self._text)
            or self._text.count("**") > 10_000
        ):
            refuse(path, f"nests more than {MAX_DEPTH} deep", "Write it with fewer parentheses.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                self._tree = ast.parse(self._text, mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            position = getattr(error, "offset", None) or 0
            what = getattr(error, "msg", None) or "it has too many terms; give larger programs as arrays"
            refuse(path, f"cannot be read at position {max(0, position - 1)}: {what}", _EXAMPLE)

    def polynomial(self) -> Linear:
        """Return the objective."""
        return self._value(self._tree, 0)

    def comparison(self) -> tuple[Linear, float, float]:
        """Return a constraint: its linear part, and what it is between."""
        tree, sides = self.sides()
        if len(sides) == 3:
            left = sides[1]
            ends = [side.get((), 0.0) if is_constant(side) else None for side in (sides[0], sides[2])]
            low, high = self.between(tree, *ends)
        else:
            low, high = self.ends(tree)
            left = added(sides[0], sides[1], -1.0)
        if any(len(key) > 1 for key in left):
            self.beyond(tree, "a linear expression; only the objective may have products of variables")
        constant = left.pop((), 0.0)
        return left, low - constant, high - constant

    def sides(self) -> tuple[ast.Compare, list[Linear]]:
        """Return a comparison, and what stands on its two or three sides."""
        tree = self.compared()
        return tree, [self._value(side, 0) for side in (tree.left, *tree.comparators)]

    def compared(self) -> ast.Compare:
        """Return the tree, which is a comparison of two or three sides."""
        tree = self._tree
        if not isinstance(tree, ast.Compare) or len(tree.ops) > 2:
            self.wrong(tree, "a comparison: <=, >= or ==, or two of them around an expression")
        return tree

    def ends(self, tree: ast.Compare) -> tuple[float, float]:
        """Return what the left side minus the right one is between."""
        operator = tree.ops[0]
        if not isinstance(operator, ast.LtE | ast.GtE | ast.Eq):
            self.wrong(tree, "<=, >= or == (what is smaller or larger is never without equal)")
        return (-math.inf if isinstance(operator, ast.LtE) else 0.0), (
            math.inf if isinstance(operator, ast.GtE) else 0.0
        )

    def between(self, tree: ast.Compare, first: float | None, last: float | None) -> tuple[float, float]:
        """Return what the middle one of three sides is between, of which the outer ones are these numbers."""
        if first is None or last is None or type(tree.ops[0]) is not type(tree.ops[1]):
            self.wrong(tree, "a number on both ends, and the same comparison twice, as in 1 <= x + y <= 3")
        if not isinstance(tree.ops[0], ast.LtE | ast.GtE):
            self.wrong(tree, "<= or >= twice")
        return (first, last) if isinstance(tree.ops[0], ast.LtE) else (last, first)

    def number(self, node: ast.Constant) -> float:
        """Return a number."""
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            self.wrong(node, "a number below 1e300")
        return float(value)

    def _value(self, node: ast.AST, depth: int) -> Linear:
        if depth > MAX_DEPTH:
            return self.wrong(node, f"no more than {MAX_DEPTH} levels")
        if isinstance(node, ast.Constant):
            return {(): self.number(node)}
        if isinstance(node, ast.Name):
            if node.id in CONSTANTS and node.id not in self._names:
                return {(): CONSTANTS[node.id]}
            return self._variable(node, node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            return self._variable(node, f"{node.value.id}.{node.attr}")
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
            inner = self._value(node.operand, depth + 1)
            return inner if isinstance(node.op, ast.UAdd) else _scaled(inner, -1.0)
        if isinstance(node, ast.BinOp):
            return self._operation(node, depth)
        if isinstance(node, ast.Call):
            self.beyond(node, "numbers, variables, + - * / and ** 2")
        return self.wrong(node, "numbers, variables, + - * / and ** 2")

    def _variable(self, node: ast.AST, name: str) -> Linear:
        if name not in self._names:
            close = difflib.get_close_matches(name, [*self._names][:1000], 3)
            meant = f"; did you mean {' or '.join(close)}?" if close else ""
            self.wrong(node, f"one of the variables{meant}")
        return {(name,): 1.0}

    def _addition(self, node: ast.AST, depth: int) -> Linear:
        """Return a sum; one of many terms nests to the left, as deep as it is long."""
        found: Linear = {}
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            sign = 1.0 if isinstance(node.op, ast.Add) else -1.0
            found = added(found, self._value(node.right, depth + 1), sign)
            node = node.left
        return self._finite(node, added(found, self._value(node, depth + 1), 1.0))

    def _operation(self, node: ast.BinOp, depth: int) -> Linear:
        operator = node.op
        if isinstance(operator, ast.Add | ast.Sub):
            return self._addition(node, depth)
        left, right = self._value(node.left, depth + 1), self._value(node.right, depth + 1)
        if isinstance(operator, ast.Mult):
            return self._finite(node, self._product(node, left, right))
        if isinstance(operator, ast.Div):
            divisor = right.get((), 0.0)
            if not is_constant(right):
                self.beyond(node, "a number after /")
            if divisor == 0:
                self.wrong(node, "a number other than 0 after /")
            return self._finite(node, _scaled(left, 1.0 / divisor))
        if isinstance(operator, ast.Pow):
            if not is_constant(right) or right.get((), 0.0) not in (1.0, 2.0):
                self.beyond(node, "** 2, and no other power")
            return left if right[()] == 1.0 else self._finite(node, self._product(node, left, left))
        return self.wrong(node, "+ - * / or ** 2")

    def _product(self, node: ast.AST, left: Linear, right: Linear) -> Linear:
        if len(left) * len(right) > MAX_TERMS:
            self.wrong(node, f"fewer than {MAX_TERMS:,} terms")
        found: Linear = {}
        for first, one in left.items():
            for second, other in right.items():
                key = tuple(sorted((*first, *second)))
                if len(key) > 2:
                    self.beyond(node, "products of two variables at most")
                found[key] = found.get(key, 0.0) + one * other
        return found

    def _finite(self, node: ast.AST, value: Linear) -> Linear:
        if not all(math.isfinite(coefficient) for coefficient in value.values()):
            self.wrong(node, "numbers whose product is below 1e308")
        return value

    def beyond(self, node: ast.AST, expected: str) -> NoReturn:
        """Say that a part of the expression is neither linear nor quadratic."""
        told = self._told(node, expected)
        raise InvalidField(**{**told, "context": {**told["context"], "nonlinear": True}})

    def wrong(self, node: ast.AST, expected: str) -> NoReturn:
        """Say what was expected in place of a part of the expression."""
        raise InvalidField(**self._told(node, expected))

    def _told(self, node: ast.AST, expected: str) -> dict[str, Any]:
        position = getattr(node, "col_offset", 0)
        found = (ast.get_source_segment(self._text, node) or self._text)[:60]
        detail = f"{self._path} is wrong at position {position}: expected {expected}, found {found!r}"
        return {"detail": detail, "hint": _EXAMPLE, "context": {"field": self._path}}


def is_constant(value: Linear) -> bool:
    """Whether a polynomial has no variables."""
    return not any(value.keys() - {()})


def added(found: Linear, more: Linear, sign: float) -> Linear:
    """Add a polynomial to another, in place."""
    for key, value in more.items():
        found[key] = found.get(key, 0.0) + sign * value
    return found


def _scaled(value: Linear, factor: float) -> Linear:
    return {key: factor * coefficient for key, coefficient in value.items()}


def refuse(path: str, what: str, hint: str = "") -> NoReturn:
    """Say what is wrong, and where."""
    raise InvalidField(f"{path} {what}", hint=hint, context={"field": path})
