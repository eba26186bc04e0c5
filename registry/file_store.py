"""An object store in a directory."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from compute.errors import KeyExists, KeyNotFound, StorageError
from registry.store import StoredObject, check_key

logger = logging.getLogger(__name__)

_STALE_SECONDS = 24 * 3600.0


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
        try:  # most often for an entry of a journal that is not there yet, before every read of it
            with open(f"{self._root}/{check_key(key)}", "rb", buffering=0) as file:  # noqa: PTH123  (twice as fast)
                return file.read()
        except OSError as error:
            raise self._unreadable(key, error) from error

    def open(self, key: str) -> BinaryIO:
        """Open the bytes under the key for streaming."""
        with self._reading(key) as path:
            return path.open("rb")

    def size(self, key: str) -> int:
        """Return the number of bytes under the key."""
        return self.stat(key).size

    def stat(self, key: str) -> StoredObject:
        """Return size and time of the bytes under the key."""
        with self._reading(key) as path:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "a directory", str(path))
            status = path.stat()
            return StoredObject(key, status.st_size, status.st_mtime)

    def download(self, key: str, path: Path) -> None:
        """Copy the bytes under the key into a file."""
        with self.open(key) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def local_path(self, key: str) -> Path | None:
        """Return the file itself."""
        return self._root / check_key(key)

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        """Store bytes, or a stream of chunks, under the key."""
        self._write(key, data, lambda temporary, path: temporary.replace(path))

    def create(self, key: str, data: bytes) -> None:
        """Store the bytes unless the key is taken."""
        self._write(key, data, lambda temporary, path: path.hardlink_to(temporary))

    def list(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """Give the keys that start with the prefix, in order."""
        return iter([entry.path[len(str(self._root)) + 1 :] for entry in self._entries(prefix, after)])

    def scan(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Give what `list` gives, with sizes and times; what is deleted meanwhile is left out."""
        start = len(str(self._root)) + 1
        for entry in self._entries(prefix, after):
            with suppress(FileNotFoundError):
                status = entry.stat()
                yield StoredObject(entry.path[start:], status.st_size, status.st_mtime)

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

    def _entries(self, prefix: str, after: str) -> Sequence[os.DirEntry[str]]:
        parent = prefix.rpartition("/")[0]
        if parent:
            check_key(parent)
        root = f"{self._root}/"
        try:
            found = [
                entry
                for entry in self._walk(self._root / parent)
                if entry.path.startswith(root + prefix) and entry.path > root + after
            ]
        except OSError as error:
            raise self._failure("list", prefix, error) from error
        return sorted(found, key=lambda entry: entry.path)

    def _walk(self, directory: Path) -> Iterator[os.DirEntry[str]]:
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
                        yield entry

    @contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        try:
            yield self._root / check_key(key)
        except OSError as error:
            raise self._unreadable(key, error) from error

    def _unreadable(self, key: str, error: OSError) -> StorageError:
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            return KeyNotFound(f"the store {self.uri} has nothing under {key!r}", context={"key": key})
        return self._failure("read", key, error)

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
