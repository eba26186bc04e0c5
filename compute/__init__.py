"""The task layer: submit work, get results; on a laptop, Ray or Dask.

The names below are imported when they are first used: a worker process that needs none of the configuration's
machinery starts in a third of the time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compute.apply import distributed_apply
    from compute.backend import Backend, Capabilities, Capacity
    from compute.config import Config, load_config
    from compute.connect import get_compute_manager
    from compute.manager import ComputeManager
    from compute.progress import Progress, report_progress
    from compute.progress_bar import gather_with_bar
    from compute.sequences import distributed_filter, distributed_map, distributed_reduce
    from compute.states import TaskState
    from compute.task import TaskId, TaskStatus
    from compute.uris import check_uri

__all__ = [
    "Backend",
    "Capabilities",
    "Capacity",
    "ComputeManager",
    "Config",
    "Progress",
    "TaskId",
    "TaskState",
    "TaskStatus",
    "check_uri",
    "distributed_apply",
    "distributed_filter",
    "distributed_map",
    "distributed_reduce",
    "gather_with_bar",
    "get_compute_manager",
    "load_config",
    "report_progress",
]

_HOMES = {
    "Backend": "backend",
    "Capabilities": "backend",
    "Capacity": "backend",
    "ComputeManager": "manager",
    "Config": "config",
    "Progress": "progress",
    "TaskId": "task",
    "TaskState": "states",
    "TaskStatus": "task",
    "check_uri": "uris",
    "distributed_apply": "apply",
    "distributed_filter": "sequences",
    "distributed_map": "sequences",
    "distributed_reduce": "sequences",
    "gather_with_bar": "progress_bar",
    "get_compute_manager": "connect",
    "load_config": "config",
    "report_progress": "progress",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'compute' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"compute.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
