"""Nonlinear programs as SCIP's expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyscipopt

from solver.optimization.nonlinear.function import Function
from solver.optimization.nonlinear.program import NonlinearProgram

_STEPS: Mapping[str, Callable[..., Any]] = {
    "+": lambda *a: pyscipopt.quicksum(a),
    "-": lambda a, b: a - b,
    "neg": lambda a: -a,
    "*": lambda *a: math.prod(a[1:], start=a[0]),
    "/": lambda a, b: a / b,
    "exp": pyscipopt.exp,
    "log": pyscipopt.log,
    "log10": lambda a: pyscipopt.log(a) / math.log(10),
    "sqrt": pyscipopt.sqrt,
    "sin": pyscipopt.sin,
    "cos": pyscipopt.cos,
    "tan": lambda a: pyscipopt.sin(a) / pyscipopt.cos(a),
    "sinh": lambda a: 0.5 * (pyscipopt.exp(a) - pyscipopt.exp(-1.0 * a)),
    "cosh": lambda a: 0.5 * (pyscipopt.exp(a) + pyscipopt.exp(-1.0 * a)),
    "tanh": lambda a: 1 - 2 / (pyscipopt.exp(2.0 * a) + 1),
    "abs": abs,
    "min": lambda *a: _extreme(a, -1.0),
    "max": lambda *a: _extreme(a, 1.0),
}
KNOWN = frozenset({*_STEPS, "**"})
"""The operations that SCIP has, or that can be made of those."""


def fill_nonlinear(model: Any, program: NonlinearProgram) -> list[Any]:
    """Give SCIP a program to be minimised; returns its variables."""
    variables = [
        model.addVar(
            f"x{number}",
            vtype="I" if whole else "C",
            lb=None if low == -np.inf else low,
            ub=None if high == np.inf else high,
        )
        for number, (whole, low, high) in enumerate(
            zip(program.integer.tolist(), program.lower.tolist(), program.upper.tolist(), strict=True)
        )
    ]
    for row, low, high in zip(program.rows, program.row_lower.tolist(), program.row_upper.tolist(), strict=True):
        left = _expression(row, variables)
        if low == high:
            model.addCons(left == low)
            continue
        if low > -np.inf:
            model.addCons(left >= low)
        if high < np.inf:
            model.addCons(left <= high)
    if program.objective.steps:
        # SCIP's objective is linear: a variable stands for it, and is at least that.
        value = model.addVar("objective", lb=None, ub=None, obj=1.0)
        model.addCons(_expression(program.objective, variables) - value <= 0)
    else:
        model.setObjective(_linear(program.objective, variables))
        model.addObjoffset(program.objective.offset)
    return variables


def _expression(function: Function, variables: list[Any]) -> Any:
    found: list[Any] = []
    for node in function.steps:
        if node.operation == "number":
            found.append(node.value)
        elif node.operation == "variable":
            found.append(variables[int(node.value)])
        elif node.operation == "**":
            base, exponent = (found[one] for one in node.arguments)
            if isinstance(exponent, float):
                found.append(base ** (int(exponent) if exponent.is_integer() else exponent))
            elif isinstance(base, float):
                found.append(pyscipopt.exp(math.log(base) * exponent))
            else:
                found.append(pyscipopt.exp(exponent * pyscipopt.log(base)))
        else:
            found.append(_STEPS[node.operation](*(found[one] for one in node.arguments)))
    # A constraint without variables is a comparison of numbers, which PySCIPOpt does not take.
    linear = _linear(function, variables) + function.offset + 0.0 * variables[0]
    return found[-1] + linear if found else linear


def _linear(function: Function, variables: list[Any]) -> Any:
    terms = zip(function.coefficients.tolist(), function.columns.tolist(), strict=True)
    return pyscipopt.quicksum(coefficient * variables[column] for coefficient, column in terms)


def _extreme(values: tuple[Any, ...], sign: float) -> Any:
    """Return the largest of them, or by the sign -1 the smallest: of two, half their sum and half their distance."""
    found = values[0]
    for value in values[1:]:
        found = 0.5 * (found + value) + 0.5 * sign * abs(found - value)
    return found
