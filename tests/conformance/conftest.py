"""The engines that one suite of promises runs over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from compute import ComputeManager, Config, load_config
from compute.backend import Backend
from compute.resources import Limits
from tests.dask_servers import DaskServers

WORKERS = 2
"""What each engine runs at once."""

TWO_NODES = "CONFORMANCE_OVER_TWO_RAY_NODES"
"""The environment variable that makes the Ray cluster one of two nodes: a process is connected to one cluster only."""

MakeManager = Callable[..., ComputeManager]


@pytest.fixture(scope="package")
def dask_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Backend]]:
    """A Dask scheduler and two workers of one thread each, all processes of their own."""
    import distributed

    from dask_bridge.backend import connect

    with DaskServers(tmp_path_factory.mktemp("dask")) as servers:
        servers.start_scheduler()
        for _ in range(WORKERS):
            servers.start_worker()
        with distributed.Client(servers.address, set_as_default=False) as client:

            def make() -> Backend:
                # The test before may have ended one, and its nanny takes a moment.
                client.wait_for_workers(WORKERS, timeout=90)
                return connect(load_config(), servers.address, "compute.dask_address")

            yield make


@pytest.fixture(scope="package")
def ray_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """The session's Ray cluster; of two nodes in the run that `test_two_ray_nodes` starts."""
    if TWO_NODES not in os.environ:
        request.getfixturevalue("ray_cluster")
        yield
        return
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, namespace="tests", log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="package", params=["local", "ray", pytest.param("dask_on_ray", marks=pytest.mark.slow), "dask"])
def engine(request: pytest.FixtureRequest) -> Iterator[Callable[[], Backend]]:
    """Make backends of one kind over one running engine.

    The bridge on Ray is the Ray backend under another name, with a setting of Dask's besides: all that is its own is
    tested in `tests/dask_bridge`, and this suite runs over it with what is slow.
    """
    if request.param == "local":
        from compute.local_backend import LocalBackend

        yield lambda: LocalBackend(WORKERS)
    elif request.param == "ray":
        request.getfixturevalue("ray_engine")
        from compute.ray_backend import RayBackend

        yield RayBackend
    elif request.param == "dask_on_ray":
        request.getfixturevalue("ray_engine")
        from dask_bridge.backend import connect

        yield lambda: connect(load_config(), None, "compute.dask_address")
    else:
        yield request.getfixturevalue("dask_engine")


@pytest.fixture(scope="package")
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
