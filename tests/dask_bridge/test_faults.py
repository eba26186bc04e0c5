"""What a Dask cluster survives: nothing is lost, and nothing is run twice unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from compute import ComputeManager, TaskState, get_compute_manager, load_config
from compute.config import ComputeSection
from compute.errors import NotSerializable, TaskCancelled, TaskTimeout, WorkerLost
from dask_bridge import journal
from dask_bridge.backend import connect
from tests.conformance import work
from tests.dask_servers import DaskServers

pytestmark = pytest.mark.slow  # processes that end and are started again


@pytest.fixture(scope="module")
def shared_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskServers]:
    with DaskServers(tmp_path_factory.mktemp("dask")) as servers:
        servers.start_scheduler()
        servers.start_worker()
        servers.start_worker()
        yield servers


@pytest.fixture
def own_servers(tmp_path: Path) -> Iterator[DaskServers]:
    (tmp_path / "dask").mkdir()
    with DaskServers(tmp_path / "dask") as servers:
        servers.start_scheduler()
        servers.start_worker()
        servers.start_worker()
        yield servers


def manager_on(servers: DaskServers, workers: int = 2) -> ComputeManager:
    backend = connect(load_config(), servers.address, "compute.dask_address")
    backend.client.wait_for_workers(workers, timeout=90)  # type: ignore[attr-defined]
    return ComputeManager(backend, load_config())


def note_and_sleep(path: Path, seconds: float) -> int:
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    work.nap(seconds)
    return os.getpid()


def note_large(path: Path) -> bytes:
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return bytes(3_000_000)


def runs(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def wait_for_runs(path: Path, count: int) -> list[int]:
    until = time.monotonic() + 60
    while len(runs(path)) < count:
        assert time.monotonic() < until
        time.sleep(0.02)
    return runs(path)


def test_a_worker_killed_in_the_middle_of_a_task(shared_servers: DaskServers, tmp_path: Path) -> None:
    with manager_on(shared_servers) as manager:
        task_id = manager.submit_task(note_and_sleep, tmp_path / "runs", 1.0)
        first = wait_for_runs(tmp_path / "runs", 1)[0]
        os.kill(first, signal.SIGKILL)
        assert manager.get_result(task_id, timeout=60) != first
        status = manager.get_task_status(task_id)
        assert (status.attempts, len(status.reasons), len(runs(tmp_path / "runs"))) == (2, 1, 2)
        assert "was lost" in status.reasons[0]


def test_a_result_lost_with_its_worker_is_not_made_again_unseen(shared_servers: DaskServers, tmp_path: Path) -> None:
    with manager_on(shared_servers) as manager:
        task_id = manager.submit_task(note_large, tmp_path / "runs")
        assert len(manager.get_result(task_id)) == 3_000_000
        os.kill(runs(tmp_path / "runs")[0], signal.SIGKILL)
        with pytest.raises(WorkerLost, match="the result was lost"):
            manager.get_result(task_id)
        assert manager.get_result(manager.submit_task(abs, -1), timeout=60) == 1
        assert len(runs(tmp_path / "runs")) == 1


def test_a_worker_is_removed_and_another_added(own_servers: DaskServers, tmp_path: Path) -> None:
    with manager_on(own_servers) as manager:
        task_ids = [manager.submit_task(note_and_sleep, tmp_path / str(n), 0.5) for n in range(12)]
        wait_for_runs(tmp_path / "0", 1)
        os.killpg(own_servers.nannies[0].pid, signal.SIGKILL)
        own_servers.start_worker()
        manager.gather_results(task_ids, timeout=120)
        for n, task_id in enumerate(task_ids):
            status = manager.get_task_status(task_id)
            assert status.state is TaskState.SUCCEEDED
            # One that was lost before its first line ran has begun all the same.
            assert 1 <= len(runs(tmp_path / str(n))) <= status.attempts <= 2
        assert manager.get_result(manager.submit_task(abs, -1), timeout=60) == 1


def test_a_worker_that_is_retired_gives_its_task_back_counted(own_servers: DaskServers, tmp_path: Path) -> None:
    with manager_on(own_servers) as manager:
        task_id = manager.submit_task(note_and_sleep, tmp_path / "runs", 4.0)
        wait_for_runs(tmp_path / "runs", 1)
        client = manager.backend.client  # type: ignore[attr-defined]
        busy = [address for address, keys in client.processing().items() if keys]
        client.retire_workers(busy)
        manager.get_result(task_id, timeout=90)
        assert len(runs(tmp_path / "runs")) == manager.get_task_status(task_id).attempts


DRIVER = """
import sys
from pathlib import Path
from compute import ComputeManager, load_config
from dask_bridge.backend import connect
from tests.dask_bridge.test_faults import note_and_sleep

