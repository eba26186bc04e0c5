"""A Dask cluster of processes on this machine, that grows and shrinks by the section ``scaling``.

Dask is imported with this module: only who starts a cluster imports it.
"""

from __future__ import annotations

import time
from typing import Any

import distributed
from distributed.deploy.adaptive import Adaptive

from compute import Config
from compute.autoscale import Autoscale
from compute.config import Scaling

_LOOK = "1s"


def start_cluster(config: Config) -> distributed.LocalCluster:
    """Start a scheduler and workers of one thread each; the caller closes the cluster.

    Parameters
    ----------
    config : Config
        ``scaling`` says how many workers there are; without it there are ``compute.local_workers``.
    """
    scaling = config.scaling
    make: Any = distributed.LocalCluster
    cluster: distributed.LocalCluster = make(
        n_workers=config.compute.local_workers if scaling is None else scaling.min_workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=":0" if config.monitoring.dashboard.dask else None,
    )
    if scaling is not None:
        cluster.adapt(
            Adaptive=Follower, minimum=scaling.min_workers, maximum=scaling.max_workers, interval=_LOOK, scaling=scaling
        )
    return cluster


class Follower(Adaptive):
    """Sets the number of workers as `compute.autoscale.Autoscale` does for local processes.

    Dask's own rule knows neither a target utilisation nor a delay before growing.

    Parameters
    ----------
    cluster : distributed.LocalCluster
        Its scheduler runs in this process.
    scaling : Scaling
        The section of the configuration.
    **options
        As for Dask's class.
    """

    def __init__(self, cluster: distributed.LocalCluster, *, scaling: Scaling, **options: Any) -> None:
        # Once: the delay before shrinking has passed when fewer are asked for.
        super().__init__(cluster, wait_count=1, **options)
        self._local: Any = cluster
        self._scale = Autoscale(scaling, scaling.min_workers)

    async def target(self) -> int:
        """Look at the scheduler, and return how many workers there should be."""
        scheduler = self._local.scheduler
        given = sum(len(worker.processing) for worker in scheduler.workers.values())
        return self._scale.observe(time.monotonic(), given, len(scheduler.queued) + len(scheduler.unrunnable))
