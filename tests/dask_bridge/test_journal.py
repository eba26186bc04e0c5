"""What a dead worker's notes tell its nanny: which calls had ended, which had begun, and nothing of the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compute.wire import VALUE, Reply
from dask_bridge.journal import KEPT, Journal, forget, tell

DIES = """
import os, signal, sys
from types import SimpleNamespace
from compute.wire import VALUE, Reply
from dask_bridge.journal import Journal

worker = SimpleNamespace(local_directory=sys.argv[1] + "/worker", nanny="tcp://nanny:1")
with Journal(worker, "bundle") as journal:
    journal.begun("first", 1.0)
    journal.ended("first", Reply(VALUE, 1.0, 0.5, b"result", [b"buffer"]))
    journal.begun("second", 2.0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def nanny(folder: Path, pid: int = 0, address: str = "tcp://nanny:1") -> Any:
    return SimpleNamespace(local_directory=str(folder), address=address, pid=pid)


def dead(folder: Path) -> int:
    process = subprocess.Popen([sys.executable, "-c", DIES, str(folder)])
    assert process.wait() == -signal.SIGKILL
    return process.pid


def test_the_notes_of_a_process_that_was_killed_tell_what_had_begun(tmp_path: Path) -> None:
    dead(tmp_path)
    told = tell("bundle", nanny(tmp_path))
    assert told is not None
    assert told.begun == {"first": 1.0, "second": 2.0}
    assert told.replies == {"first": Reply(VALUE, 1.0, 0.5, b"result", [b"buffer"])}
    assert not list(tmp_path.iterdir())
    assert tell("bundle", nanny(tmp_path)) is None


def test_nobody_tells_of_a_process_that_may_still_run_or_of_anothers(tmp_path: Path) -> None:
    pid = dead(tmp_path)
    assert tell("bundle", nanny(tmp_path, pid)) is None
    assert tell("bundle", nanny(tmp_path, address="tcp://other:1")) is None
    assert tell("other", nanny(tmp_path)) is None
    assert tell("bundle", nanny(tmp_path, pid + 1)) is not None


def test_a_note_that_death_cut_short_is_none(tmp_path: Path) -> None:
    dead(tmp_path)
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        told = tell("bundle", nanny(tmp_path))
        if told is not None:
            assert set(told.replies) <= set(told.begun) <= {"first", "second"}


def test_a_process_keeps_the_notes_of_its_last_bundles_only(tmp_path: Path) -> None:
    worker: Any = SimpleNamespace(local_directory=str(tmp_path / "worker"), nanny="tcp://nanny:1")
    for number in range(2 * KEPT):
        with Journal(worker, str(number)) as journal:
            journal.begun("key", 1.0)
    assert len(list(tmp_path.iterdir())) == KEPT
    assert tell(str(2 * KEPT - 1), nanny(tmp_path, os.getpid() + 1)) is not None
    forget()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_what_another_user_has_put_there_is_not_read(tmp_path: Path) -> None:
    dead(tmp_path)
    (notes,) = tmp_path.iterdir()
    os.chown(notes, 12345, -1)
    assert tell("bundle", nanny(tmp_path)) is None
