"""What goes between the process that asks for a solution and the one that solves."""

from __future__ import annotations

from typing import NamedTuple

from solver.optimization.engine import Options
from solver.optimization.model import Model
from solver.optimization.program import Floats

STOP = "stop"


class Job(NamedTuple):
    """What is to be solved, and by which engine."""

    program: Model
    """To be minimised."""
    engine: str
    options: Options
    memory: int | None = None
    """Bytes that the process may take, at most, beside the libraries that it begins with."""
    explain: bool = True
    """Whether to look for what makes an infeasible program so."""


class Incumbent(NamedTuple):
    """A better solution, as it is found."""

    seconds: float
    objective: float
    x: Floats
    bound: float | None
