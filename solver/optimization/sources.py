"""The program in a question's JSON, by the form in which it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from solver.optimization.arrays import read_arrays
from solver.optimization.constraints.read import read_constraints
from solver.optimization.model import Model
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.nonlinear.read import read_written


def read_source(question: Mapping[str, Any]) -> Model:
    """Return the program of a question: of its `expressions`, its `constraints`, or its `model`.

    Raises
    ------
    InvalidField
        Naming the field, and what is wrong with it.

    Examples
    --------
    >>> read_source({"expressions": {"variables": {"x": {"lower": 1}}, "minimize": "x"}}).kind
    'LP'
    """
    if question.get("expressions") is not None:
        program = read_written(question["expressions"])
        start = question.get("start")
        if start and isinstance(program, NonlinearProgram):
            return replace(program, start=np.array([start.get(name, np.nan) for name in program.variables], np.float64))
        return program
    if question.get("constraints") is not None:
        return read_constraints(question["constraints"])
    return read_arrays(question["model"])
