"""Tasks that report, tasks that wait for others, and hearing of tasks as they end; over every engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compute import ComputeManager, TaskId, TaskState, report_progress
from compute.errors import DependencyFailed, InvalidField, ResultTimeout, TaskCancelled, TaskNotFound
from compute.progress import KEPT, LONGEST
from tests.conformance import work
from tests.conformance.test_promises import until

# Progress


def report_and_wait(go: Path) -> str:
    report_progress(0.25, "begun")
    report_progress(0.4, "fold 2 of 5")
    work.wait_for(go)
    report_progress(1.0)
    return "done"


def test_what_a_task_reports_is_seen_while_it_runs_and_after(manager: ComputeManager, tmp_path: Path) -> None:
    task_id = manager.submit_task(report_and_wait, tmp_path / "go")
    until(lambda: manager.get_task_status(task_id).progress == 0.4)
    status = manager.get_task_status(task_id)
    assert status.state is TaskState.RUNNING
    assert [message.message for message in status.messages] == ["begun", "fold 2 of 5"]
    assert all(abs(message.at - time.time()) < 60 for message in status.messages)
    (tmp_path / "go").touch()
    assert manager.get_result(task_id) == "done"
    status = manager.get_task_status(task_id)
    assert (status.progress, len(status.messages)) == (1.0, 3)


def test_the_latest_of_many_reports_are_kept_also_of_a_task_that_fails(manager: ComputeManager) -> None:
    def fail_in_the_end() -> None:
        for number in range(5_000):
            report_progress(number / 5_000, f"{number} " + "x" * LONGEST)
        raise ValueError("in the end")

    task_id = manager.submit_task(fail_in_the_end)
    with pytest.raises(ValueError, match="in the end"):
        manager.get_result(task_id)
    messages = manager.get_task_status(task_id).messages
    assert [message.fraction for message in messages] == [number / 5_000 for number in range(5_000 - KEPT, 5_000)]
    assert {len(message.message or "") for message in messages} == {LONGEST}


def test_reports_of_a_lost_worker_are_kept_and_the_next_attempt_begins_anew(
    manager: ComputeManager, tmp_path: Path
) -> None:
    def die_after_reporting(path: Path, go: Path) -> None:
        report_progress(0.5, "half")
        work.wait_for(go)
        work.die(path)

    task_id = manager.submit_task(die_after_reporting, tmp_path / "runs", tmp_path / "go", retries=0)
    until(lambda: manager.get_task_status(task_id).progress == 0.5)
    (tmp_path / "go").touch()
    until(lambda: manager.get_task_status(task_id).state is TaskState.FAILED, 60)
    assert manager.get_task_status(task_id).progress == 0.5


def test_a_fraction_beyond_bounds_is_refused_and_one_outside_of_a_task_goes_nowhere() -> None:
    report_progress(0.5, "nobody listens")
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidField, match="fraction"):
            report_progress(wrong)


# Dependencies


def test_a_task_id_as_an_argument_stands_for_the_result(manager: ComputeManager, tmp_path: Path) -> None:
    first = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go", 20)
    second = manager.submit_task(pow, first, 2)
    third = manager.submit_task(lambda a, b, plain: (a, b, plain), second, b=first, plain=str(first))
    assert manager.get_task_status(third).state is TaskState.PENDING
    (tmp_path / "go").touch()
    assert manager.get_result(third) == (400, 20, str(first))
    assert isinstance(third, TaskId)


def test_large_results_go_from_task_to_task_more_than_once(manager: ComputeManager) -> None:
    made = manager.submit_task(lambda: {"a": np.arange(400_000), "b": np.ones(20_000)})
    sums = [manager.submit_task(lambda d, n: int(d["a"].sum() + d["b"].sum() + n), made, n) for n in range(2)]
    expected = 400_000 * 399_999 // 2 + 20_000
    assert manager.gather_results(sums) == [expected, expected + 1]
    # Also of one that has ended long before, and has been fetched.
    assert manager.get_result(made)["b"].sum() == 20_000
    assert manager.get_result(manager.submit_task(lambda d: len(d["a"]), made)) == 400_000


def test_a_chain_fails_with_the_error_of_its_first_link(manager: ComputeManager, tmp_path: Path) -> None:
    first = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go")
    broken = manager.submit_task(lambda _: work.raise_precise(), first)
    last = broken
    for _ in range(200):
        last = manager.submit_task(abs, last)
    (tmp_path / "go").touch()
    with pytest.raises(DependencyFailed, match=str(broken)) as caught:
        manager.get_result(last)
    assert isinstance(caught.value.__cause__, work.Precise)
    assert caught.value.context["dependency"] == broken
    status = manager.get_task_status(last)
    assert (status.state, status.attempts) == (TaskState.FAILED, 0)


def test_a_dependent_of_a_cancelled_task_fails_and_one_that_waits_can_be_cancelled(
    manager: ComputeManager, tmp_path: Path
) -> None:
    first = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go")
    second, third = (manager.submit_task(abs, first) for _ in range(2))
    assert manager.cancel_task(third)
    with pytest.raises(TaskCancelled):
        manager.get_result(third)
    if manager.backend.capabilities.stops_running_tasks:
        assert manager.cancel_task(first)
        with pytest.raises(DependencyFailed) as caught:
            manager.get_result(second, timeout=20)
        assert isinstance(caught.value.__cause__, TaskCancelled)
    (tmp_path / "go").touch()


def test_an_id_of_nobody_is_refused_at_once(manager: ComputeManager) -> None:
    with pytest.raises(TaskNotFound):
        manager.submit_task(abs, TaskId("task-of-nobody"))


# As they end


def test_tasks_are_told_of_in_the_order_in_which_they_end(manager: ComputeManager, tmp_path: Path) -> None:
    # A test before ended a worker, and its successor may take long to come on a busy machine.
    until(lambda: manager.resources()["total"]["cpu"] >= 2, 90)
    slow = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go", "slow")
    failing = manager.submit_task(int, "no number")
    ended = manager.as_completed([slow, failing, slow])
    assert next(ended) == failing
    quick = manager.submit_task(abs, -1)
    assert list(manager.as_completed([quick])) == [quick]
    (tmp_path / "go").touch()
    assert list(ended) == [slow]
    assert list(manager.as_completed([slow, quick])) in ([slow, quick], [quick, slow])


def test_who_waits_for_completions_may_give_up(manager: ComputeManager, tmp_path: Path) -> None:
    slow = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go")
    with pytest.raises(ResultTimeout, match=str(slow)):
        list(manager.as_completed([slow], timeout=0.1))
    (tmp_path / "go").touch()
    assert manager.get_result(slow) is None


def test_results_can_be_awaited(manager: ComputeManager, tmp_path: Path) -> None:
    async def both() -> list[object]:
        large = manager.submit_task(lambda: np.arange(400_000))
        slow = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go", "slow")
        failing = manager.submit_task(work.raise_precise)
        with pytest.raises(ResultTimeout):
            await manager.get_result_async(slow, timeout=0.05)
        waiting = asyncio.gather(*map(manager.get_result_async, (large, slow, failing)), return_exceptions=True)
        ticks = 0
        while not waiting.done():
            # The loop is free while tasks run.
            ticks += 1
            if ticks == 5:
                (tmp_path / "go").touch()
            await asyncio.sleep(0.01)
        return list(await waiting)

    array, text, error = asyncio.run(both())
    assert isinstance(array, np.ndarray)
    assert array.sum() == 400_000 * 399_999 // 2
    assert text == "slow"
    assert isinstance(error, work.Precise)


def test_a_loop_that_is_closed_meanwhile_harms_nobody(
    make_manager: Callable[..., ComputeManager], tmp_path: Path
) -> None:
    manager = make_manager()
    slow = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go", "slow")

    async def give_up() -> None:
        waiting = asyncio.ensure_future(manager.get_result_async(slow))
        await asyncio.sleep(0.01)
        waiting.cancel()

    asyncio.run(give_up())
    (tmp_path / "go").touch()
    assert manager.get_result(slow) == "slow"
