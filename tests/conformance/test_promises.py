"""What every engine promises; the same tests over all of them."""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compute import ComputeManager, TaskState
from compute.config import TaskDefaults
from compute.errors import (
    CapabilityMissing,
    ConfigurationError,
    InvalidField,
    NotSerializable,
    RemoteCause,
    ResourcesUnavailable,
    ResultTimeout,
    TaskCancelled,
    TaskExists,
    TaskFailed,
    TaskNotFound,
    TaskTimeout,
    WorkerLost,
)
from compute.resources import Limits
from tests.conformance import work

Make = Callable[..., ComputeManager]


def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def stops(manager: ComputeManager) -> bool:
    return manager.backend.capabilities.stops_running_tasks


# Results


def test_a_result_comes_back(manager: ComputeManager) -> None:
    assert manager.get_result(manager.submit_task(int, "ff", base=16)) == 255


def test_results_are_gathered_in_order(manager: ComputeManager) -> None:
    task_ids = [manager.submit_task(pow, number, 2) for number in range(50)]
    assert manager.gather_results(task_ids) == [number**2 for number in range(50)]


def test_a_closure_and_its_class_travel_by_value(manager: ComputeManager) -> None:
    offset = 40

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    back = manager.get_result(manager.submit_task(lambda point: Point(point.x + offset), Point(2)))
    assert isinstance(back, Point)
    assert back.x == 42


