"""A Dask cluster of processes for the tests of models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dask_servers import DaskServers


@pytest.fixture(scope="package")
def dask_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler and two workers, all processes of their own. Gives its address."""
    import distributed

    with DaskServers(tmp_path_factory.mktemp("dask")) as servers:
        servers.start_scheduler()
        for _ in range(2):
            servers.start_worker()
        with distributed.Client(servers.address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=90)
        yield servers.address
