"""The cache of a node: one download for all processes, whatever is damaged, killed, full or forbidden."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from compute import Config
from compute.errors import ConfigurationError, Corrupt, StorageError
from registry import ModelRegistry, ObjectStore, client, get_model_registry
from registry.artifacts import ArtifactStore
from registry.cache import ModelCache
from registry.node_cache import NodeCache, default_directory

SIZE = 1000


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Source:
    """Gives bytes, and counts how often."""

    def __init__(self, data: bytes, pause: float = 0.0) -> None:
        self.data, self.pause, self.reads = data, pause, 0

    def __call__(self) -> Iterator[bytes]:
        self.reads += 1
        time.sleep(self.pause)
        yield self.data[:10]
        yield self.data[10:]


def read(cache: NodeCache, source: Source) -> bytes:
    with cache.file(digest(source.data), len(source.data), source) as path:
        return path.read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def kept(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()} - {".lock"}


def names(*numbers: int) -> set[str]:
    return {hashlib.sha256(content(number)).hexdigest() for number in numbers}


def test_is_read_once_and_kept_by_all(place: Path) -> None:
    source = Source(content(1))
    for _ in range(3):
        assert read(NodeCache(place, 10 * SIZE), source) == content(1)
    assert source.reads == 1
    assert kept(place) == names(1)
    assert place.stat().st_mode & 0o777 == 0o700


def test_many_want_the_same_at_once(place: Path) -> None:
    cache, source = NodeCache(place, 10 * SIZE), Source(content(1), pause=0.2)
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: read(cache, source), range(16))) == {content(1)}
    assert source.reads == 1


def test_the_one_not_used_for_the_longest_leaves(place: Path) -> None:
    cache = NodeCache(place, 3 * SIZE)
    for number in (1, 2, 3):
        read(cache, Source(content(number)))
        os.utime(place / next(iter(names(number))), (number, number))
    read(cache, Source(content(1)))  # used again, so 2 is the oldest
    read(cache, Source(content(4)))
    assert kept(place) == names(1, 3, 4)


def test_what_is_in_use_stays(place: Path) -> None:
    """Who reads a file finds it to the end; what does not fit beside it is there for one use."""
    cache = NodeCache(place, 2 * SIZE)
    with ExitStack() as stack:
        paths = [stack.enter_context(cache.file(digest(content(n)), SIZE, Source(content(n)))) for n in (1, 2)]
        with cache.file(digest(content(3)), SIZE, Source(content(3))) as path:
            assert path.read_bytes() == content(3)
        assert not path.exists()
        assert [path.read_bytes() for path in paths] == [content(1), content(2)]
    assert kept(place) == names(1, 2)
    read(cache, Source(content(3)))
    assert len(kept(place)) == 2
    assert names(3) < kept(place)


@pytest.mark.parametrize("max_bytes", [0, SIZE - 1])
def test_what_is_too_large_is_not_kept(place: Path, max_bytes: int) -> None:
    assert read(NodeCache(place, max_bytes), Source(content(1))) == content(1)
    assert kept(place) == set()


@pytest.mark.parametrize(
    "damage", [lambda data: bytes([data[0] ^ 1]) + data[1:], lambda data: data[:-1], lambda _: b""]
)
def test_damage_is_found_and_mended(place: Path, damage: Callable[[bytes], bytes]) -> None:
    cache, source = NodeCache(place, 10 * SIZE), Source(content(1))
    read(cache, source)
    file = place / next(iter(names(1)))
    file.write_bytes(damage(content(1)))
    assert read(cache, source) == content(1)
    assert source.reads == 2
    assert file.read_bytes() == content(1)


def test_a_download_that_fails_leaves_nothing(place: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise Corrupt("other bytes")

    cache = NodeCache(place, 10 * SIZE)
    with pytest.raises(Corrupt), cache.file(digest(content(1)), SIZE, broken):
        pass
    assert kept(place) == set()
    assert read(cache, Source(content(1))) == content(1)


CHILD = """
import sys, time
from pathlib import Path
from registry.node_cache import NodeCache

directory, digest, size, mode = sys.argv[1:]
def slow():
    yield b"x" * 10
    print("reading", flush=True)
    time.sleep(60)
def quick():
    print("reading", flush=True)
    time.sleep(0.5)
    yield bytes([1]) * int(size)
with NodeCache(Path(directory), 10**6).file(digest, int(size), slow if mode == "slow" else quick) as path:
    assert path.read_bytes() == bytes([1]) * int(size)
    print("using", flush=True)
    if mode == "hold":
        time.sleep(60)
