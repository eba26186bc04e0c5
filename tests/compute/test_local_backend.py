"""What is particular to the local backend: its processes, their end, their number, shared memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from compute import ComputeManager, load_config
from compute.autoscale import Autoscale
from compute.config import Scaling
from compute.errors import WorkerLost
from compute.local_backend import LocalBackend
from compute.shared_memory import SharedDirectory


def until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def run_script(tmp_path: Path, text: str, **options: object) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(text))
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_a_script_needs_no_main_guard_and_none_of_ray(tmp_path: Path) -> None:
    done = run_script(
        tmp_path,
        """
        import sys
        from dataclasses import dataclass
        from compute import get_compute_manager, distributed_map

        print("once")
        FACTOR = 3

        @dataclass
        class Point:
            x: int

        class Refused(Exception):
            def __init__(self, code, text):
                super().__init__(text)
                self.code = code

        def scale(point):
            if point.x < 0:
                raise Refused(4, "negative")
            return Point(point.x * FACTOR)

        compute = get_compute_manager()
        assert compute.backend.name == "local"
        assert compute.get_result(compute.submit_task(scale, Point(2))) == Point(6)
        assert distributed_map(scale, [Point(1)]) == [Point(3)]
        FACTOR = 5
        assert compute.get_result(compute.submit_task(scale, Point(2))) == Point(10)
        try:
            compute.get_result(compute.submit_task(scale, Point(-1)))
        except Refused as error:
            assert error.code == 4
        assert "ray" not in sys.modules and "dask" not in sys.modules
        """,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        | {"RAY_TMPDIR": str(tmp_path)},
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("once\n", "", 0)


def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, time
            from compute import ComputeManager
            from compute.local_backend import LocalBackend
            manager = ComputeManager(LocalBackend(2))
            ids = [manager.submit_task(lambda: time.sleep(1) or os.getpid()) for _ in range(2)]
            pids = manager.gather_results(ids)
            busy = manager.submit_task(sum, range(10**13))
            time.sleep(0.3)
            print(*pids, *manager.backend._homes, flush=True)
            time.sleep(60)
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    *pids, memory, temporary = process.stdout.readline().split()
    assert len(set(pids)) == 2
    assert all(psutil.pid_exists(int(pid)) for pid in pids)
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids))
    # What it left in shared memory goes when the next backend starts, here or in another process.
    SharedDirectory().close()
    assert not Path(memory).exists()
    assert not Path(temporary).exists()


def test_what_a_task_started_ends_with_it(tmp_path: Path) -> None:
    def start() -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (tmp_path / "pid").write_text(str(child.pid))
        child.wait()

    with ComputeManager(LocalBackend(1), load_config()) as manager:
        task_id = manager.submit_task(start)
        until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
        manager.cancel_task(task_id)
        until(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())))


def test_the_reason_names_signal_and_exit_code() -> None:
    with ComputeManager(LocalBackend(1), load_config()) as manager:
        with pytest.raises(WorkerLost, match=r"signal 11 \(SIGSEGV\)"):
            manager.get_result(manager.submit_task(lambda: os.kill(os.getpid(), signal.SIGSEGV), retries=0))
        with pytest.raises(WorkerLost, match=r"exit code 7"):
            manager.get_result(manager.submit_task(lambda: os._exit(7), retries=0))
        with pytest.raises(WorkerLost, match=r"signal 9 .*when memory runs out"):
            manager.get_result(manager.submit_task(lambda: os.kill(os.getpid(), signal.SIGKILL), retries=0))


def test_an_idle_worker_that_dies_harms_nobody() -> None:
    with ComputeManager(LocalBackend(1), load_config()) as manager:
        for _ in range(3):
            os.kill(manager.get_result(manager.submit_task(os.getpid)), signal.SIGKILL)
            assert manager.get_result(manager.submit_task(abs, -1), timeout=20) == 1


def test_workers_are_reused() -> None:
    with ComputeManager(LocalBackend(1), load_config()) as manager:
        assert len({manager.get_result(manager.submit_task(os.getpid)) for _ in range(5)}) == 1


def test_numeric_libraries_get_the_cpus_that_the_task_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def threads() -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    with ComputeManager(LocalBackend(2, cpus=4), load_config()) as manager:
        assert manager.get_result(manager.submit_task(threads)) == "1"
        assert manager.get_result(manager.submit_task(threads, resources={"cpu": 3})) == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with ComputeManager(LocalBackend(1), load_config()) as manager:
        assert manager.get_result(manager.submit_task(threads)) == "7"


def test_a_closed_backend_leaves_nothing_behind() -> None:
    manager = ComputeManager(LocalBackend(2), load_config())
    handle = manager.put(np.arange(10))
    pid = manager.get_result(manager.submit_task(lambda a: os.getpid(), handle))
    homes = manager.backend._homes  # type: ignore[attr-defined]
    manager.shutdown()
    assert not psutil.pid_exists(pid)
    assert not any(Path(home).exists() for home in homes)


def test_what_was_put_goes_with_its_handle() -> None:
    with ComputeManager(LocalBackend(1), load_config()) as manager:
        home = Path(manager.backend._homes[0])  # type: ignore[attr-defined]
        handle = manager.put(np.arange(100_000))
        assert [file.name for file in home.iterdir() if file.name != ".owner"] == ["put-1"]
        # A task that is under way keeps what it needs.
        task_id = manager.submit_task(lambda a: int(a.sum()), handle)
        del handle
        assert manager.get_result(task_id) == sum(range(100_000))
        until(lambda: [file.name for file in home.iterdir() if file.name != ".owner"] == [])


SCALING = Scaling(min_workers=1, max_workers=6, target_utilization=0.5, scale_up_delay=10, scale_down_delay=60)


def test_it_grows_when_busy_for_long_enough_and_shrinks_when_idle_for_long_enough() -> None:
    scale = Autoscale(SCALING, size=2)
    assert scale.observe(0, busy=2, waiting=0) == 2
    # A lull starts the wait anew.
    assert scale.observe(8, busy=0, waiting=0) == 2
    assert scale.observe(9, busy=2, waiting=1) == 2
    assert scale.observe(18.9, busy=2, waiting=1) == 2
    assert scale.observe(19.1, busy=2, waiting=1) == 6
    assert scale.observe(100, busy=3, waiting=0) == 6
    assert scale.observe(200, busy=1, waiting=0) == 6
    assert scale.observe(259, busy=1, waiting=0) == 6
    assert scale.observe(261, busy=1, waiting=0) == 2
    assert scale.observe(262, busy=0, waiting=0) == 2
    assert scale.observe(323, busy=0, waiting=0) == 1


def test_it_stays_within_its_bounds() -> None:
    assert Autoscale(SCALING, size=100).size == 6
    none = Scaling(min_workers=0, max_workers=2, scale_up_delay=10, scale_down_delay=0)
    scale = Autoscale(none, size=0)
    assert scale.observe(0, busy=0, waiting=0) == 0
    # Nobody to be busy: work need not wait for the delay.
    assert scale.observe(1, busy=0, waiting=1) == 1


def test_the_pool_follows_the_scaling() -> None:
    scaling = Scaling(min_workers=1, max_workers=3, target_utilization=0.9, scale_up_delay=0.2, scale_down_delay=0.5)
    backend = LocalBackend(1, scaling)
    with ComputeManager(backend, load_config()) as manager:
        # The least stand ready before there is work.
        until(lambda: len(backend._workers) == 1)
        task_ids = [manager.submit_task(lambda: time.sleep(0.7) or os.getpid()) for _ in range(8)]
        assert len(set(manager.gather_results(task_ids))) == 3
        until(lambda: len(backend._workers) == 1)
        assert manager.get_result(manager.submit_task(abs, -1)) == 1
