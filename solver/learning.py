"""Answers queries of the types `training` and `tuning`.

What trains is imported inside the functions, and pandas with it.
"""

from __future__ import annotations

from typing import Any

from compute import Config
from registry import TaskContext, get_model_registry
from solver.job_queries import TrainingParameters, TrainingQuery, TuningParameters, TuningQuery

_WAITING_CPUS = 0.1
# Parameters that training and tuning take by the same names.
_AS_THEY_ARE = (
    "model_type", "model_params", "validation_fraction", "validation", "group_col", "time_col", "weight_col",
    "class_weight", "monotone_constraints", "task", "name", "tags", "seed", "drop_null_target",
)  # fmt: skip


class Training:
    """Queries of the type `training`."""

    @staticmethod
    def prepare(query: TrainingQuery, parameters: TrainingParameters, config: Config) -> TrainingQuery:
        """Check what can be checked before the data is read; raises InvalidField."""
        from jobs import find_family

        find_family(parameters.model_type)
        if isinstance(query.data, str):
            _open(query, parameters, config)
        return query

    @staticmethod
    def needs(parameters: TrainingParameters) -> dict[str, float] | None:
        """Return what a task takes of the cluster; None: as usual."""
        # What only waits for workers of its own leaves the CPUs to them.
        return {"cpu": _WAITING_CPUS} if parameters.distribute_data else None

    @staticmethod
    def answer(query: TrainingQuery, parameters: TrainingParameters, context: TaskContext) -> dict[str, Any]:
        """Train, and return what `jobs.train_model` does; a run that follows one that was cut off trains no second."""
        from jobs import train_model

        if (earlier := _trained_before(context)) is not None:
            return earlier
        context.progress(0.1, "training")
        return train_model(
            **_common(query, parameters, context),
            distribute_data=parameters.distribute_data,
            cross_validation=parameters.cross_validation,
            early_stopping=parameters.early_stopping,
            config=context.config,
        )


class Tuning:
    """Queries of the type `tuning`."""

    @staticmethod
    def prepare(query: TuningQuery, parameters: TuningParameters, config: Config) -> TuningQuery:
        """Check what can be checked before the data is read; raises InvalidField."""
        from jobs import find_family

        find_family(parameters.model_type)
        if isinstance(query.data, str):
            _open(query, parameters, config)
        return query

    @staticmethod
    def needs(parameters: TuningParameters) -> dict[str, float] | None:  # noqa: ARG004
        """Return what a task takes of the cluster: its trials are tasks of their own."""
        return {"cpu": _WAITING_CPUS}

    @staticmethod
    def answer(query: TuningQuery, parameters: TuningParameters, context: TaskContext) -> dict[str, Any]:
        """Tune, and return what `jobs.tune_model` does; a run that follows another goes on with its trials."""
        from jobs import tune_model

        if (earlier := _trained_before(context)) is not None:
            return earlier
        context.progress(0.1, f"searching, {parameters.trials} trials")
        return tune_model(
            **_common(query, parameters, context),
            search_space=parameters.search_space,
            trials=parameters.trials,
            metric=parameters.metric,
            folds=parameters.folds,
            timeout=parameters.time_limit,
            study=context.task_id or None,
            config=context.config,
        )


def _open(
    query: TrainingQuery | TuningQuery, parameters: TrainingParameters | TuningParameters, config: Config
) -> None:
    """See that the table is there, and has the columns that are named."""
    from jobs import open_table
    from jobs.columns import choose_features, require_columns

    table = open_table(query.data, config)
    choose_features(table.columns, query.target, query.features, query.exclude, table.source)
    for role in ("group", "time", "weight"):
        name = getattr(parameters, f"{role}_col")
        if name is not None:
            require_columns([name], table.columns, table.source, role)


def _common(
    query: TrainingQuery | TuningQuery, parameters: TrainingParameters | TuningParameters, context: TaskContext
) -> dict[str, Any]:
    import pandas as pd

    task = {"task_id": context.task_id} if context.task_id else {}
    return {
        "data": pd.DataFrame(query.data) if isinstance(query.data, list) else query.data,
        "target_col": query.target,
        "features": query.features,
        "exclude": query.exclude,
        **{name: getattr(parameters, name) for name in _AS_THEY_ARE},
        "metadata": {**(parameters.metadata or {}), **task},
    }


def _trained_before(context: TaskContext) -> dict[str, Any] | None:
    """Return what an earlier run of this task registered, as far as its record says."""
    if not context.task_id:
        return None
    found = get_model_registry(context.config).search_models(f'metadata.task_id = "{context.task_id}"', limit=1).models
    if not found:
        return None
    record = found[0]
    return {
        "model_id": record.model_id,
        "name": record.name,
        "version": record.version,
        "model_type": record.model_type,
        "metrics": record.metrics,
        "features": list(record.signature.feature_names) if record.signature is not None else [],
        "plan": {"mode": "single", "reason": "an earlier run of this task had trained the model"},
    }
