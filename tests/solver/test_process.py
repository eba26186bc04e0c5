"""A process of its own for every solve: it hears, it is told of, and none is left behind, whatever is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from solver.optimization.check import check_point
from solver.optimization.engine import Options
from solver.optimization.files import read_program
from solver.optimization.job import Incumbent, Job
from solver.optimization.model import Model, minimised
from solver.optimization.process import Run, run_job
from tests.solver.conftest import solving

INSTANCES = Path(__file__).parent / "instances"
HARD = INSTANCES / "markshare1.mps.gz"


def test_a_stop_is_heard_at_once_and_the_best_solution_stays() -> None:
    program = read_program(HARD)
    seen: list[Incumbent | None] = []
    for engine in ("highs", "scip"):
        asked: list[float] = []

        def stopped(asked: list[float] = asked) -> bool:
            if not asked and seen and seen[-1] is not None:
                asked.append(time.monotonic())
            return bool(asked)

        seen.clear()
        run = run_job(
            Job(minimised(program), engine, Options(time_limit=60)),
            progress=lambda _, best: seen.append(best),
            stopped=stopped,
        )
        assert time.monotonic() - asked[0] < 2.0
        assert (run.outcome.reason, run.outcome.limit) == ("FEASIBLE", "INTERRUPTED")
        assert run.outcome.x is not None
        assert check_point(program, run.outcome.x).feasible


def test_a_process_that_is_killed_leaves_its_best_solution() -> None:
    program = read_program(HARD)
    killed: list[int] = []

    def kill(_: float, best: object) -> None:
        if best is not None and not killed:
            killed.extend(solving())
            os.kill(killed[0], signal.SIGKILL)

    run = run_job(Job(minimised(program), "highs", Options(time_limit=60)), progress=kill)
    assert (run.outcome.reason, run.outcome.detail) == ("FEASIBLE", "the process of highs ended with signal SIGKILL")
    assert run.outcome.x is not None
    assert check_point(program, run.outcome.x).feasible


def test_a_process_that_hangs_is_ended_after_its_limit() -> None:
    frozen: list[int] = []

    def freeze(_: float, best: object) -> None:
        if best is not None and not frozen:
            frozen.extend(solving())
            os.kill(frozen[0], signal.SIGSTOP)

    run = run_job(Job(minimised(read_program(HARD)), "highs", Options(time_limit=2)), progress=freeze)
    # The process has to start first, which takes its time on a busy machine.
    assert run.seconds - run.incumbents[0].seconds < 2 + 1 + 2 + 5
    assert (run.outcome.reason, run.outcome.limit) == ("FEASIBLE", "TIME")
    assert run.outcome.detail == "highs did not stop when it was asked to, and was ended"
    assert not psutil.pid_exists(frozen[0])


def test_memory_is_limited() -> None:
    run = run_job(Job(minimised(read_program(HARD)), "highs", Options(time_limit=20), memory=2 * 2**20))
    assert run.outcome.reason in ("NO_SOLUTION_FOUND", "OTHER_ERROR")
    assert not solving()


# The one that starts them


def _run(program: Model, **told: object) -> Run:
    return run_job(Job(program, "highs", Options(time_limit=60)), **told)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def easy() -> Model:
    return minimised(read_program(INSTANCES / "p0033.mps.gz"))


def _servers() -> list[psutil.Process]:
    """Those of this process."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # others come and go meanwhile
            if "solver.optimization.forkserver" in child.cmdline():
                found.append(child)
    return found


def test_each_solve_has_a_new_process_of_one_server(easy: Model) -> None:
    seen: set[int] = set()
    servers: set[int] = set()
    for _ in range(3):
        run = _run(easy, ready=lambda: (seen.update(solving()), servers.update(it.pid for it in _servers())))
        assert run.outcome.reason == "OPTIMAL"
        assert "HiGHS" in run.log
    assert (len(seen), len(servers)) == (3, 1)
    assert not solving()


def test_many_at_once(easy: Model) -> None:
    runs: list[Run] = []
    threads = [threading.Thread(target=lambda: runs.append(_run(easy))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.outcome.reason for run in runs] == ["OPTIMAL"] * 8
    assert not solving()


def test_a_server_that_is_killed_takes_no_answer_along(easy: Model) -> None:
    def kill() -> None:
        for server in _servers():
            server.kill()
            server.wait(10)

    assert _run(easy, ready=kill).outcome.reason == "OPTIMAL"
    assert _run(easy).outcome.reason == "OPTIMAL"
    assert len(_servers()) == 1


def test_a_copy_of_the_process_has_a_server_of_its_own(easy: Model) -> None:
    _run(easy)
    if (pid := os.fork()) == 0:
        os._exit(_run(easy).outcome.reason != "OPTIMAL")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert _run(easy).outcome.reason == "OPTIMAL"


_FREEZE = f"""
import os, signal
from pathlib import Path
from solver.optimization.engine import Options
from solver.optimization.files import read_program
from solver.optimization.job import Job
from solver.optimization.model import minimised
from solver.optimization.process import run_job
from tests.solver.conftest import solving

def freeze():
    (pid,) = solving()
    os.kill(pid, signal.SIGSTOP)
    print(pid, flush=True)

run_job(Job(minimised(read_program(Path({str(HARD)!r}))), "highs", Options(time_limit=600)), ready=freeze)
"""


def test_a_process_that_is_killed_takes_those_along_that_hang() -> None:
    with subprocess.Popen([sys.executable, "-c", _FREEZE], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        frozen = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
    assert psutil.wait_procs([frozen], timeout=10)[1] == []
