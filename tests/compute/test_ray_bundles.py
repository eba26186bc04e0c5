"""Short tasks that go to a Ray worker together: each has its own answer, and a worker that is lost costs little."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compute import ComputeManager, Config
from compute.backend import Attempt
from compute.errors import WorkerLost
from compute.ray_backend import RayBackend


class Counting(RayBackend):
    """The backend, and how many attempts went along with others."""

    def __init__(self) -> None:
        super().__init__()
        self.together = 0

    def start(self, attempt: Attempt) -> None:
        self.together += len(attempt.followers)
        super().start(attempt)


@pytest.fixture
def backend(ray_cluster: str) -> Counting:
    return Counting()


@pytest.fixture
def manager(backend: Counting, config: Config) -> Iterator[ComputeManager]:
    with ComputeManager(backend, config) as manager:
        yield manager


def answer(number: int, runs: Path | None = None) -> Any:
    """Return something small, mostly."""
    import ray

    if runs is not None:
        with (runs / str(number)).open("a") as file:
            file.write(".")
    if runs is not None and number == 120 and len((runs / "120").read_text()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number % 50 == 13:
        return np.full(300_000, number)
    if number % 50 == 27:
        return ray.put(number)
    if number % 50 == 31:
        raise KeyError(number)
    if number % 50 == 44:
        return (item for item in ())
    return number


def known(manager: ComputeManager, *args: Any) -> None:
    """Have it known that the function is short."""
    manager.gather_results([manager.submit_task(answer, 0, *args) for _ in range(20)], timeout=60)


def test_each_has_its_own_answer(manager: ComputeManager, backend: Counting) -> None:
    import ray

    known(manager)
    task_ids = [manager.submit_task(answer, number) for number in range(1, 401)]
    got = dict(enumerate(manager.gather_results(task_ids, timeout=120, return_exceptions=True), 1))
    assert backend.together > 0
    for number, value in got.items():
        match number % 50:
            case 13:
                assert np.array_equal(value, np.full(300_000, number))
            case 27:
                assert ray.get(value) == number
            case 31:
                assert (type(value), value.args) == (KeyError, (number,))
            case 44:
                assert "generator" in str(value)
            case _:
                assert value == number
    assert {manager.get_task_status(task_id).attempts for task_id in task_ids} == {1}


def test_a_lost_worker_costs_its_tasks_an_attempt_once(
    manager: ComputeManager, backend: Counting, tmp_path: Path
) -> None:
    known(manager, tmp_path)
    numbers = [number for number in range(1, 301) if number % 50 not in (13, 27, 31, 44)]
    task_ids = {number: manager.submit_task(answer, number, tmp_path) for number in numbers}
    assert manager.gather_results(list(task_ids.values()), timeout=120) == numbers
    repeated = 0
    for number, task_id in task_ids.items():
        status = manager.get_task_status(task_id)
        assert status.attempts == len(status.reasons) + 1 <= 2
        assert len((tmp_path / str(number)).read_text()) <= status.attempts
        repeated += status.attempts - 1
    # Those of one bundle, and what was with the worker when it went.
    assert 1 <= repeated <= 100
    assert manager.get_task_status(task_ids[120]).attempts == 2
    # From now on, each goes alone.
    backend.together = 0
    manager.gather_results([manager.submit_task(answer, number) for number in range(1, 11)], timeout=60)
    assert backend.together == 0


def test_without_retries_each_goes_alone(manager: ComputeManager, backend: Counting, tmp_path: Path) -> None:
    known(manager, tmp_path)
    backend.together = 0
    numbers = [number for number in range(100, 141) if number % 50 not in (13, 27, 31, 44)]
    task_ids = {number: manager.submit_task(answer, number, tmp_path, retries=0) for number in numbers}
    with pytest.raises(WorkerLost):
        manager.get_result(task_ids.pop(120), timeout=60)
    assert manager.gather_results(list(task_ids.values()), timeout=60) == list(task_ids)
    assert backend.together == 0


def slow_once(number: int, slow: int) -> int:
    if number == slow:
        time.sleep(600)
    return number


def test_one_that_hangs_is_cancelled_alone(manager: ComputeManager, backend: Counting) -> None:
    manager.gather_results([manager.submit_task(slow_once, number, -1) for number in range(20)], timeout=60)
    task_ids = [manager.submit_task(slow_once, number, 60) for number in range(200)]
    others = task_ids[:60] + task_ids[61:]
    assert manager.gather_results(others, timeout=60) == [number for number in range(200) if number != 60]
    assert backend.together > 0
    began = time.monotonic()
    assert manager.cancel_task(task_ids[60])
    blockers = [manager.submit_task(time.sleep, 0.3) for _ in range(4)]
    manager.gather_results(blockers, timeout=30)
    assert time.monotonic() - began < 20
    assert {manager.get_task_status(task_id).attempts for task_id in others} == {1}


def test_one_that_is_late_times_out_alone(manager: ComputeManager) -> None:
    manager.gather_results([manager.submit_task(slow_once, number, -1) for number in range(20)], timeout=60)
    task_ids = [manager.submit_task(slow_once, number, 30, timeout=2.0) for number in range(60)]
    got = manager.gather_results(task_ids, timeout=60, return_exceptions=True)
    assert got[:30] + got[31:] == [*range(30), *range(31, 60)]
    assert getattr(got[30], "code", "") == "task-timed-out"


def test_map_goes_further_ahead_of_short_tasks(manager: ComputeManager) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(5_000):
            taken += 1
            yield number

    results = manager.map(abs, items())
    for number in range(3_000):
        assert next(results) == number
        assert taken <= number + 1 + 8 * 64 + 1
    assert taken > 3_000 + 64
    results = manager.map(abs, range(5_000), window=10)
    assert [next(results) for _ in range(100)] == list(range(100))
