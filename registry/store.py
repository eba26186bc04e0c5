"""Where bytes are kept: an object store of immutable-looking keys, on a directory.

Nothing else in the project touches a filesystem for state. What a store promises is written on `ObjectStore`; the
classes in ``tests/contracts`` hold every implementation to it.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from compute.config import Config
from compute.errors import ConfigurationError, InvalidField, KeyExists, KeyNotFound, StorageError

logger = logging.getLogger(__name__)

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_MAX_KEY = 900
_STALE_SECONDS = 24 * 3600.0
_CHUNK = 1 << 20


class ObjectStore(Protocol):
    """A flat map from keys to bytes that outlives the process.

    - A key is one or more segments joined by ``/``; see `check_key`. Keys are made by this program, never by a user.
    - `put` and `create` are atomic and durable: when they return, the bytes survive a power failure; until then a
      reader sees what was there before, and never a part.
    - Of any number of simultaneous `create` calls for one key, in any processes, exactly one succeeds.
    - Every method may be called from several threads, and raises `StorageError` when the medium fails.
    """

    @property
    def uri(self) -> str:
        """The place, as configured."""

    def get(self, key: str) -> bytes:
        """Return the bytes under the key, or raise `KeyNotFound`."""

    def open(self, key: str) -> BinaryIO:
        """Open the bytes under the key for streaming, or raise `KeyNotFound`; close it after use."""

    def size(self, key: str) -> int:
        """Return the number of bytes under the key, or raise `KeyNotFound`."""

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        """Store bytes, or a stream of chunks, under the key in place of what is there; nothing if the stream raises."""

    def create(self, key: str, data: bytes) -> None:
        """Store the bytes, or raise `KeyExists` and change nothing if the key has some."""

    def list(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """Give the keys that start with the prefix and sort after ``after``, in the order of their code points."""

    def delete(self, key: str) -> None:
        """Remove the key; no error if it is not there."""


def check_key(key: str) -> str:
    """Return the key if it is one that stores take.

    Parameters
    ----------
    key : str
        Segments of ``A-Z a-z 0-9 . _ -`` that do not start with a dot, joined by ``/``; 900 characters at most.

    Raises
    ------
    InvalidField
        For anything else: keys are made by this program, so this is a mistake in the caller.

    Examples
    --------
    >>> check_key("models/log/00000000000000000001.json")
    'models/log/00000000000000000001.json'
    >>> check_key("../etc/passwd")
    Traceback (most recent call last):
    ...
    compute.errors.InvalidField: '../etc/passwd' is not a key of the object store...
    """
    if len(key) <= _MAX_KEY and all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        return key
    raise InvalidField(
        f"{key[:100]!r} is not a key of the object store",
        hint="Keys are segments of A-Z a-z 0-9 . _ - that do not start with a dot, joined by '/'.",
        context={"key": key[:100]},
    )


class FileStore:
    """An object store in a directory.

    Bytes go to a temporary file in ``.tmp``, are flushed to the disk, and appear under their key by a hard link
    (`create`) or a rename (`put`), after which the directory is flushed as well. The first write makes the directory.

    Parameters
    ----------
    root : path-like
        The directory; on one file system, which has to know hard links.

    Examples
    --------
    >>> import tempfile
    >>> store = FileStore(tempfile.mkdtemp())
    >>> store.create("greetings/first", b"hello")
    >>> store.get("greetings/first"), list(store.list("greetings/"))
    (b'hello', ['greetings/first'])
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = Path(root).absolute()
        self._swept = False

    @property
    def uri(self) -> str:
        """The directory as a ``file://`` URI."""
        return self._root.as_uri()

    def get(self, key: str) -> bytes:
        """Return the bytes under the key."""
        with self._reading(key) as path:
            return path.read_bytes()

    def open(self, key: str) -> BinaryIO:
        """Open the bytes under the key for streaming."""
        with self._reading(key) as path:
            return path.open("rb")

    def size(self, key: str) -> int:
        """Return the number of bytes under the key."""
        with self._reading(key) as path:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a directory", str(path))
            return path.stat().st_size

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        """Store bytes, or a stream of chunks, under the key."""
        self._write(key, data, lambda temporary, path: temporary.replace(path))

    def create(self, key: str, data: bytes) -> None:
        """Store the bytes unless the key is taken."""
        self._write(key, data, lambda temporary, path: path.hardlink_to(temporary))

    def list(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """Give the keys that start with the prefix, in order."""
        parent = prefix.rpartition("/")[0]
        if parent:
            check_key(parent)
        try:
            keys = sorted(key for key in self._walk(self._root / parent) if key.startswith(prefix) and key > after)
        except OSError as error:
            raise self._failure("list", prefix, error) from error
        return iter(keys)

    def delete(self, key: str) -> None:
        """Remove the key if it is there."""
        path = self._root / check_key(key)
        try:
            path.unlink()
            _flush_directory(path.parent)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        except OSError as error:
            raise self._failure("delete", key, error) from error

    def _walk(self, directory: Path) -> Iterator[str]:
        start = len(str(self._root)) + 1
        pending = [str(directory)]
        while pending:
            try:
                entries = os.scandir(pending.pop())
            except (FileNotFoundError, NotADirectoryError):
                continue
            with entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        pending.append(entry.path)
                    else:
                        yield entry.path[start:]

    @contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        try:
            yield self._root / check_key(key)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise KeyNotFound(f"the store {self.uri} has nothing under {key!r}", context={"key": key}) from error
        except OSError as error:
            raise self._failure("read", key, error) from error

    def _write(self, key: str, data: bytes | Iterable[bytes], publish: Callable[[Path, Path], object]) -> None:
        path = self._root / check_key(key)
        temporary = self._root / ".tmp" / uuid.uuid4().hex
        try:
            _make_directory(temporary.parent)
            _make_directory(path.parent)
            self._sweep(temporary.parent)
            try:
                _write_through(temporary, data)
                try:
                    publish(temporary, path)
                except FileExistsError as error:
                    detail = f"the store {self.uri} has something under {key!r}"
                    raise KeyExists(detail, context={"key": key}) from error
                _flush_directory(path.parent)
            finally:
                with suppress(FileNotFoundError):  # a rename took it away
                    temporary.unlink()
        except OSError as error:
            raise self._failure("write", key, error) from error

    def _sweep(self, directory: Path) -> None:
        """Remove, once for each store, what processes that were killed in the middle of a write left behind."""
        if self._swept:
            return
        self._swept = True
        for path in directory.iterdir():
            with suppress(FileNotFoundError):  # another process swept it
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
                    logger.info("event=stale_temporary_removed path=%s", path)

    def _failure(self, verb: str, key: str, error: OSError) -> StorageError:
        hints = {
            errno.ENOSPC: f"The disk that holds {self._root} is full: free some space, or move storage.uri.",
            errno.EDQUOT: f"The quota for {self._root} is used up: free some space, or move storage.uri.",
            errno.EROFS: f"{self._root} is on a read-only file system: mount it writable, or move storage.uri.",
            errno.EACCES: f"This user may not {verb} there: mend the permissions of {self._root}, or move storage.uri.",
            errno.ENOTDIR: f"A part of {self._root} is a file: move it away, or move storage.uri.",
            errno.EEXIST: f"A part of {self._root} is a file: move it away, or move storage.uri.",
            errno.EMFILE: "This process has too many files open: raise its limit (ulimit -n).",
        }
        return StorageError(
            f"cannot {verb} {key!r} in {self._root}: {error.strerror or error}",
            hint=hints.get(error.errno or 0, f"See that {self._root} (storage.uri) is there and the disk is sound."),
            context={"path": str(self._root / key), "errno": error.errno},
        )


def open_store(uri: str, config: Config | None = None) -> ObjectStore:  # noqa: ARG001  (options of remote stores)
    """Open the store at a URI.

    Parameters
    ----------
    uri : str
        A directory, as a path or as ``file://``.
    config : Config, optional
        Access to remote stores.

    Raises
    ------
    ConfigurationError
        For a scheme that is not known.

    Examples
    --------
    >>> open_store("file:///var/lib/models").uri
    'file:///var/lib/models'
    """
    parts = urlsplit(uri)
    if "://" not in uri:
        return FileStore(Path(uri).expanduser())
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return FileStore(unquote(parts.path))
    raise ConfigurationError(
        f"storage.uri is {uri!r}: no store for the scheme {parts.scheme!r}",
        hint="Use a directory, such as 'state' or 'file:///var/lib/models'.",
        context={"uri": uri},
    )


def _write_through(path: Path, data: bytes | Iterable[bytes]) -> None:
    with path.open("xb") as file:
        for chunk in (data,) if isinstance(data, bytes) else data:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _make_directory(path: Path) -> None:
    """Make the directory and see that its name in its parent is on the disk too."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    _flush_directory(path.parent)


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
