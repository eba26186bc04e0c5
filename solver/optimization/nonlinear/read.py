"""Expressions with functions and products: what is no linear or quadratic program is read as a nonlinear one."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from compute.errors import InvalidField
from solver.optimization.expressions import (
    CONSTANTS,
    MAX_DEPTH,
    Header,
    Reader,
    read_expressions,
    read_header,
)
from solver.optimization.nonlinear.function import OPERATIONS, Function, Graph
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.program import Program

_FUNCTIONS = tuple(name for name in OPERATIONS if name.isalnum() and name != "neg")
_BINARY: Mapping[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Pow: "**",
}


def read_written(model: Mapping[str, Any]) -> Program | NonlinearProgram:
    """Return the program that expressions describe: of arrays, if it is linear or quadratic.

    Parameters
    ----------
    model : mapping
        As `read_expressions` takes it; expressions may also have any powers, quotients, and functions.

    Raises
    ------
    InvalidField
        Naming the expression, the position in it, and what was expected there.

    Examples
    --------
    >>> program = read_written({
    ...     "variables": {"x": {"lower": 0.1, "upper": 4}, "y": {}},
    ...     "minimize": "exp(x) + y**4", "subject_to": ["x*y >= 1"],
    ... })
    >>> program.kind, sorted(program.operations), program.rows[0].value(np.array([2.0, 3.0]))
    ('NLP', ['*', '**', '+', 'exp'], 6.0)
    """
    try:
        return read_expressions(model)
    except InvalidField as error:
        if not error.context.get("nonlinear"):
            raise
        return _nonlinear(read_header(model))


def _nonlinear(header: Header) -> NonlinearProgram:
    graph = Graph()
    variables = {name: graph.variable(column) for column, name in enumerate(header.places)}
    zero = graph.function(None)
    objective = zero
    if header.goal is not None:
        objective = _Functions(header.goal, f"expressions.{header.direction}", variables, graph).function()
    rows = [_Functions(text, path, variables, graph).row() for _, text, path in header.rows]
    return NonlinearProgram(
        objective,
        tuple(function for function, _, _ in rows),
        np.array([low for _, low, _ in rows], np.float64),
        np.array([high for _, _, high in rows], np.float64),
        header.lower,
        header.upper,
        header.integer,
        tuple(header.places),
        tuple(name for name, _, _ in header.rows),
        maximize=header.direction == "maximize",
        name=header.name,
    )


class _Functions(Reader):
    """Reads an expression into the steps of a function."""

    def __init__(self, text: object, path: str, variables: Mapping[str, int], graph: Graph) -> None:
        super().__init__(text, path, variables)
        self._variables, self._graph = variables, graph

    def function(self) -> Function:
        """Return an objective."""
        return self._graph.function(self._step(self._tree, 0))

    def row(self) -> tuple[Function, float, float]:
        """Return a constraint: its left side, and what it is between."""
        tree = self.compared()
        steps = [self._step(side, 0) for side in (tree.left, *tree.comparators)]
        if len(steps) == 2:
            low, high = self.ends(tree)
            known = self._graph.known(steps[1])
            if known is not None:
                return self._graph.function(steps[0]), low + known, high + known
            return self._graph.function(self._graph.add("-", *steps)), low, high
        first, second = self._graph.known(steps[0]), self._graph.known(steps[2])
        return self._graph.function(steps[1]), *self.between(tree, first, second)

    def _step(self, node: ast.AST, depth: int) -> int:
        if depth > MAX_DEPTH:
            self.wrong(node, f"no more than {MAX_DEPTH} levels")
        if isinstance(node, ast.Constant):
            return self._graph.number(self.number(node))
        if isinstance(node, ast.Name):
            if node.id in CONSTANTS and node.id not in self._variables:
                return self._graph.number(CONSTANTS[node.id])
            self._variable(node, node.id)
            return self._variables[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
            inner = self._step(node.operand, depth + 1)
            return inner if isinstance(node.op, ast.UAdd) else self._made(node, "neg", inner)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            return self._sum(node, depth)
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            left, right = self._step(node.left, depth + 1), self._step(node.right, depth + 1)
            return self._made(node, _BINARY[type(node.op)], left, right)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            several = node.func.id in ("min", "max")
            if node.keywords or not (len(node.args) == 1 or (several and node.args)):
                self.wrong(node, f"{'arguments' if several else 'one argument'} in parentheses")
            return self._made(node, node.func.id, *(self._step(one, depth + 1) for one in node.args))
        return self.wrong(node, f"numbers, variables, + - * / ** and the functions {', '.join(_FUNCTIONS)}")

    def _sum(self, node: ast.AST, depth: int) -> int:
        """Return a sum; one of many terms nests to the left, as deep as it is long."""
        parts = []
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            right = self._step(node.right, depth + 1)
            parts.append(right if isinstance(node.op, ast.Add) else self._graph.add("neg", right))
            node = node.left
        parts.append(self._step(node, depth + 1))
        return self._made(node, "+", *reversed(parts))

    def _made(self, node: ast.AST, operation: str, *arguments: int) -> int:
        step = self._graph.add(operation, *arguments)
        if (value := self._graph.known(step)) is not None and not math.isfinite(value):
            self.wrong(node, "numbers that give a number below 1e308")
        return step
