"""The engines that one suite of promises runs over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from compute import ComputeManager, Config, load_config
from compute.backend import Backend
from compute.resources import Limits

WORKERS = 2
"""What each engine runs at once."""

MakeManager = Callable[..., ComputeManager]


@pytest.fixture(scope="session")
def dask_cluster() -> Iterator[str]:
    """A Dask scheduler and two worker processes of one thread each. Gives its address."""
    import dask
    import distributed

    # A lost worker is heard of at once: by default Dask itself tries three times more.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1"
        ) as cluster,
    ):
        yield cluster.scheduler_address


@pytest.fixture(scope="session", params=["local", "ray", "dask"])
def engine(request: pytest.FixtureRequest) -> Iterator[Callable[[], Backend]]:
    """Make backends of one kind over one running engine."""
    if request.param == "local":
        from compute.local_backend import LocalBackend

        yield lambda: LocalBackend(WORKERS)
    elif request.param == "ray":
        request.getfixturevalue("ray_cluster")
        from compute.ray_backend import RayBackend

        yield RayBackend
    else:
        address = request.getfixturevalue("dask_cluster")
        from dask_bridge.backend import connect

        yield lambda: connect(load_config(), address, "compute.dask_address")


@pytest.fixture(scope="session")
def shared(engine: Callable[[], Backend]) -> Iterator[ComputeManager]:
    """One manager for the tests that do not count anything."""
    with ComputeManager(engine(), config_with()) as manager:
        # Workers are up, and have imported what they need.
        manager.gather_results([manager.submit_task(os.getpid) for _ in range(WORKERS)])
        yield manager


@pytest.fixture
def manager(shared: ComputeManager) -> ComputeManager:
    """The shared manager."""
    return shared


@pytest.fixture
def make_manager(engine: Callable[[], Backend]) -> Iterator[MakeManager]:
    """Make managers with limits or a configuration of their own over the same engine."""
    made: list[ComputeManager] = []

    def make(limits: Limits | None = None, **sections: object) -> ComputeManager:
        made.append(ComputeManager(engine(), config_with(**sections), limits=limits or Limits()))
        return made[-1]

    yield make
    for one in made:
        one.shutdown()


def config_with(**sections: object) -> Config:
    """The default configuration with some sections replaced."""
    return load_config().model_copy(update=sections)
