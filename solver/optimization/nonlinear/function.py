"""A function of the variables: a linear part, and a graph of operations with exact derivatives (reverse mode)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from solver.optimization.program import Floats, Integers

Values = Sequence[float]


class Node(NamedTuple):
    """A step: a number, a variable, or an operation on earlier steps."""

    operation: str
    arguments: tuple[int, ...] = ()
    value: float = 0.0
    """Of a number; of a variable, its column."""


class Operation(NamedTuple):
    """What a step does, and its derivatives by each argument, of the arguments and of the result."""

    value: Callable[[Values], float]
    slopes: Callable[[Values, float], Values]
    smooth: bool = True
    steady: bool = True
    """Whether it makes no jumps."""


def _power_slopes(a: Values, value: float) -> Values:
    base, exponent = a
    if math.isnan(value):
        return math.nan, math.nan
    by_base = exponent * base ** (exponent - 1) if exponent else 0.0
    return by_base, value * math.log(base) if base > 0 else 0.0


def _product_slopes(a: Values, _: float) -> Values:
    return [math.prod(a[:place]) * math.prod(a[place + 1 :]) for place in range(len(a))]


def _chosen(choose: Callable[[Values], float]) -> Callable[[Values, float], Values]:
    def slopes(a: Values, _: float) -> Values:
        chosen = a.index(choose(a))
        return [float(place == chosen) for place in range(len(a))]

    return slopes


def _flat(a: Values, _: float) -> Values:
    return [0.0] * len(a)


def _power(a: Values) -> float:
    value = a[0] ** a[1]
    if isinstance(value, complex):
        return math.nan  # a root of a negative number
    return float(value)


OPERATIONS: Mapping[str, Operation] = {
    "+": Operation(math.fsum, lambda a, _: [1.0] * len(a)),
    "-": Operation(lambda a: a[0] - a[1], lambda *_: (1.0, -1.0)),
    "neg": Operation(lambda a: -a[0], lambda *_: (-1.0,)),
    "*": Operation(math.prod, _product_slopes),
    "/": Operation(lambda a: a[0] / a[1], lambda a, v: (1.0 / a[1], -v / a[1])),
    "**": Operation(_power, _power_slopes),
    "exp": Operation(lambda a: math.exp(a[0]), lambda _, v: (v,)),
    "log": Operation(lambda a: math.log(a[0]), lambda a, _: (1.0 / a[0],)),
    "log10": Operation(lambda a: math.log10(a[0]), lambda a, _: (1.0 / (a[0] * math.log(10)),)),
    "sqrt": Operation(lambda a: math.sqrt(a[0]), lambda _, v: (0.5 / v,)),
    "sin": Operation(lambda a: math.sin(a[0]), lambda a, _: (math.cos(a[0]),)),
    "cos": Operation(lambda a: math.cos(a[0]), lambda a, _: (-math.sin(a[0]),)),
    "tan": Operation(lambda a: math.tan(a[0]), lambda _, v: (1.0 + v * v,)),
    "asin": Operation(lambda a: math.asin(a[0]), lambda a, _: (1.0 / math.sqrt(1 - a[0] ** 2),)),
    "acos": Operation(lambda a: math.acos(a[0]), lambda a, _: (-1.0 / math.sqrt(1 - a[0] ** 2),)),
    "atan": Operation(lambda a: math.atan(a[0]), lambda a, _: (1.0 / (1 + a[0] ** 2),)),
    "sinh": Operation(lambda a: math.sinh(a[0]), lambda a, _: (math.cosh(a[0]),)),
    "cosh": Operation(lambda a: math.cosh(a[0]), lambda a, _: (math.sinh(a[0]),)),
    "tanh": Operation(lambda a: math.tanh(a[0]), lambda _, v: (1.0 - v * v,)),
    "abs": Operation(lambda a: abs(a[0]), lambda a, _: (math.copysign(1.0, a[0]),), smooth=False),
    "min": Operation(min, _chosen(min), smooth=False),
    "max": Operation(max, _chosen(max), smooth=False),
    "floor": Operation(lambda a: float(math.floor(a[0])), _flat, smooth=False, steady=False),
    "ceil": Operation(lambda a: float(math.ceil(a[0])), _flat, smooth=False, steady=False),
    "sign": Operation(lambda a: float((a[0] > 0) - (a[0] < 0)), _flat, smooth=False, steady=False),
}


class Function(NamedTuple):
    """``offset + coefficients @ x[columns]``, and the value of the last of the steps, if there are any."""

    offset: float
    columns: Integers
    coefficients: Floats
    steps: tuple[Node, ...] = ()

    def value(self, x: Floats) -> float:
        """Return its value; not a number where it has none.

        Examples
        --------
        >>> steps = (Node("variable", value=0), Node("log", (0,)))
        >>> logarithm = Function(1.0, np.array([0]), np.array([2.0]), steps)
        >>> logarithm.value(np.array([1.0])), logarithm.gradient(np.array([1.0])).tolist()
        (3.0, [3.0])
        """
        linear = self.offset + float(self.coefficients @ x[self.columns])
        return linear + (self._forward(x)[-1] if self.steps else 0.0)

    def gradient(self, x: Floats) -> Floats:
        """Return its derivative by each variable; not a number where it has none."""
        found = np.zeros(len(x))
        np.add.at(found, self.columns, self.coefficients)
        if not self.steps:
            return found
        values = self._forward(x)
        slopes = [0.0] * len(values)
        slopes[-1] = 1.0
        for place in range(len(values) - 1, -1, -1):
            node, slope = self.steps[place], slopes[place]
            if node.operation == "variable":
                found[int(node.value)] += slope
            elif node.operation != "number" and slope:
                try:
                    parts = OPERATIONS[node.operation].slopes([values[one] for one in node.arguments], values[place])
                except (ArithmeticError, ValueError):
                    parts = [math.nan] * len(node.arguments)
                for argument, part in zip(node.arguments, parts, strict=True):
                    slopes[argument] += slope * part
        return found

    @property
    def operations(self) -> set[str]:
        """The names of the operations in it."""
        return {node.operation for node in self.steps} - {"number", "variable"}

    def _forward(self, x: Floats) -> list[float]:
        values: list[float] = []
        for node in self.steps:
            if node.operation == "number":
                values.append(node.value)
            elif node.operation == "variable":
                values.append(float(x[int(node.value)]))
            else:
                values.append(evaluated(node.operation, [values[one] for one in node.arguments]))
        return values


def evaluated(operation: str, arguments: Values) -> float:
    """Return what an operation gives; not a number outside of its domain, and beyond the largest number."""
    try:
        return OPERATIONS[operation].value(arguments)
    except (ArithmeticError, ValueError):
        return math.nan


class Graph:
    """Steps in the making, shared by several functions.

    Examples
    --------
    >>> graph = Graph()
    >>> square = graph.add("**", graph.variable(0), graph.number(2.0))
    >>> graph.function(square).value(np.array([3.0]))
    9.0
    """

    def __init__(self) -> None:
        self._nodes: list[Node] = []

    def number(self, value: float) -> int:
        """Return the step that is a number."""
        return self._new(Node("number", value=value))

    def variable(self, column: int) -> int:
        """Return the step that is a variable."""
        return self._new(Node("variable", value=column))

    def add(self, operation: str, *arguments: int) -> int:
        """Return the step of an operation; of numbers alone it is a number."""
        values = [self.known(one) for one in arguments]
        if None not in values:
            return self.number(evaluated(operation, [value for value in values if value is not None]))
        return self._new(Node(operation, arguments))

    def known(self, step: int) -> float | None:
        """Return the value of a step that is a number."""
        node = self._nodes[step]
        return node.value if node.operation == "number" else None

    def function(self, step: int | None, offset: float = 0.0, linear: Mapping[int, float] | None = None) -> Function:
        """Return what a step and a linear part add up to."""
        linear = linear or {}
        columns = np.array(list(linear), np.int64)
        coefficients = np.array(list(linear.values()), np.float64)
        if step is None:
            return Function(offset, columns, coefficients)
        if (value := self.known(step)) is not None:
            return Function(offset + value, columns, coefficients)
        needed, waiting = {step}, [step]
        while waiting:
            for one in self._nodes[waiting.pop()].arguments:
                if one not in needed:
                    needed.add(one)
                    waiting.append(one)
        order = sorted(needed)
        places = {one: place for place, one in enumerate(order)}
        steps = tuple(
            node._replace(arguments=tuple(places[one] for one in node.arguments))
            for node in (self._nodes[one] for one in order)
        )
        return Function(offset, columns, coefficients, steps)

    def _new(self, node: Node) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1
