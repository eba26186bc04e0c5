"""The object store in a directory: the contract, and what a disk can do to it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compute import Config
from compute.errors import ConfigurationError, StorageError
from registry import FileStore, ObjectStore, open_store
from tests.contracts.object_store import ObjectStoreContract


class TestFileStore(ObjectStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return FileStore(tmp_path / "not made yet" / "store")

    @pytest.fixture
    def again(self, tmp_path: Path) -> ObjectStore:
        return FileStore(tmp_path / "not made yet" / "store")


def test_opened_by_path_and_uri(tmp_path: Path, config: Config) -> None:
    place = tmp_path / "with space"
    open_store(str(place), config).put("a", b"1")
    assert open_store(place.as_uri()).get("a") == b"1"
    assert open_store(f"file://localhost{place.as_posix().replace(' ', '%20')}").get("a") == b"1"


@pytest.mark.parametrize("uri", ["s3:///no-bucket", "gs://b", "http://localhost/x", "file://server/share"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match=r"storage\.uri"):
        open_store(uri)


def test_temporary_files_of_killed_writers_are_removed_after_a_day(tmp_path: Path) -> None:
    FileStore(tmp_path).put("a", b"1")
    old, new = tmp_path / ".tmp" / "old", tmp_path / ".tmp" / "new"
    for path in (old, new):
        path.write_bytes(b"half")
    day_ago = time.time() - 25 * 3600
    os.utime(old, (day_ago, day_ago))
    store = FileStore(tmp_path)
    store.put("b", b"2")
    assert not old.exists()
    assert new.exists()
    assert list(store.list()) == ["a", "b"]


def test_nothing_is_left_behind_in_the_temporary_directory(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.create("a", b"1")
    with pytest.raises(StorageError):
        store.create("a", b"2")
    store.put("a", b"3")
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_a_place_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = FileStore(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot write 'a'") as caught:
        store.put("a", b"")
    assert str(tmp_path / "file") in str(caught.value)
    assert "storage.uri" in caught.value.hint


# A file system that is full or read-only needs root to make; the size limit of a process does not.
_FILL = """
import resource, signal, sys
from compute.errors import StorageError
from registry import FileStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = FileStore(sys.argv[1])
store.put("a", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.put("a", b"x" * 1_000_000)
except StorageError as error:
    print(error.context["errno"], error)
"""


def test_a_write_that_does_not_fit_leaves_the_old_value(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _FILL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{errno.EFBIG} cannot write 'a' in {tmp_path}")
    assert FileStore(tmp_path).get("a") == b"old"
    assert list((tmp_path / ".tmp").iterdir()) == []


_LOAD = """
import sys
from registry import FileStore
store = FileStore(sys.argv[1])
number = 0
while True:
    store.put("value", bytes([number % 256]) * 200_000)
    store.create(f"log/{number:06d}", bytes([number % 256]) * 20_000)
    print(number, flush=True)
    number += 1
"""


def test_a_killed_writer_leaves_whole_objects(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    acknowledged = -1
    for _ in range(3):
        for key in list(store.list("log/")):
            store.delete(key)
        process = subprocess.Popen([sys.executable, "-c", _LOAD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(10):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in process.stdout if line.endswith("\n"))])
        process.wait()
        process.stdout.close()
        keys = list(store.list("log/"))
        assert keys[: acknowledged + 1] == [f"log/{number:06d}" for number in range(acknowledged + 1)]
        for key in (*keys, "value"):
            data = store.get(key)
            assert len(data) == (200_000 if key == "value" else 20_000)
            assert len(set(data)) == 1
