"""The task layer: submit work, get results; on a laptop, Ray or Dask."""

from compute.config import Config, load_config
from compute.states import TaskState
from compute.uris import check_uri

__all__ = ["Config", "TaskState", "check_uri", "load_config"]
