"""The task layer: submit work, get results; on a laptop, Ray or Dask."""

from compute.config import Config, load_config
from compute.states import TaskState

__all__ = ["Config", "TaskState", "load_config"]
