"""Dask-on-Ray: no Dask cluster is there, so tasks are Ray tasks, and Dask's collections are computed by Ray.

Dask and Ray are imported inside the functions.
"""

from __future__ import annotations

from typing import Any

from compute.config import Config
from compute.ray_backend import RayBackend
from compute.ray_connection import Connection, connect


def connect_on_ray(config: Config) -> DaskOnRayBackend:
    """Connect to the Ray cluster that the configuration names, or that runs here, or is started here."""
    return DaskOnRayBackend(connect(config, config.compute.ray_address, "compute.ray_address"))


class DaskOnRayBackend(RayBackend):
    """The Ray backend; while it is open, `compute()` of a Dask collection in this process runs on the same cluster.

    Parameters
    ----------
    connection : Connection, optional
        As for `RayBackend`.
    """

    name = "dask"

    def __init__(self, connection: Connection | None = None) -> None:
        import dask
        from ray.util.dask import ray_dask_get

        super().__init__(connection)
        # What ray.util.dask.enable_dask_on_ray sets, less its own shuffle: Dask has replaced the one it optimises.
        self._setting: Any = dask.config.set(scheduler=ray_dask_get)

    def close(self) -> None:
        """Give Dask its former scheduler back, and disconnect if this backend connected."""
        self._setting.__exit__(None, None, None)
        super().close()
