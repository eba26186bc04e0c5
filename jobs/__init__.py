"""Work on data: train, tune, predict, evaluate.

The names load on first use: importing the package costs nothing, and ``python -m jobs.train`` finds its module
not imported yet, as `runpy` wants it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.bodies import BodyFormat, read_body, write_body
    from jobs.compare import compare_models
    from jobs.dask_scoring import evaluate_lazily, predict_lazily
    from jobs.dask_table import DaskTable
    from jobs.drift import measure_drift
    from jobs.evaluate import evaluate_model
    from jobs.families import find_family
    from jobs.importance import feature_importance
    from jobs.ml_tasks import MLTasks, get_ml_tasks
    from jobs.parallel import Training, parallel_model_inference, parallel_model_training
    from jobs.predict import predict_batch
    from jobs.rejects import BadRows
    from jobs.tables import open_table
    from jobs.train import train_model
    from jobs.tune import tune_model

__all__ = [
    "BadRows",
    "BodyFormat",
    "DaskTable",
    "MLTasks",
    "Training",
    "compare_models",
    "evaluate_lazily",
    "evaluate_model",
    "feature_importance",
    "find_family",
    "get_ml_tasks",
    "measure_drift",
    "open_table",
    "parallel_model_inference",
    "parallel_model_training",
    "predict_batch",
    "predict_lazily",
    "read_body",
    "train_model",
    "tune_model",
    "write_body",
]

_HOMES = {
    "BadRows": "jobs.rejects",
    "BodyFormat": "jobs.bodies",
    "read_body": "jobs.bodies",
    "write_body": "jobs.bodies",
    "DaskTable": "jobs.dask_table",
    "evaluate_lazily": "jobs.dask_scoring",
    "predict_lazily": "jobs.dask_scoring",
    "MLTasks": "jobs.ml_tasks",
    "Training": "jobs.parallel",
    "compare_models": "jobs.compare",
    "evaluate_model": "jobs.evaluate",
    "feature_importance": "jobs.importance",
    "measure_drift": "jobs.drift",
    "find_family": "jobs.families",
    "get_ml_tasks": "jobs.ml_tasks",
    "open_table": "jobs.tables",
    "parallel_model_inference": "jobs.parallel",
    "parallel_model_training": "jobs.parallel",
    "predict_batch": "jobs.predict",
    "train_model": "jobs.train",
    "tune_model": "jobs.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
