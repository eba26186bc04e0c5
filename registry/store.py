"""Where bytes are kept: an object store of immutable-looking keys, in a directory or on S3.

Nothing else in the project touches a filesystem for state. What a store promises is written on `ObjectStore`; the
classes in ``tests/contracts`` hold every implementation to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from compute.errors import InvalidField

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_MAX_KEY = 900


class StoredObject(NamedTuple):
    """What a store knows about the bytes under a key."""

    key: str
    size: int
    """In bytes."""
    modified: float
    """When they were written, in Unix seconds by the store's own clock."""


class ObjectStore(Protocol):
    """A flat map from keys to bytes that outlives the process.

    - A key is one or more segments joined by ``/``; see `check_key`. Keys are made by this program, never by a user.
    - `put` and `create` are atomic and durable: when they return, the bytes survive a power failure; until then a
      reader sees what was there before, and never a part.
    - Of any number of simultaneous `create` calls for one key, in any processes, exactly one succeeds. When the answer
      to a request is lost, the key is read back and its bytes are compared: give `create` bytes that no other caller
      gives, such as a nonce in them.
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

    def stat(self, key: str) -> StoredObject:
        """Return size and time of the bytes under the key, or raise `KeyNotFound`."""

    def download(self, key: str, path: Path) -> None:
        """Write the bytes under the key into a new file, in bounded memory; or raise `KeyNotFound`.

        A file that is there is replaced; when this raises, its content is undefined.
        """

    def local_path(self, key: str) -> Path | None:
        """Return the file of this machine that holds the bytes under the key, or None when none does.

        Whoever reads it must not change it.
        """

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        """Store bytes, or a stream of chunks, under the key in place of what is there; nothing if the stream raises."""

    def create(self, key: str, data: bytes) -> None:
        """Store the bytes, or raise `KeyExists` and change nothing if the key has some."""

    def list(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """Give the keys that start with the prefix and sort after ``after``, in the order of their code points."""

    def scan(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Give what `list` gives, with sizes and times."""

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
