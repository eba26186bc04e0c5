"""Trains the model that a prediction query asks for first: from a table, or from those entities that are labelled.

What trains is imported inside the functions, and pandas with it.
"""

from __future__ import annotations

import logging
from typing import Any

from compute.errors import InvalidField
from registry import TaskContext, get_model_registry
from solver.queries import DEFAULT_TARGET, PredictionParameters, PredictionQuery

logger = logging.getLogger(__name__)

DEFAULT_TYPE = "xgboost"


def trains(query: PredictionQuery) -> bool:
    """Whether a model is to be trained first.

    Examples
    --------
    >>> from solver.queries import parse
    >>> trains(parse({"type": "prediction", "entities": [{"x": 1, "target": 2.0}, {"x": 3}]})[0])
    True
    """
    if query.model_id is not None or query.model is not None:
        return False
    if query.training_data is not None or query.target is not None:
        return True
    return isinstance(query.entities, list) and any(row.get(DEFAULT_TARGET) is not None for row in query.entities)


def check_training(query: PredictionQuery, parameters: PredictionParameters) -> None:
    """Check what can be checked before the data is read; raises InvalidField."""
    from jobs import find_family

    find_family(parameters.model_type or DEFAULT_TYPE)
    if query.training_data is None:
        split(query)


def train(
    query: PredictionQuery, parameters: PredictionParameters, context: TaskContext
) -> tuple[PredictionQuery, dict[str, Any], list[int] | None]:
    """Train a model, unless an earlier run of the same task has.

    Returns
    -------
    query : PredictionQuery
        The same question to the trained model, of the entities that are left to predict.
    training : dict
        ``model_type``, ``metrics`` and ``features`` of the model, and the ``plan``.
    row_numbers : list of int or None
        Positions of the entities that are left, when they are not all.
    """
    data: Any = query.training_data
    entities: Any = query.entities
    rows: list[int] | None = None
    if data is None:
        data, entities, rows = split(query)
    model_id, training = _earlier(context) or _fit(data, query.target or DEFAULT_TARGET, parameters, context)
    changes = {"entities": entities, "model_id": model_id, "training_data": None, "target": None}
    return query.model_copy(update=changes), training, rows


def _fit(data: Any, target: str, parameters: PredictionParameters, context: TaskContext) -> tuple[str, dict[str, Any]]:
    import pandas as pd

    from jobs import train_model

    trained = train_model(
        pd.DataFrame(data) if isinstance(data, list) else data,
        target,
        features=parameters.features,
        model_type=parameters.model_type or DEFAULT_TYPE,
        model_params=parameters.model_params,
        validation_fraction=parameters.validation_fraction,
        distribute_data=parameters.distribute_data,
        name=parameters.name,
        metadata={"task_id": context.task_id} if context.task_id else None,
        seed=parameters.seed,
        config=context.config,
    )
    return trained["model_id"], {key: trained[key] for key in ("model_type", "metrics", "features", "plan")}


def _earlier(context: TaskContext) -> tuple[str, dict[str, Any]] | None:
    """Return what an earlier run of this task trained: a run that was cut off afterwards leaves its model."""
    if not context.task_id:
        return None
    found = get_model_registry(context.config).search_models(f'metadata.task_id = "{context.task_id}"', limit=1).models
    if not found:
        return None
    record = found[0]
    logger.info("task_id=%s model_id=%s event=training_found", context.task_id, record.model_id)
    return record.model_id, {
        "model_type": record.model_type,
        "metrics": record.metrics,
        "features": list(record.signature.feature_names) if record.signature is not None else [],
        "plan": {"mode": "single", "reason": "an earlier run of this task had trained the model"},
    }


def split(query: PredictionQuery) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[int]]:
    """Part entities into those that carry the target, and those to predict, with the positions of these."""
    target = query.target or DEFAULT_TARGET
    if isinstance(query.entities, str):
        raise InvalidField(
            "query_data.target is given, and entities is a URI: a table is either learnt from or predicted",
            hint="Name the labelled table as training_data.",
            context={"field": "query_data.training_data"},
        )
    labelled = [row for row in query.entities if row.get(target) is not None]
    rows = [index for index, row in enumerate(query.entities) if row.get(target) is None]
    if not labelled or not rows:
        what = "none carries" if not labelled else "each carries"
        todo = "to learn from" if not labelled else "to predict"
        raise InvalidField(
            f"of {len(query.entities)} entities {what} the target {target!r}: there is nothing {todo}",
            hint="Those that carry it are learnt from, the others are predicted; or give training_data, or a model.",
            context={"field": "query_data.entities", "target": target},
        )
    others = [{name: value for name, value in query.entities[index].items() if name != target} for index in rows]
    return labelled, others, rows