"""


def start(place: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(place), digest(content(1)), str(SIZE), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_process_killed_while_it_downloads(place: Path) -> None:
    child = start(place, "slow")
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "reading\n"
        waiting = threading.Timer(0.3, child.kill)
        waiting.start()  # this process waits for the other one, then takes over
        source = Source(content(1))
        started = time.monotonic()
        assert read(NodeCache(place, 10 * SIZE), source) == content(1)
        assert time.monotonic() - started > 0.25
        assert source.reads == 1
        waiting.join()
    finally:
        child.kill()
        child.communicate()
    assert kept(place) == names(1)


def test_left_overs_of_the_killed_make_room(place: Path) -> None:
    child = start(place, "slow")
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "reading\n"
        assert {name.rpartition(".")[2] for name in kept(place)} == {"part"}
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    cache = NodeCache(place, 2 * SIZE)
    for number in (2, 3):
        read(cache, Source(content(number)))
    assert kept(place) == names(2, 3)


def test_processes_share_one_download(place: Path) -> None:
    children = [start(place, "quick") for _ in range(4)]
    said = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0] * 4
    assert sorted(said) == ["reading\nusing\n", "using\n", "using\n", "using\n"]


def test_a_reader_in_another_process_keeps_its_file(place: Path) -> None:
    child = start(place, "hold")
    try:
        assert child.stdout is not None
        assert [child.stdout.readline(), child.stdout.readline()] == ["reading\n", "using\n"]
        small = NodeCache(place, SIZE)
        assert read(small, Source(content(2))) == content(2)
        assert kept(place) == names(1)
    finally:
        child.kill()
        child.communicate()
    read(small, Source(content(2)))
    assert kept(place) == names(2)


def test_a_full_disk_is_an_error_that_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept leaves first: it can be downloaded again."""
    cache = NodeCache(place, 10 * SIZE)
    read(cache, Source(content(1)))
    allocate, free = os.posix_fallocate, [0]

    def limited(descriptor: int, offset: int, size: int) -> None:
        if sum(path.stat().st_size for path in place.iterdir()) + size > free[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", limited)
    free[0] = SIZE + 10
    assert read(cache, Source(content(2))) == content(2)
    assert kept(place) == names(2)
    free[0] = 10
    with pytest.raises(StorageError, match=r"No space left on device.*storage\.cache\.directory"):
        read(cache, Source(content(3)))
    assert not any(name.endswith(".part") for name in kept(place))


def test_files_of_others_in_the_directory_are_left_alone(place: Path) -> None:
    place.mkdir(mode=0o700)
    (place / "thesis.txt").write_bytes(b"precious" * 1000)
    cache = NodeCache(place, 2 * SIZE)
    for number in (1, 2, 3):
        read(cache, Source(content(number)))
    assert kept(place) == {"thesis.txt", *names(2, 3)}


def test_a_directory_that_others_can_read_is_refused(place: Path) -> None:
    place.mkdir(mode=0o755)
    with pytest.raises(ConfigurationError, match="not private"):
        read(NodeCache(place, SIZE), Source(content(1)))


def test_a_directory_of_another_user_is_refused(place: Path) -> None:
    if os.geteuid() == 0:
        place.mkdir(mode=0o700)
        os.chown(place, 12345, 12345)
    else:
        place = Path("/")
    with pytest.raises(ConfigurationError, match="not private"):
        read(NodeCache(place, SIZE), Source(content(1)))


def test_a_file_in_place_of_the_directory(place: Path) -> None:
    place.write_text("in the way")
    with pytest.raises(StorageError, match=r"storage\.cache\.directory"):
        read(NodeCache(place, SIZE), Source(content(1)))


def test_the_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache" / "tablework" / "artifacts"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_directory() == tmp_path / "xdg" / "tablework" / "artifacts"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_directory().name == f"tablework-{os.geteuid()}"


# Through the registry


@pytest.mark.parametrize("config", ["s3"], indirect=True)
def test_loading_again_asks_the_store_for_no_bytes(
    local_registry: ModelRegistry, store: ObjectStore, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = np.random.default_rng(0).normal(size=(30, 3))
    model = LinearRegression().fit(features, features.sum(axis=1))
    model_id = local_registry.register_model(model, "linear")
    artifact = local_registry.get_model(model_id).artifact

    def load() -> None:
        """Load as another process would: with nothing in memory."""
        monkeypatch.setattr(client, "_cache", ModelCache())
        loaded = get_model_registry(config).load_model(model_id)
        np.testing.assert_array_equal(loaded.predict(features), model.predict(features))

    load()
    key = ArtifactStore(store).key(artifact)
    data = store.get(key)
    store.delete(key)
    load()
    cached = Path(str(config.storage.cache.directory)) / artifact.digest.removeprefix("sha256:")
    cached.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(Corrupt, match="gone from"):
        load()
    store.put(key, data)
    load()
    assert cached.read_bytes() == data
