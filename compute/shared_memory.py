"""Values laid down once in a file that all processes of this machine map: read without a copy, as with Ray's store.

The files are in memory (``/dev/shm``) where there is one with room, else in the temporary directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from compute.wire import Pickler, loads

_PREFIX = "compute-shared-"
_LOCK = ".owner"
_ALIGN = 64


class SharedFile:
    """Buffers in a file; the file is removed with the object that made it.

    What travels to other processes is the path: the maker has to live for as long as others read.
    """

    def __init__(self, path: str, sizes: tuple[int, ...]) -> None:
        self._path = path
        self._sizes = sizes

    @classmethod
    def write(cls, path: Path, buffers: Sequence[Any]) -> Self:
        """Lay buffers down in a new file."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        try:
            with path.open("xb", buffering=0) as file:
                for view in views:
                    _write_all(file.fileno(), view)
                    padding = -view.nbytes % _ALIGN
                    _write_all(file.fileno(), memoryview(bytes(padding)))
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return cls(str(path), tuple(view.nbytes for view in views))

    def own(self) -> Self:
        """Remove the file when this object goes."""
        weakref.finalize(self, _unlink, self._path)
        return self

    def buffers(self) -> list[memoryview]:
        """Map the file; read-only, and good for as long as anything refers to it."""
        if not sum(self._sizes):
            return [memoryview(b"") for _ in self._sizes]
        with Path(self._path).open("rb") as file:
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        views, start = [], 0
        for size in self._sizes:
            views.append(whole[start : start + size])
            start += size + -size % _ALIGN
        return views

    def take(self) -> list[memoryview]:
        """Map the file and remove its name: the memory goes with the last reference."""
        views = self.buffers()
        _unlink(self._path)
        return views


class SharedValue(SharedFile):
    """A pickled value: its body first, then its buffers. `LocalBackend.put` returns this."""

    @classmethod
    def dump(cls, path: Path, value: Any, pickler: Pickler) -> Self:
        """Lay a value down."""
        body, buffers, _ = pickler.split(value)
        return cls.write(path, [body, *(buffer.raw() for buffer in buffers)])

    def load(self) -> Any:
        """Return the value; arrays in it are read-only views of the file."""
        body, *buffers = self.buffers()
        return loads(bytes(body), buffers)


class SharedDirectory:
    """Where a backend's files lie. What a process that was killed left behind goes when the next one starts."""

    def __init__(self) -> None:
        self._homes: list[tuple[Path, int]] = []
        self._number = 0
        memory = Path("/dev/shm")  # noqa: S108  (names within are made by mkdtemp)
        for root in dict.fromkeys([memory, Path(tempfile.gettempdir())]):
            if root.is_dir() and os.access(root, os.W_OK):
                _sweep(root)
                home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
                lock = os.open(home / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._homes.append((home, lock))

    @property
    def paths(self) -> list[str]:
        """The directories, the preferred one first."""
        return [str(home) for home, _ in self._homes]

    def close(self) -> None:
        """Remove everything; what is mapped stays readable."""
        while self._homes:
            home, lock = self._homes.pop()
            shutil.rmtree(home, ignore_errors=True)
            os.close(lock)


def place(homes: Sequence[str], name: str, size: int) -> Path:
    """Return a path for a file of that size, in the first home with room for it twice over."""
    for home in homes[:-1]:
        room = os.statvfs(home)
        if room.f_bavail * room.f_frsize > 2 * size:
            return Path(home) / name
    return Path(homes[-1]) / name


def _sweep(root: Path) -> None:
    for home in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            # Another user's, gone meanwhile, or just being made: not ours to remove.
            lock = os.open(home / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(home, ignore_errors=True)
            finally:
                os.close(lock)


def _write_all(file: int, view: memoryview) -> None:
    while view.nbytes:
        view = view[os.write(file, view) :]


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink(missing_ok=True)
