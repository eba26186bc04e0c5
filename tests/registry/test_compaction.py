"""Compaction beside other processes: writers that stand still, processes that start in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from compute.errors import InvalidField
from registry import FileStore, Journal
from registry.compact import compact_store, main
from registry.compaction import LEAST_GRACE
from registry.log import Log
from tests.contracts.journal import Numbers, add

_STANDS_STILL = """
import os, signal, sys
from registry import FileStore, Journal
from tests.contracts.journal import Numbers, add
from tests.interposed_store import InterposedStore
store = InterposedStore(FileStore(sys.argv[1]))
journal = Journal(store, "n", Numbers)
print(journal.execute(add("a", "still")), flush=True)
def stand_still(method, key):
    if method == "create":
        store.before = lambda method, key: None
        os.kill(os.getpid(), signal.SIGSTOP)
store.before = stand_still
try:
    print(journal.execute(add("a", "still")), flush=True)
except Exception as error:
    print(error.code, "stood still" in str(error), flush=True)
print(journal.read(lambda n: n.counts["a"]), flush=True)
print(journal.execute(add("a", "still")), flush=True)
"""


@pytest.mark.parametrize("compacted", [True, False])
def test_a_writer_that_stood_still_writes_nothing_into_the_past(tmp_path: Path, compacted: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", _STANDS_STILL, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "1\n"
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        journal = Journal(FileStore(tmp_path), "n", Numbers, snapshot_every=3)
        for number in range(9):
            journal.execute(add("a", str(number)))
            journal.wait_for_snapshot()
        if compacted:
            time.sleep(LEAST_GRACE + 0.1)
            assert journal.compact(LEAST_GRACE).entries > 2
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert output.split("\n")[:-1] == (["storage-error True", "10", "11"] if compacted else ["11", "11", "12"])
    assert journal.read(lambda n: n.counts["a"]) == (11 if compacted else 12)
    log = Log(FileStore(tmp_path), "n")
    assert all(entry.number > log.compacted() for entry in log.entries())


_WRITER = """
import sys, threading
from registry import FileStore, Journal
from tests.contracts.journal import Numbers, add
journal = Journal(FileStore(sys.argv[1]), "n", Numbers, snapshot_every=5)
while True:
    print(journal.execute(add("a", "writer")), flush=True)
"""
_COMPACTOR = """
import sys, time
from registry import FileStore
from registry.compaction import LEAST_GRACE, compact
from registry.log import Log
while True:
    print(compact(Log(FileStore(sys.argv[1]), "n"), LEAST_GRACE).entries, flush=True)
    time.sleep(0.05)
"""


def test_processes_start_while_another_compacts_and_a_third_writes(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for code in (_WRITER, _COMPACTOR)
    ]
    told: list[int] = [0]
    removed: list[int] = []

    def listen(process: subprocess.Popen[str], into: list[int]) -> None:
        assert process.stdout is not None
        into.extend(int(line) for line in process.stdout if line.endswith("\n"))

    listeners = [threading.Thread(target=listen, args=pair) for pair in zip(processes, (told, removed), strict=True)]
    for listener in listeners:
        listener.start()
    starts = 0
    try:
        began = time.monotonic()
        while (lasted := time.monotonic() - began) < LEAST_GRACE + 3 or (not any(removed) and lasted < 60):
            known = told[-1]
            assert Journal(FileStore(tmp_path), "n", Numbers).read(lambda n: n.counts.get("a", 0)) >= known
            starts += 1
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for listener in listeners:
            listener.join()
        for process in processes:
            assert process.stdout is not None
            process.stdout.close()
    assert len(removed) > 0
    assert 1 <= len(list(FileStore(tmp_path).list("n/compacted/"))) <= 2  # it compacted, if not to the end
    assert starts > 10
    assert Journal(FileStore(tmp_path), "n", Numbers).read(lambda n: n.counts["a"]) - told[-1] in (0, 1)


def test_the_command_compacts_every_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FileStore(tmp_path)
    assert main(["--storage", str(tmp_path)]) == 2
    assert "holds no models, tasks or tokens" in capsys.readouterr().err
    Journal(store, "webhooks", Numbers).execute(add("a", "1"))
    assert main(["--storage", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "models    0 entries and 0 snapshots removed, 0 bytes"
    journal = Journal(store, "webhooks", Numbers, snapshot_every=2)
    for _ in range(4):
        journal.execute(add("a", "1"))
        journal.wait_for_snapshot()
    assert main(["--storage", str(tmp_path), "--json"]) == 0
    assert '"webhooks": {\n    "entries": 0' in capsys.readouterr().out
    assert main(["--storage", str(tmp_path), "--keep-hours", "0"]) == 2
    assert "is not safe beside others that write" in capsys.readouterr().err
    with pytest.raises(InvalidField):
        compact_store(store, 1.0)
    for key in store.list("webhooks/snapshots/"):
        os.utime(tmp_path / key, (time.time() - 100, time.time() - 100))
    assert main(["--storage", str(tmp_path), "--keep-hours", "0.01"]) == 0
    assert "webhooks  2 entries and 0 snapshots removed" in capsys.readouterr().out
