"""Questions and their answers."""

from solver.queries import PredictionParameters, PredictionQuery, SolveRequest
from solver.service import SolverService, get_solver_service

__all__ = ["PredictionParameters", "PredictionQuery", "SolveRequest", "SolverService", "get_solver_service"]
