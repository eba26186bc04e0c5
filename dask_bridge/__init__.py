"""The same interface on Dask: on Ray's cluster by default, on a Dask cluster when an address is given."""

from __future__ import annotations

from compute import ComputeManager, TaskState
from dask_bridge.face import (
    distributed_apply,
    distributed_filter,
    distributed_map,
    distributed_reduce,
    distributed_transform,
    get_compute_manager,
)
from dask_bridge.ml_tasks import MLTasks, get_ml_tasks
from jobs import parallel_model_inference, parallel_model_training
from registry import get_model_registry

__all__ = [
    "ComputeManager",
    "MLTasks",
    "TaskState",
    "distributed_apply",
    "distributed_filter",
    "distributed_map",
    "distributed_reduce",
    "distributed_transform",
    "get_compute_manager",
    "get_ml_tasks",
    "get_model_registry",
    "parallel_model_inference",
    "parallel_model_training",
]
