"""The journal over the store of a directory: the contract, and processes that are killed in the middle."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compute.errors import StorageError
from registry import FileStore, Journal, ObjectStore
from tests.contracts.journal import JournalContract, Numbers, add


class TestJournalOnFiles(JournalContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return FileStore(tmp_path / "store")


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
