"""Bytes of remote artifacts on this node's disk, by their digest: one download serves all its processes.

A file for each artifact, and locks (`flock`) for who does what with it; the system takes them from a process that dies,
however it dies.

- ``<digest>.part``, locked: is being downloaded. Whoever wants the same bytes waits for the lock.
- ``<digest>``, locked by any number of readers: is in use, and not evicted.
- ``.lock``: is held while sizes are counted and room is made.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from compute import Config
from compute.errors import ConfigurationError, StorageError

logger = logging.getLogger(__name__)

_PART = ".part"
_PAUSE = 0.02
_PATIENCE = 300.0
"""Seconds to wait for another process that downloads; one that was stopped holds its lock for ever."""
_OURS = re.compile(r"[0-9a-f]{64}|[0-9a-f]+\.part")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class NodeCache:
    """A directory of verified bytes, shared by the processes of a node. Safe under threads, processes and crashes.

    Parameters
    ----------
    directory : Path
        Is made when it is first used; belongs to this user alone.
    max_bytes : int
        Sizes of all files together; the ones not used for the longest leave first. What does not fit beside those in
        use is downloaded for one use.

    Examples
    --------
    >>> cache = NodeCache(Path(tempfile.mkdtemp()), max_bytes=100)
    >>> digest = f"sha256:{hashlib.sha256(b'model').hexdigest()}"
    >>> for source in ([b"mo", b"del"], []):
    ...     with cache.file(digest, 5, lambda: source) as path:
    ...         print(path.read_bytes())
    b'model'
    b'model'
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    @classmethod
    def of(cls, config: Config) -> NodeCache:
        """Open the cache of a configuration."""
        cache = config.storage.cache
        directory = default_directory() if cache.directory is None else Path(cache.directory)
        return cls(directory, cache.max_bytes)

    @contextmanager
    def file(self, digest: str, size: int, read: Callable[[], Iterable[bytes]]) -> Iterator[Path]:
        """Give a file with the bytes, which stays until the context ends.

        Parameters
        ----------
        digest : str
            ``sha256:`` and the digest of the bytes. What lies here is compared with it before each use.
        size : int
            Of all the bytes.
        read : callable
            Gives the bytes when they are not here; raises when they are not those of the digest.

        Raises
        ------
        ConfigurationError
            When the directory belongs to, or is open to, other users.
        StorageError
            When the disk is full.
        """
        name = digest.removeprefix("sha256:")
        try:
            self._prepare()
            file = self._take(name, size, read)
            path = self._directory / name
            if file is None:
                file = self._download_private(read)
                path = Path(file.name)
        except OSError as error:
            raise self._failure(error) from error
        try:
            yield path
        finally:
            if path.suffix == _PART:
                path.unlink()
            file.close()

    def _prepare(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._directory.stat()
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigurationError(
                f"the directory of the cache {self._directory} is not private: it belongs to user {status.st_uid} and "
                f"has the mode {stat.S_IMODE(status.st_mode):o}",
                hint=f"Give it to user {os.geteuid()} with the mode 700, or set storage.cache.directory to another.",
                context={"path": str(self._directory)},
            )

    def _take(self, name: str, size: int, read: Callable[[], Iterable[bytes]]) -> BinaryIO | None:
        """Return the file of the artifact, locked against eviction; None when it cannot be kept here."""
        path = self._directory / name
        give_up = time.monotonic() + _PATIENCE
        while size <= self._max_bytes:
            if (file := self._open_whole(path)) is not None:
                return file
            with ExitStack() as stack:
                part = stack.enter_context(path.with_suffix(_PART).open("ab+"))
                if not _lock(part, give_up):
                    logger.warning("event=cache_fill_hangs digest=%s action=download_for_one_use", name)
                    return None
                if not _is_at(part, path.with_suffix(_PART)):  # who held the lock has finished, or failed
                    continue
                stack.callback(_drop, part)
                if (file := self._open_whole(path)) is not None:  # finished before this process made a new part
                    return file
                if not self._reserve(part, size):
                    return None
                _fill(Path(part.name), read)
                Path(part.name).replace(path)
                logger.info("event=artifact_cached digest=%s bytes=%d", name, size)
                fcntl.flock(part, fcntl.LOCK_SH)
                if _is_at(part, path):  # and was not evicted while the lock changed
                    stack.pop_all()
                    return part
        return None

    def _open_whole(self, path: Path) -> BinaryIO | None:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        if _is_at(file, path):  # else it was evicted just now
            if hashlib.file_digest(file, "sha256").hexdigest() == path.name:
                os.utime(path)  # this is when it was used last
                return file
            # It will be replaced, not removed: others may be about to open it.
            logger.error("event=cached_artifact_damaged path=%s action=download_again", path)
        file.close()
        return None

    def _reserve(self, part: BinaryIO, size: int) -> bool:
        """Make room, and take it at once, so that others who download at the same time count it."""
        with self._evicting():
            # What killed processes left unfinished goes first, then what was not used for the longest.
            others = sorted(
                set(self._list()) - {Path(part.name)}, key=lambda path: (path.suffix != _PART, _status(path))
            )
            used = sum(_status(path)[1] for path in others)
            while used + size > self._max_bytes or not _allocate(part, size, insist=not others):
                if not others:
                    return False
                bytes_of = _status(others[0])[1]
                if _evict(others.pop(0)):
                    used -= bytes_of
        return True

    def _list(self) -> Iterator[Path]:
        return (path for path in self._directory.iterdir() if _OURS.fullmatch(path.name))

    @contextmanager
    def _evicting(self) -> Iterator[None]:
        with (self._directory / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _download_private(self, read: Callable[[], Iterable[bytes]]) -> BinaryIO:
        """Download into a file of its own, which is removed after use."""
        path = self._directory / f"{uuid.uuid4().hex}{_PART}"
        with self._evicting():  # nobody takes it for left over before it is locked
            part = path.open("xb+")
            fcntl.flock(part, fcntl.LOCK_EX)
        try:
            _fill(path, read)
        except BaseException:
            path.unlink()
            part.close()
            raise
        return part

    def _failure(self, error: OSError) -> StorageError:
        full = error.errno in _FULL
        return StorageError(
            f"cannot keep a model in the cache of this node, {self._directory}: {error.strerror or error}",
            hint="Free some space, or set storage.cache.directory to a larger disk."
            if full
            else "See that storage.cache.directory is a directory that this user can write.",
            context={"path": str(self._directory), "errno": error.errno},
        )


def default_directory() -> Path:
    """Return the place in this user's cache directory, or among the temporary files when there is none to write in.

    Examples
    --------
    >>> default_directory().is_absolute()
    True
    """
    named = os.environ.get("XDG_CACHE_HOME")
    base = Path(named) if named else Path(os.environ.get("HOME") or "/") / ".cache"
    there = next((place for place in (base, *base.parents) if place.exists()), Path("/"))
    if base.is_absolute() and os.access(there, os.W_OK | os.X_OK):
        return base / "tablework" / "artifacts"
    return Path(tempfile.gettempdir()) / f"tablework-{os.geteuid()}"


def _lock(file: BinaryIO, give_up: float) -> bool:
    """Lock the file for this process alone; tells whether it could before the time was over."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                return False
            time.sleep(_PAUSE)
        else:
            return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is the one that lies at the path now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _drop(part: BinaryIO) -> None:
    """Remove a file that was not finished; when it was, another may be at its place by now."""
    if _is_at(part, Path(part.name)):
        Path(part.name).unlink()


def _status(path: Path) -> tuple[float, int]:
    """Return when a file was used last, and its size."""
    try:
        status = path.stat()
    except FileNotFoundError:  # it was finished, or given up, just now
        return 0.0, 0
    return status.st_mtime, status.st_size


def _evict(path: Path) -> bool:
    """Remove a file that nobody uses."""
    try:
        with path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(file, path):
                return False
            path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    logger.info("event=cached_artifact_evicted path=%s", path)
    return True


def _allocate(file: BinaryIO, size: int, *, insist: bool) -> bool:
    """Take so much of the disk; False when it is full, or the error if there is nothing else to remove."""
    try:
        if size:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if insist or error.errno not in _FULL:
            raise
        return False
    return True


def _fill(path: Path, read: Callable[[], Iterable[bytes]]) -> None:
    with path.open("rb+") as file:
        for chunk in read():
            file.write(chunk)
        file.truncate()
