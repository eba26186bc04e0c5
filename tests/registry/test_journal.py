"""The journal over both stores: the contract; on a directory, what processes and disks can do to it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compute import Config
from compute.errors import Corrupt, StorageError
from registry import FileStore, Journal, ObjectStore, open_store
from tests.contracts.journal import JournalContract, Numbers, add


class TestJournal(JournalContract):
    @pytest.fixture
    def store(self, config: Config) -> ObjectStore:
        return open_store(config.storage.uri, config)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    Journal(store, "n", Numbers).execute(add("a", "1"))
    key = "n/log/00000000000000000001.json"
    sound = store.get(key)
    for position in range(len(sound)):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << (position % 8)
        store.put(key, bytes(damaged))
        with pytest.raises(Corrupt, match=key):
            Journal(store, "n", Numbers)


_WRITER = """
import sys
from registry import FileStore, Journal
from tests.contracts.journal import Numbers, add
journal = Journal(FileStore(sys.argv[1]), "n", Numbers, snapshot_every=5)
while True:
    print(journal.execute(add("a", sys.argv[2])), flush=True)
"""


def test_processes_that_are_killed_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path), name], stdout=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    answers: list[int] = []
    for process in processes:
        assert process.stdout is not None
        answers.extend(int(process.stdout.readline()) for _ in range(15))
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        assert process.stdout is not None
        answers.extend(int(line) for line in process.stdout if line.endswith("\n"))
        process.stdout.close()
        process.wait()
    assert len(set(answers)) == len(answers)
    journal = Journal(FileStore(tmp_path), "n", Numbers)
    total = journal.read(lambda n: n.counts["a"])
    assert max(answers) <= total <= max(answers) + 2  # each may have written one more that it did not live to tell
    assert len(set(range(1, total + 1)) - set(answers)) <= 2
    assert journal.execute(add("a", "three")) == total + 1


def test_a_store_that_fails_says_so_and_the_journal_goes_on(tmp_path: Path) -> None:
    journal = Journal(FileStore(tmp_path / "store"), "n", Numbers)
    journal.execute(add("a", "1"))
    log = tmp_path / "store" / "n" / "log"
    log.rename(tmp_path / "away")
    log.write_text("a file in the place of the directory")
    with pytest.raises(StorageError, match="cannot write"):
        journal.execute(add("a", "1"))
    log.unlink()
    (tmp_path / "away").rename(log)
    assert journal.execute(add("a", "1")) == 2


@pytest.mark.timeout(20)
def test_a_directory_in_the_place_of_an_entry_is_named(tmp_path: Path) -> None:
    journal = Journal(FileStore(tmp_path), "n", Numbers)
    (tmp_path / "n" / "log" / "00000000000000000001.json").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"n/log/00000000000000000001\.json exists and cannot be read"):
        journal.execute(add("a", "1"))


def test_a_snapshot_that_cannot_be_written_harms_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "snapshots").write_text("in the way")
    journal = Journal(FileStore(tmp_path), "n", Numbers, snapshot_every=2)
    assert [journal.execute(add("a", "1")) for _ in range(4)] == [1, 2, 3, 4]
    journal.wait_for_snapshot()
    assert "snapshot_failed" in caplog.text


def test_a_snapshot_comes_early_when_entries_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.snapshots._BYTES", 10_000)
    store = FileStore(tmp_path)
    journal = Journal(store, "n", Numbers)
    for _ in range(12):
        journal.execute(add("a", "x" * 2_000))
        journal.wait_for_snapshot()
    assert [key[-12:] for key in store.list("n/snapshots/")] == ["0005.json.zz", "0010.json.zz"]


def test_two_writers_do_not_write_the_same_snapshot_twice(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    one, two = (Journal(store, "n", Numbers, snapshot_every=10) for _ in range(2))
    for _ in range(21):
        one.execute(add("a", "1"))
        one.wait_for_snapshot()
        two.execute(add("a", "2"))
        two.wait_for_snapshot()
    assert len(list(store.list("n/snapshots/"))) == 4


_FORKING = """
import os, sys, threading
from registry import FileStore, Journal
from tests.contracts.journal import Numbers, add
journal = Journal(FileStore(sys.argv[1]), "n", Numbers)
stop = threading.Event()
def work(name):
    while not stop.is_set():
        journal.execute(add("a", name))
threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
for thread in threads:
    thread.start()
children = []
for number in range(20):
    child = os.fork()
    if child == 0:
        assert journal.execute(add("b", "child")) > 0
        assert journal.read(lambda n: n.counts["b"]) > 0
        os._exit(0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
print(journal.read(lambda n: n.counts["b"]))
"""


@pytest.mark.timeout(60)
def test_a_forked_process_goes_on_with_the_journal_it_inherited(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKING, str(tmp_path)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == "20\n", done.stderr
