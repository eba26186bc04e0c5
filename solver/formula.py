"""A formula of named arrays, such as ``price * max(demand, 0)``: a whitelisted syntax tree, never run as code.

numpy is imported inside the functions.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from compute.errors import InvalidField

MAX_LENGTH = 10_000
MAX_DEPTH = 100

_FUNCTIONS: Mapping[str, tuple[str, int]] = {
    "abs": ("abs", 1), "exp": ("exp", 1), "log": ("log", 1), "sqrt": ("sqrt", 1), "floor": ("floor", 1),
    "ceil": ("ceil", 1), "min": ("minimum", 2), "max": ("maximum", 2), "where": ("where", 3),
}  # fmt: skip
_OPERATORS: Mapping[type[ast.AST], str] = {
    ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "true_divide", ast.Pow: "power",
    ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal",
}  # fmt: skip
Arrays = Mapping[str, Any]


def read_formula(text: object, names: Collection[str], field: str) -> Callable[[Arrays], Any]:
    """Return a function of the named arrays.

    Parameters
    ----------
    text : str
        Numbers, names, ``+ - * / **``, comparisons (1 where they hold), and abs, exp, log, sqrt, floor, ceil, min, max,
        ``where(condition, a, b)``.
    names : collection of str
        What it may name.
    field : str
        Where the text stands, for messages.

    Raises
    ------
    InvalidField
        Naming the position and what was wrong there.

    Examples
    --------
    >>> import numpy as np
    >>> profit = read_formula("5 * min(demand, 10) - 20", ["demand"], "formula")
    >>> profit({"demand": np.array([4.0, 30.0])}).tolist()
    [0.0, 30.0]
    """
    if not isinstance(text, str) or not text.strip():
        _refuse(field, "is no text", None)
    if len(text) > MAX_LENGTH:
        _refuse(field, f"has {len(text):,} characters, and {MAX_LENGTH:,} are the most", None)
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidField(f"{field} is no formula: {error}"[:300], context={"field": field}) from None
    return _compiled(tree.body, frozenset(names), field, 0)


def _compiled(node: ast.AST, names: frozenset[str], field: str, depth: int) -> Callable[[Arrays], Any]:
    import numpy as np

    if depth > MAX_DEPTH:
        _refuse(field, f"is nested deeper than {MAX_DEPTH}", node)

    def part(inner: ast.AST) -> Callable[[Arrays], Any]:
        return _compiled(inner, names, field, depth + 1)

    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            try:
                constant = float(number)
            except OverflowError:
                constant = math.inf
            if not math.isfinite(constant):
                _refuse(field, "has a number that is too large", node)
            return lambda _: constant
        case ast.Name(id=name):
            if name not in names:
                _refuse(field, f"names {name[:80]!r}, and there are {', '.join(sorted(names))}", node)
            return lambda arrays: arrays[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = part(operand)
            return lambda arrays: -value(arrays)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return part(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _called(getattr(np, _OPERATORS[type(op)]), [part(left), part(right)])
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
            held = _called(getattr(np, _OPERATORS[type(op)]), [part(left), part(right)])
            return lambda arrays: held(arrays) * 1.0
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            function, count = _FUNCTIONS[name]
            if len(args) != count:
                _refuse(field, f"gives {name} {len(args)} values, and it takes {count}", node)
            parts = [part(arg) for arg in args]
            if name == "where":
                test, then, other = parts
                return lambda arrays: np.where(np.asarray(test(arrays)) != 0, then(arrays), other(arrays))
            return _called(getattr(np, function), parts)
        case _:
            pass
    known = ", ".join(_FUNCTIONS)
    return _refuse(field, f"has something else than numbers, names, + - * / **, a comparison, or one of {known}", node)


def _called(function: Any, parts: list[Callable[[Arrays], Any]]) -> Callable[[Arrays], Any]:
    return lambda arrays: function(*[part(arrays) for part in parts])


def _refuse(field: str, what: str, node: ast.AST | None) -> NoReturn:
    where = f" at position {node.col_offset}" if isinstance(node, ast.expr) else ""
    raise InvalidField(f"{field}{where} {what}", context={"field": field})
