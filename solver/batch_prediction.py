"""Answers queries of the type `batch_prediction`: all rows of a table, into a Parquet file.

What loads and runs models is imported inside the functions, and pandas with it.
"""

from __future__ import annotations

from typing import Any

from compute import Config
from registry import TaskContext, get_model_registry
from solver.job_queries import BatchPredictionParameters, BatchPredictionQuery

_WAITING_CPUS = 0.1


def prepare(query: BatchPredictionQuery, parameters: BatchPredictionParameters, config: Config) -> BatchPredictionQuery:  # noqa: ARG001
    """Pin the model, and see that the table is there; raises ModelNotFound, DataError."""
    record = get_model_registry(config).resolve(query.model)
    if isinstance(query.data, str):
        from jobs import open_table

        open_table(query.data, config)
    return query.model_copy(update={"model": record.model_id})


def needs(parameters: BatchPredictionParameters) -> dict[str, float] | None:
    """Return what a task takes of the cluster; None: as usual."""
    return {"cpu": _WAITING_CPUS} if parameters.distribute_data else None


def answer(query: BatchPredictionQuery, parameters: BatchPredictionParameters, context: TaskContext) -> dict[str, Any]:
    """Predict, and return what `jobs.predict_batch` does of a file."""
    import pandas as pd

    from jobs import predict_batch

    # One name for all runs of a task: a later run replaces what an earlier one left.
    default = f"{context.config.storage.data_uri.rstrip('/')}/predictions/{context.task_id or 'here'}.parquet"
    context.progress(0.1, "predicting")
    summary = predict_batch(
        query.model,
        pd.DataFrame.from_records(query.data) if isinstance(query.data, list) else query.data,
        parameters.batch_size,
        parameters.distribute_data,
        output=parameters.output or default,
        key_columns=query.key_columns,
        proba=parameters.probabilities,
        config=context.config,
    )
    assert isinstance(summary, dict)  # with an output it is one
    return summary
