"""A real store with something in between: faults, and what others do at the worst moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from registry import ObjectStore, StoredObject


class InterposedStore:
    """Hands every call on to a real store, and calls `before` and `after` with the method's name and the key.

    What they raise, the caller gets: raised by `before` nothing has happened, raised by `after` it has.

    Parameters
    ----------
    store : ObjectStore
        The real one.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.calls: list[tuple[str, str]] = []
        self.created = ("", b"")
        """What was last to be created."""
        self.before: Callable[[str, str], None] = lambda method, key: None
        self.after: Callable[[str, str], None] = lambda method, key: None

    @property
    def uri(self) -> str:
        return self.store.uri

    def get(self, key: str) -> bytes:
        self._enter("get", key)
        data = self.store.get(key)
        self.after("get", key)
        return data

    def open(self, key: str) -> BinaryIO:
        self._enter("open", key)
        return self.store.open(key)

    def size(self, key: str) -> int:
        self._enter("size", key)
        return self.store.size(key)

    def stat(self, key: str) -> StoredObject:
        self._enter("stat", key)
        return self.store.stat(key)

    def download(self, key: str, path: Path) -> None:
        self._enter("download", key)
        self.store.download(key, path)

    def local_path(self, key: str) -> Path | None:
        return self.store.local_path(key)

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        self._enter("put", key)
        self.store.put(key, data)
        self.after("put", key)

    def create(self, key: str, data: bytes) -> None:
        self.created = (key, data)
        self._enter("create", key)
        self.store.create(key, data)
        self.after("create", key)

    def list(self, prefix: str = "", after: str = "") -> Iterator[str]:
        self._enter("list", prefix)
        return self.store.list(prefix, after)

    def scan(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        self._enter("scan", prefix)
        return self.store.scan(prefix, after)

    def delete(self, key: str) -> None:
        self._enter("delete", key)
        self.store.delete(key)
        self.after("delete", key)

    def _enter(self, method: str, key: str) -> None:
        self.calls.append((method, key))
        self.before(method, key)