manager = ComputeManager(connect(load_config(), sys.argv[1], "compute.dask_address"), load_config())
for number in range(6):
    manager.submit_task(note_and_sleep, Path(sys.argv[2]) / str(number), 60)
print("submitted", flush=True)
sys.stdin.read()
"""


def test_the_work_of_a_driver_that_is_gone_ends(shared_servers: DaskServers, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, shared_servers.address, str(tmp_path)]
    with manager_on(shared_servers) as manager:
        driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == b"submitted\n"
            wait_for_runs(tmp_path / "0", 1)
            wait_for_runs(tmp_path / "1", 1)
        finally:
            driver.kill()
            driver.communicate()
        # Both workers are free again, although each had a minute to go.
        pids = manager.gather_results([manager.submit_task(work.nap, 0.3) for _ in range(4)], timeout=30)
        assert len(pids) == 4
        assert not any((tmp_path / str(number)).exists() for number in range(2, 6))


def nap_and_tell(folder: Path) -> None:
    (folder / "begun").touch()
    try:
        work.nap(60)
    except KeyboardInterrupt:
        (folder / "interrupted").touch()
        raise


def submit_and_wait(address: str, folder: Path) -> None:
    section = ComputeSection(backend="dask", dask_address=address)
    inner = get_compute_manager(config=load_config().model_copy(update={"compute": section}))
    (folder / "parent").write_text(str(os.getpid()))
    inner.get_result(inner.submit_task(nap_and_tell, folder))


def test_a_cancelled_task_takes_those_it_submitted_with_it(shared_servers: DaskServers, tmp_path: Path) -> None:
    with manager_on(shared_servers) as manager:
        task_id = manager.submit_task(submit_and_wait, shared_servers.address, tmp_path)
        work.wait_for(tmp_path / "begun", 60)
        manager.cancel_task(task_id)
        work.wait_for(tmp_path / "interrupted", 10)
        # Interrupted both, and no process ended for that.
        assert manager.gather_results([manager.submit_task(work.nap, 0.1) for _ in range(4)], timeout=30)
        assert psutil.pid_exists(int((tmp_path / "parent").read_text()))


def test_the_scheduler_is_restarted(own_servers: DaskServers, tmp_path: Path) -> None:
    with manager_on(own_servers) as manager:
        task_ids = [manager.submit_task(note_and_sleep, tmp_path / str(n), 1.0) for n in range(6)]
        wait_for_runs(tmp_path / "0", 1)
        own_servers.kill_scheduler()
        time.sleep(2)
        own_servers.start_scheduler()
        # Nannies that outlive their scheduler end some time: whoever runs them starts them again.
        own_servers.start_worker()
        own_servers.start_worker()
        manager.gather_results(task_ids, timeout=150)
        for n, task_id in enumerate(task_ids):
            assert len(runs(tmp_path / str(n))) <= manager.get_task_status(task_id).attempts
        assert max(manager.get_task_status(task_id).attempts for task_id in task_ids) > 1
        # And what the new scheduler was told of us holds: a lost worker is counted.
        again = manager.submit_task(work.die_once, tmp_path / "again")
        assert manager.get_result(again, timeout=60) == "second"
        assert manager.get_task_status(again).attempts == 2


MANY = int(os.environ.get("DASK_CRASHES_AMONG", "10000"))


def crash_some(folder: Path, number: int) -> int:
    if number % 20 == 0 and work.note(folder / str(number)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.timeout(3000)
def test_of_many_tasks_one_in_twenty_crashes_its_process(own_servers: DaskServers, tmp_path: Path) -> None:
    with manager_on(own_servers) as manager:
        (tmp_path / "runs").mkdir()
        task_ids = [manager.submit_task(crash_some, tmp_path / "runs", n) for n in range(MANY)]
        assert manager.gather_results(task_ids, timeout=2900) == list(range(MANY))
        attempts = [manager.get_task_status(task_id).attempts for task_id in task_ids]
        for number in range(0, MANY, 20):
            assert 2 == len(runs(tmp_path / "runs" / str(number))) <= attempts[number]
        # Short tasks travel together; of those that do not crash, one in a hundred at most pays for its neighbour: its
        # result was not fetched yet, which takes longer on a busy machine.
        assert sum(tries > 1 for tries in attempts) <= 1.2 * MANY / 20


def test_short_tasks_that_had_not_begun_when_their_worker_died_lose_nothing(
    own_servers: DaskServers, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    with manager_on(own_servers) as manager:
        # So it is known to be short.
        first = manager.submit_task(crash_some, tmp_path / "runs", 1)
        manager.get_result(first)
        numbers = [7, 20, *range(21, 40)]
        task_ids = [manager.submit_task(crash_some, tmp_path / "runs", n, retries=1) for n in numbers]
        assert manager.gather_results(task_ids, timeout=90) == numbers
        attempts = {n: manager.get_task_status(it).attempts for n, it in zip(numbers, task_ids, strict=True)}
        assert attempts == {n: 2 if n == 20 else 1 for n in numbers}
        assert len(list(own_servers.folder.rglob("*.notes"))) <= 2 * journal.KEPT


def test_what_cannot_be_brought_back(shared_servers: DaskServers) -> None:
    with manager_on(shared_servers) as manager:
        with pytest.raises(NotSerializable, match=r"return_generator.*generator"):
            manager.get_result(manager.submit_task(work.return_generator))
        with pytest.raises(work.Precise) as caught:
            manager.get_result(manager.submit_task(work.raise_precise))
        assert (caught.value.code, caught.value.where, caught.value.detail) == (7, "here", {"row": 3})


def print_much(lines: int) -> int:
    for number in range(lines):
        print(f"{number:0>1000}")
    return lines


@pytest.mark.timeout(600)
def test_a_task_that_prints_a_gigabyte(own_servers: DaskServers) -> None:
    with manager_on(own_servers) as manager:
        before = psutil.Process().memory_info().rss
        assert manager.get_result(manager.submit_task(print_much, 1_000_000), timeout=500) == 1_000_000
        assert psutil.Process().memory_info().rss - before < 100 * 2**20
    assert (own_servers.folder / "log").stat().st_size > 1_000_000_000


def test_a_task_that_ignores_everything(shared_servers: DaskServers) -> None:
    with manager_on(shared_servers) as manager:
        late = manager.submit_task(work.ignore_everything, timeout=0.5)
        unwanted = manager.submit_task(work.ignore_everything)
        with pytest.raises(TaskTimeout):
            manager.get_result(late, timeout=30)
        until = time.monotonic() + 30
        while manager.get_task_status(unwanted).state is not TaskState.RUNNING:
            assert time.monotonic() < until
            time.sleep(0.02)
        manager.cancel_task(unwanted)
        with pytest.raises(TaskCancelled):
            manager.get_result(unwanted)
        assert manager.gather_results([manager.submit_task(abs, -n) for n in range(4)], timeout=60) == [0, 1, 2, 3]
