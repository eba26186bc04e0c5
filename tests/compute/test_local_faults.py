"""What tasks on local processes survive."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from compute import ComputeManager, load_config
from compute.local_backend import LocalBackend
from tests.conformance import work

pytestmark = pytest.mark.slow  # hundreds of processes that end and are started again


def test_of_many_tasks_one_in_twenty_crashes_its_process(tmp_path: Path) -> None:
    count = 10_000

    with ComputeManager(LocalBackend(2), load_config()) as manager:
        task_ids = manager.submit_many(work.crash_one_in_twenty, ((tmp_path, number) for number in range(count)))
        assert manager.gather_results(task_ids, timeout=900) == list(range(count))
        for number, task_id in enumerate(task_ids):
            # Nobody but the one that crashed loses anything.
            assert manager.get_task_status(task_id).attempts == (2 if number % 20 == 0 else 1)


def test_a_task_that_prints_a_gigabyte(capfd: pytest.CaptureFixture[str]) -> None:
    def print_much() -> str:
        line = "x" * (2**20 - 1)
        for _ in range(1024):
            print(line)
        return "printed"

    with capfd.disabled(), ComputeManager(LocalBackend(1), load_config()) as manager:
        # To nowhere: what the worker prints goes where this process prints.
        saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        try:
            assert manager.get_result(manager.submit_task(print_much), timeout=120) == "printed"
        finally:
            os.dup2(saved, 1)
            os.close(saved)
            os.close(nowhere)


def test_a_cancelled_task_takes_those_it_submitted_with_it(tmp_path: Path) -> None:
    begun, outlived = tmp_path / "begun", tmp_path / "outlived"

    def child() -> None:
        begun.touch()
        work.nap(3.0)
        outlived.touch()

    def parent() -> None:
        with ComputeManager(LocalBackend(1), load_config()) as inner:
            inner.get_result(inner.submit_task(child))

    with ComputeManager(LocalBackend(1), load_config()) as manager:
        task_id = manager.submit_task(parent)
        work.wait_for(begun)
        assert manager.cancel_task(task_id)
        time.sleep(4)
        assert not outlived.exists()
