"""Questions and their answers.

The names below are imported when they are first used: the process that solves a program needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solver.queries import PredictionParameters, PredictionQuery, SolveRequest
    from solver.service import SolverService, get_solver_service

__all__ = ["PredictionParameters", "PredictionQuery", "SolveRequest", "SolverService", "get_solver_service"]

_HOMES = {"SolverService": "service", "get_solver_service": "service"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'solver' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"solver.{_HOMES.get(name, 'queries')}"), name)
    globals()[name] = value
    return value