def test_the_arguments_are_as_they_were_at_submission(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(Limits(cpu=1))
    blocker = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go")
    small, large = [1], np.ones(100_000)
    task_id = manager.submit_task(lambda a, b: (a, float(b.sum())), small, large)
    small.append(2)
    large[:] = 0
    (tmp_path / "go").touch()
    assert manager.get_result(task_id) == ([1], 100_000.0)
    manager.get_result(blocker)


def test_a_captured_variable_is_as_it_is_at_submission(manager: ComputeManager) -> None:
    held, number = [1], 1

    def read() -> tuple[list[int], int]:
        return list(held), number

    assert manager.get_result(manager.submit_task(read)) == ([1], 1)
    held.append(2)
    number = 2
    assert manager.get_result(manager.submit_task(read)) == ([1, 2], 2)


def test_a_large_result_comes_back_more_than_once(manager: ComputeManager) -> None:
    task_id = manager.submit_task(lambda: {"a": np.arange(400_000), "b": "x" * 2_000_000})
    for _ in range(2):
        back = manager.get_result(task_id)
        assert back["a"].sum() == np.arange(400_000).sum()
        assert len(back["b"]) == 2_000_000


def test_what_was_put_is_given_to_any_number_of_tasks(manager: ComputeManager) -> None:
    handle = manager.put(np.arange(200_000))
    task_ids = [manager.submit_task(lambda a, n: int(a[n]), handle, n=n) for n in (1, 10, 100)]
    assert manager.gather_results(task_ids) == [1, 10, 100]


# Failures


def test_an_exception_keeps_type_attributes_cause_notes_and_traceback(manager: ComputeManager) -> None:
    task_id = manager.submit_task(work.raise_precise)
    with pytest.raises(work.Precise, match=r"7 at here") as caught:
        manager.get_result(task_id)
    error = caught.value
    assert (error.code, error.where, error.detail) == (7, "here", {"row": 3})
    assert isinstance(error.__cause__, KeyError)
    notes = "\n".join(error.__notes__)
    assert "a note of its own" in notes
    assert "in raise_precise" in notes
    assert "work.py" in notes
    status = manager.get_task_status(task_id)
    assert status.state is TaskState.FAILED
    assert status.error is not None
    assert "Precise" in status.error["detail"]


def test_our_own_errors_keep_their_context(manager: ComputeManager) -> None:
    def refuse() -> None:
        raise ConfigurationError("a key is wrong", hint="Right it.", context={"key": "x"})

    with pytest.raises(ConfigurationError) as caught:
        manager.get_result(manager.submit_task(refuse))
    assert (caught.value.hint, caught.value.context) == ("Right it.", {"key": "x"})


def test_an_exception_that_cannot_be_pickled_comes_as_text(manager: ComputeManager) -> None:
    with pytest.raises(TaskFailed, match=r"Unsendable: it holds a lock") as caught:
        manager.get_result(manager.submit_task(work.raise_unsendable))
    assert "in raise_unsendable" in "\n".join(caught.value.__notes__)


def test_a_cause_that_cannot_be_pickled_comes_as_text(manager: ComputeManager) -> None:
    with pytest.raises(work.Precise, match=r"8 at there") as caught:
        manager.get_result(manager.submit_task(work.raise_from_unsendable))
    assert isinstance(caught.value.__cause__, RemoteCause)
    assert "in raise_unsendable" in str(caught.value.__cause__)


def test_a_task_that_exits_does_not_take_the_caller_with_it(manager: ComputeManager) -> None:
    with pytest.raises(TaskFailed, match=r"SystemExit"):
        manager.get_result(manager.submit_task(work.exit_quietly))


def test_a_result_that_cannot_be_pickled_is_named(manager: ComputeManager) -> None:
    with pytest.raises(NotSerializable, match=r"return_generator.*generator"):
        manager.get_result(manager.submit_task(work.return_generator))


LOCK = threading.Lock()


def test_what_cannot_be_sent_is_named_when_it_is_submitted(manager: ComputeManager) -> None:
    lock = threading.Lock()

    def inner() -> object:
        return lock

    with pytest.raises(NotSerializable, match=r"closure variable 'lock' is a _thread.lock"):
        manager.submit_task(lambda: lock)
    with pytest.raises(NotSerializable, match=r"'lock' through inner is a _thread.lock"):
        manager.submit_task(lambda: inner())
    with pytest.raises(NotSerializable, match=r"default variable 'held' is a _thread.lock"):
        manager.submit_task(lambda held=lock: held)
    with pytest.raises(NotSerializable, match=r"argument variable '0' is a _thread.lock"):
        manager.submit_task(functools.partial(pow, lock))
    with pytest.raises(NotSerializable, match=r"argument 2, a _thread.lock"):
        manager.submit_task(pow, 1, lock)
    with pytest.raises(NotSerializable, match=r"the argument 'base', a list"):
        manager.submit_task(int, "1", base=[lock])
    with pytest.raises(NotSerializable, match=r"'manager' is a compute.manager.ComputeManager"):
        manager.submit_task(lambda: manager)
    script = {"LOCK": lock, "__name__": "__main__"}
    exec("def use():\n    return LOCK", script)
    with pytest.raises(NotSerializable, match=r"global variable 'LOCK' is a _thread.lock"):
        manager.submit_task(script["use"])  # type: ignore[arg-type]


def test_an_exception_is_not_retried_by_itself(manager: ComputeManager, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"always"):
        manager.get_result(manager.submit_task(work.fail, tmp_path / "runs", retries=3))
    assert work.count(tmp_path / "runs") == 1


def test_an_exception_is_retried_when_it_is_named(manager: ComputeManager, tmp_path: Path) -> None:
    task_id = manager.submit_task(work.fail_twice, tmp_path / "a", retries=3, retry_exceptions=OSError)
    assert manager.get_result(task_id) == "third"
    status = manager.get_task_status(task_id)
    assert (status.attempts, len(status.reasons), work.count(tmp_path / "a")) == (3, 2, 3)
    # As often as was said, and then the exception itself.
    task_id = manager.submit_task(work.fail_twice, tmp_path / "b", retries=1, retry_exceptions=(OSError, KeyError))
    with pytest.raises(ConnectionError):
        manager.get_result(task_id)
    assert work.count(tmp_path / "b") == 2


def test_a_lost_worker_is_made_up_for(manager: ComputeManager, tmp_path: Path) -> None:
    task_id = manager.submit_task(work.die_once, tmp_path / "runs", retries=2)
    assert manager.get_result(task_id, timeout=60) == "second"
    assert manager.get_task_status(task_id).attempts == 2
    assert work.count(tmp_path / "runs") == 2


def test_a_task_that_always_loses_its_worker_fails_with_the_reason(manager: ComputeManager, tmp_path: Path) -> None:
    task_id = manager.submit_task(work.die, tmp_path / "runs", retries=1)
    with pytest.raises(WorkerLost, match=r"lost its worker in each of 2 attempts") as caught:
        manager.get_result(task_id, timeout=60)
    assert caught.value.context["attempts"] == 2
    assert caught.value.context["reason"]
    assert manager.get_task_status(task_id).state is TaskState.FAILED
    assert work.count(tmp_path / "runs") == 2
    # Other work goes on.
    assert manager.get_result(manager.submit_task(abs, -1), timeout=30) == 1


def test_no_retries_means_none(manager: ComputeManager, tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match=r"in 1 attempt"):
        manager.get_result(manager.submit_task(work.die, tmp_path / "runs", retries=0), timeout=60)
    assert work.count(tmp_path / "runs") == 1


# Time


def test_a_late_task_times_out_and_its_worker_is_free(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(Limits(cpu=1))
    task_id = manager.submit_task(work.nap, 60, timeout=0.4)
    begun = time.monotonic()
    with pytest.raises(TaskTimeout, match=r"longer than its timeout of 0.4 s") as caught:
        manager.get_result(task_id)
    assert isinstance(caught.value, TimeoutError)
    assert manager.get_task_status(task_id).state is TaskState.TIMED_OUT
    # It is not tried again, and the only CPU serves the next one.
    assert manager.get_task_status(task_id).attempts == 1
    assert manager.get_result(manager.submit_task(abs, -1), timeout=10) == 1
    assert time.monotonic() - begun < 10


def test_python_code_that_never_sleeps_times_out(manager: ComputeManager) -> None:
    with pytest.raises(TaskTimeout):
        manager.get_result(manager.submit_task(work.spin, 60, timeout=0.4), timeout=10)


@pytest.mark.parametrize("function", [work.ignore_everything, work.hold_the_interpreter])
def test_what_cannot_be_interrupted_is_killed(
    make_manager: Make, function: Callable[[], object], request: pytest.FixtureRequest
) -> None:
    manager = make_manager(Limits(cpu=1))
    if not stops(manager):
        pytest.skip("declared: this engine ends no process")
    task_id = manager.submit_task(function, timeout=0.4, retries=2)
    with pytest.raises(TaskTimeout):
        manager.get_result(task_id, timeout=20)
    assert manager.get_task_status(task_id).attempts == 1
    assert manager.get_result(manager.submit_task(abs, -1), timeout=20) == 1


def test_the_timeout_counts_from_the_start(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(Limits(cpu=1))
    first = manager.submit_task(time.sleep, 0.8)
    second = manager.submit_task(time.sleep, 0.1, timeout=0.6)
    assert manager.gather_results([first, second]) == [None, None]


def test_a_quick_task_is_not_hurt_by_its_timeout(manager: ComputeManager) -> None:
    task_ids = [manager.submit_task(abs, -n, timeout=30) for n in range(20)]
    assert manager.gather_results(task_ids) == list(range(20))


def test_the_default_timeout_and_retries_are_the_configurations(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(task_defaults=TaskDefaults(timeout=0.4, retries=0))
    with pytest.raises(TaskTimeout):
        manager.get_result(manager.submit_task(work.nap, 60))
    with pytest.raises(WorkerLost):
        manager.get_result(manager.submit_task(work.die, tmp_path / "runs"), timeout=60)
    assert work.count(tmp_path / "runs") == 1
    # None of its own: as long as it takes.
    assert manager.get_result(manager.submit_task(time.sleep, 0.6, timeout=float("inf"))) is None


def test_waiting_for_a_result_has_its_own_timeout(manager: ComputeManager, tmp_path: Path) -> None:
    task_id = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go", "done")
    with pytest.raises(ResultTimeout, match=r"had not ended after 0.1 s"):
        manager.get_result(task_id, timeout=0.1)
    with pytest.raises(ResultTimeout):
        manager.gather_results([task_id], timeout=0.1)
    (tmp_path / "go").touch()
    assert manager.get_result(task_id, timeout=20) == "done"


# Cancellation


def test_a_waiting_task_is_cancelled(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(Limits(cpu=1))
    blocker = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go")
    task_id = manager.submit_task(work.note, tmp_path / "runs")
    assert manager.get_task_status(task_id).state is TaskState.PENDING
    assert manager.cancel_task(task_id) is True
    with pytest.raises(TaskCancelled):
        manager.get_result(task_id)
    (tmp_path / "go").touch()
    manager.get_result(blocker)
    assert manager.cancel_task(blocker) is False
    # One after it, so that it would have had its turn.
    manager.get_result(manager.submit_task(abs, -1))
    assert work.count(tmp_path / "runs") == 0


def test_a_running_task_is_cancelled_and_its_worker_is_free(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(Limits(cpu=1))
    task_id = manager.submit_task(work.begin_and_sleep, tmp_path / "begun", 60 if stops(manager) else 2)
    work.wait_for(tmp_path / "begun")
    until(lambda: manager.get_task_status(task_id).state is TaskState.RUNNING)
    if not stops(manager):
        with pytest.raises(CapabilityMissing, match=r"cannot stop a task that is running"):
            manager.cancel_task(task_id)
        manager.get_result(task_id)
        return
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            manager.get_result(task_id)
        except TaskCancelled as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert manager.cancel_task(task_id) is True
    waiting.join(timeout=5)
    assert len(caught) == 1
    assert manager.get_task_status(task_id).state is TaskState.CANCELLED
    assert manager.get_result(manager.submit_task(abs, -1), timeout=20) == 1


def test_a_running_task_that_does_not_listen_is_killed(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(Limits(cpu=1))
    if not stops(manager):
        pytest.skip("declared: this engine ends no process")
    task_id = manager.submit_task(work.ignore_everything)
    until(lambda: manager.get_task_status(task_id).state is TaskState.RUNNING)
    manager.cancel_task(task_id)
    assert manager.get_result(manager.submit_task(abs, -1), timeout=20) == 1


# Order and limits


def test_a_higher_priority_overtakes_what_waits(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(Limits(cpu=1))
    blocker = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go")
    work.wait_for(tmp_path / "begun")
    names = [("low", -1), ("first", 0), ("second", 0), ("high", 5)]
    task_ids = [manager.submit_task(work.append, tmp_path / "log", name, priority=p) for name, p in names]
    (tmp_path / "go").touch()
    manager.gather_results([blocker, *task_ids])
    assert (tmp_path / "log").read_text().split() == ["high", "first", "second", "low"]


def test_long_tasks_are_overtaken_although_the_engine_is_not_limited(make_manager: Make, tmp_path: Path) -> None:
    """Only work for a moment is handed over ahead, so that what is urgent waits for no more than that."""
    manager = make_manager()
    slots = int(manager.resources()["total"]["cpu"])
    seconds = 0.3
    task_ids = [manager.submit_task(work.interval, tmp_path, seconds) for _ in range(8 * slots)]
    urgent = manager.submit_task(work.interval, tmp_path, 0.0, priority=10)
    begun = manager.get_result(urgent)[0]
    others = manager.gather_results(task_ids)
    assert sum(other[0] < begun for other in others) <= 4 * slots


def test_what_runs_at_once_stays_within_the_limit(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(Limits(cpu=1, memory=4 * 2**30))

    def most_at_once(**options: object) -> int:
        task_ids = [manager.submit_task(work.interval, tmp_path, 0.15, **options) for _ in range(4)]  # type: ignore[arg-type]
        spans = manager.gather_results(task_ids)
        return max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans)

    assert most_at_once() == 1
    # Two halves fit in one.
    assert most_at_once(resources={"cpu": 0.5}) == 2
    assert most_at_once(resources={"cpu": 0.25, "memory": "3g"}) == 1


def test_what_can_never_run_is_refused_with_the_numbers(make_manager: Make) -> None:
    manager = make_manager(Limits(cpu=1, memory=2**30, gpu=0))
    with pytest.raises(ResourcesUnavailable, match=r"2 CPUs of 1 that the limit"):
        manager.submit_task(abs, -1, resources={"cpu": 2})
    with pytest.raises(ResourcesUnavailable, match=r"2 GiB of memory of 1 GiB"):
        manager.submit_task(abs, -1, resources={"memory": "2g"})
    with pytest.raises(ResourcesUnavailable, match=r"1 GPUs of 0"):
        manager.submit_task(abs, -1, resources={"gpu": 1})
    with pytest.raises(ResourcesUnavailable, match=r"10000 CPUs of .* that the largest node of"):
        make_manager().submit_task(abs, -1, resources={"cpu": 10_000})


def test_a_small_task_passes_a_large_one_that_does_not_fit_yet(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(Limits(cpu=1))
    half = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go", resources={"cpu": 0.5})
    whole = manager.submit_task(abs, -2)
    small = manager.submit_task(abs, -3, resources={"cpu": 0.5})
    assert manager.get_result(small, timeout=20) == 3
    assert manager.get_task_status(whole).state is TaskState.PENDING
    (tmp_path / "go").touch()
    assert manager.gather_results([half, whole]) == [None, 2]


# Many


def test_map_is_lazy_in_order_and_bounded(manager: ComputeManager) -> None:
    taken = itertools.count()
    results = manager.map(lambda n: n * n, taken, window=5)
    assert [next(results) for _ in range(20)] == [n * n for n in range(20)]
    assert next(taken) == 25
    results.close()  # type: ignore[attr-defined]
    assert list(manager.map(abs, [])) == []


def test_map_raises_in_the_items_place(manager: ComputeManager) -> None:
    results = manager.map(lambda n: 6 // n, [3, 2, 0, 1])
    assert next(results) == 2
    assert next(results) == 3
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_gather_gives_failures_their_place(manager: ComputeManager) -> None:
    task_ids = [manager.submit_task(lambda n=n: 6 // n) for n in (1, 0, 2)]
    first, failed, last = manager.gather_results(task_ids, return_exceptions=True)
    assert (first, last) == (6, 3)
    assert isinstance(failed, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        manager.gather_results(task_ids)


def test_gather_raises_as_soon_as_one_has_failed(manager: ComputeManager, tmp_path: Path) -> None:
    slow = manager.submit_task(work.begin_and_wait, tmp_path / "begun", tmp_path / "go")
    failing = manager.submit_task(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        manager.gather_results([slow, failing], timeout=20)
    (tmp_path / "go").touch()
    manager.get_result(slow)


def test_many_threads_submit_at_once(manager: ComputeManager) -> None:
    wrong: list[object] = []

    def submit(thread: int) -> None:
        task_ids = [manager.submit_task(lambda a, b: (a, b), thread, n) for n in range(40)]
        got = [manager.get_result(task_id, timeout=60) for task_id in task_ids]
        if got != [(thread, n) for n in range(40)]:
            wrong.append(got)

    threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def quick_or_not(go: Path | None, number: int) -> int:
    if go is not None:
        work.wait_for(go)
    return number


def test_a_quick_function_that_is_slow_once_holds_nobody_up(manager: ComputeManager, tmp_path: Path) -> None:
    """Calls known to be short may be handed over together; one that is not keeps no result back, and no worker."""
    manager.gather_results([manager.submit_task(quick_or_not, None, n) for n in range(20)], timeout=60)
    task_ids = [manager.submit_task(quick_or_not, tmp_path / "go" if n == 30 else None, n) for n in range(100)]
    others = task_ids[:30] + task_ids[31:]
    assert manager.gather_results(others, timeout=60) == [*range(30), *range(31, 100)]
    until(lambda: manager.get_task_status(task_ids[30]).state is TaskState.RUNNING)
    (tmp_path / "go").touch()
    assert manager.get_result(task_ids[30], timeout=20) == 30
    assert {manager.get_task_status(task_id).attempts for task_id in task_ids} == {1}


def test_short_tasks_are_cancelled_one_by_one(manager: ComputeManager, tmp_path: Path) -> None:
    manager.gather_results([manager.submit_task(quick_or_not, None, n) for n in range(20)], timeout=60)
    slots = int(manager.resources()["total"]["cpu"])
    blockers = [manager.submit_task(quick_or_not, tmp_path / "go", n) for n in range(slots)]
    task_ids = [manager.submit_task(work.note, tmp_path / str(n)) for n in range(60)]
    cancelled = task_ids[::2]
    for task_id in cancelled:
        assert manager.cancel_task(task_id)
    (tmp_path / "go").touch()
    manager.gather_results([*blockers, *task_ids[1::2]], timeout=30)
    assert [work.count(tmp_path / str(n)) for n in range(60)] == [n % 2 for n in range(60)]


# Bookkeeping


def test_the_status_tells_how_it_went(manager: ComputeManager) -> None:
    before = time.time()
    task_id = manager.submit_task(time.sleep, 0.05, task_id=f"mine-{os.urandom(4).hex()}", priority=3)
    manager.get_result(task_id)
    status = manager.get_task_status(task_id)
    assert status.task_id == task_id
    assert (status.state, status.attempts, status.priority, status.error) == (TaskState.SUCCEEDED, 1, 3, None)
    assert status.started_at is not None
    assert status.finished_at is not None
    assert before - 0.1 <= status.submitted_at <= status.started_at + 0.1 <= status.finished_at + 0.1
    assert status.finished_at - status.started_at >= 0.04


def test_ids_are_taken_once_and_unknown_ones_refused(manager: ComputeManager) -> None:
    name = f"mine-{os.urandom(4).hex()}"
    manager.submit_task(abs, -1, task_id=name)
    with pytest.raises(TaskExists, match=name):
        manager.submit_task(abs, -1, task_id=name)
    for call in (manager.get_result, manager.get_task_status, manager.cancel_task):
        with pytest.raises(TaskNotFound, match=r"nobody"):
            call("nobody")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"retries": -1}, "retries is -1"),
        ({"resources": {"cpu": -1}}, r"resources\['cpu'\] is -1"),
        ({"resources": {"cpu": "many"}}, "'many'"),
        ({"resources": {"memory": "much"}}, "'much'"),
        ({"resources": {"disk": 1}}, "unknown key 'disk'"),
    ],
)
def test_bad_options_are_refused(manager: ComputeManager, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidField, match=message):
        manager.submit_task(abs, -1, **options)


def test_shutting_down_ends_what_is_open(make_manager: Make, tmp_path: Path) -> None:
    manager = make_manager(Limits(cpu=1))
    running = manager.submit_task(work.begin_and_sleep, tmp_path / "begun", 3)
    waiting = manager.submit_task(abs, -1)
    work.wait_for(tmp_path / "begun")
    manager.shutdown()
    for task_id in (running, waiting):
        with pytest.raises(TaskCancelled):
            manager.get_result(task_id)
    with pytest.raises(TaskCancelled, match=r"shut down"):
        manager.submit_task(abs, -1)
    manager.shutdown()


def test_tasks_are_counted(make_manager: Make) -> None:
    manager = make_manager()
    manager.gather_results([manager.submit_task(abs, -1), manager.submit_task(lambda: 1 // 0)], return_exceptions=True)
    metrics = manager.metrics()
    assert metrics["submitted"] == 2
    assert metrics["finished"] == {"SUCCEEDED": 1, "FAILED": 1, "CANCELLED": 0, "TIMED_OUT": 0}
    assert metrics["run_seconds"]["max"] >= 0
