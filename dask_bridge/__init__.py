"""The same interface on Dask: on Ray's cluster by default, on a Dask cluster when an address is given."""

from __future__ import annotations

from compute import ComputeManager, TaskState
from dask_bridge.face import (
    distributed_apply,
    distributed_filter,
    distributed_map,
    distributed_reduce,
    get_compute_manager,
)

__all__ = [
    "ComputeManager",
    "TaskState",
    "distributed_apply",
    "distributed_filter",
    "distributed_map",
    "distributed_reduce",
    "get_compute_manager",
]
