"""Runs accepted tasks: what the task registry calls in a worker, by the reference ``solver.execute:run``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry import TaskContext
from solver import batch_prediction, decision, prediction, simulation, sweep
from solver.learning import Training, Tuning
from solver.optimization import answer as optimization
from solver.queries import Parameters, Query, parse

ENTRY = "solver.execute:run"

TYPES: Mapping[str, Any] = {
    "prediction": prediction,
    "training": Training,
    "tuning": Tuning,
    "batch_prediction": batch_prediction,
    "optimization": optimization,
    "simulation": simulation,
    "sweep": sweep,
    "decision": decision,
}
"""What answers each type of question: modules or classes with `prepare`, `needs` and `answer`."""


def run(payload: dict[str, Any], context: TaskContext) -> dict[str, Any]:
    """Answer an accepted question.

    Parameters
    ----------
    payload : dict
        ``{"query_data": ..., "parameters": ...}`` as `pack` made it.
    context : TaskContext
        The task's id, the configuration, and where to report progress.

    Returns
    -------
    dict
        The answer, in JSON's values.
    """
    query, parameters = parse(payload["query_data"], payload["parameters"])
    result: dict[str, Any] = TYPES[query.type].answer(query, parameters, context)
    return result


def pack(query: Query, parameters: Parameters) -> dict[str, Any]:
    """Give a question the form in which it is kept.

    Examples
    --------
    >>> pack(*parse({"type": "prediction", "model": "m", "entities": [{"x": 1}]}))["query_data"]
    {'type': 'prediction', 'entities': [{'x': 1}], 'model': 'm'}
    """
    return {
        "query_data": query.model_dump(exclude_none=True),
        "parameters": parameters.model_dump(exclude_defaults=True),
    }
