"""``compute.dask_address = "local"``: a Dask cluster of this process's own, which follows ``scaling``."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable

import psutil
import pytest

import dask_bridge
from compute import Config, load_config
from compute.config import ComputeSection, Scaling


def with_local(**sections: object) -> Config:
    section = ComputeSection(backend="dask", dask_address="local", local_workers=1)
    return load_config().model_copy(update={"compute": section, **sections})


Workers = Callable[[], set[int]]


def below() -> set[int]:
    """The processes below this one that are like workers; the scheduler lives in this process."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(process.cmdline()):
                found.add(process.pid)
    return found


@pytest.fixture
def workers() -> Workers:
    """The worker processes that were not there before the test: other clusters of the session have some, too."""
    before = below()
    return lambda: below() - before


def wait_for_none(workers: Workers, seconds: float) -> None:
    until = time.monotonic() + seconds
    while workers():
        assert time.monotonic() < until, f"{len(workers())} workers are still there"
        time.sleep(0.1)


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@pytest.mark.slow
def test_workers_come_and_go_with_the_load(caplog: pytest.LogCaptureFixture, workers: Workers) -> None:
    scaling = Scaling(min_workers=0, max_workers=2, target_utilization=1.0, scale_up_delay=0, scale_down_delay=1)
    with (
        caplog.at_level(logging.WARNING, logger="compute"),
        dask_bridge.get_compute_manager(config=with_local(scaling=scaling)) as manager,
    ):
        assert workers() == set()
        processes = manager.gather_results([manager.submit_task(nap, 0.5) for _ in range(12)], timeout=60)
        assert len(set(processes)) == 2
        wait_for_none(workers, 30)
        # And again, from nothing.
        assert manager.get_result(manager.submit_task(pow, 2, 3), timeout=30) == 8
    assert workers() == set()
    assert "scaling" not in caplog.text


def test_without_scaling_there_are_as_many_as_local_workers(workers: Workers) -> None:
    with dask_bridge.get_compute_manager(config=with_local()) as manager:
        assert manager.resources()["total"]["cpu"] == 1
        assert manager.get_result(manager.submit_task(nap, 0)) != os.getpid()
    assert workers() == set()
