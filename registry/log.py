"""What a journal keeps on the store: numbered entries, and snapshots of what they add up to. No state, no decisions."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from compute.errors import KeyNotFound
from registry.entry import Event, decode_entry, decode_snapshot, encode_entry, encode_snapshot
from registry.parallel import read_ahead
from registry.store import ObjectStore, StoredObject, check_key

logger = logging.getLogger(__name__)

_CHUNK = 256
_WIDEST = 64
_NAMES = {
    "log": re.compile(r"(\d{20})\.json"),
    "snapshots": re.compile(r"(\d{20})\.json\.zz"),
    "compacted": re.compile(r"(\d{20})"),
}


class Numbered(NamedTuple):
    """An entry, a snapshot or a mark on the store."""

    number: int
    stored: StoredObject


class Log:
    """Entries under ``<prefix>/log/<20 digits>.json``, snapshots under ``<prefix>/snapshots/<20 digits>.json.zz``.

    A key ``<prefix>/compacted/<20 digits>``, the mark, says that entries up to this number may have been removed.

    Parameters
    ----------
    store : ObjectStore
        Where they lie.
    prefix : str
        The key that all of them begin with.

    Examples
    --------
    >>> import tempfile
    >>> from registry.file_store import FileStore
    >>> log = Log(FileStore(tempfile.mkdtemp()), "models")
    >>> data = log.append(1, [b'{"kind":"noted"}'])
    >>> log.read(1), [entry.number for entry in log.entries()]
    ([{'kind': 'noted'}], [1])
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store = store
        self.prefix = check_key(prefix)
        self.local = store.local_path(self.entry_key(0)) is not None
        """Whether reading takes no request, so that threads would only be in each other's way."""

    def entry_key(self, number: int) -> str:
        """Return the key of an entry."""
        return f"{self.prefix}/log/{number:020d}.json"

    def snapshot_key(self, number: int) -> str:
        """Return the key of the snapshot after an entry."""
        return f"{self.prefix}/snapshots/{number:020d}.json.zz"

    def append(self, number: int, events: list[bytes]) -> bytes:
        """Create an entry, and return its bytes; raises `KeyExists` when another writer did."""
        data = encode_entry(number, events)
        self.store.create(self.entry_key(number), data)
        return data

    def read(self, number: int) -> list[Event]:
        """Return the events of an entry; raises `KeyNotFound` and `Corrupt`."""
        return self.decode(number, self.store.get(self.entry_key(number)))

    def read_many(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """Give the bytes of entries, in the order asked for; on S3, many are read at the same time."""
        keys = map(self.entry_key, numbers)
        return map(self.store.get, keys) if self.local else read_ahead(self.store.get, keys)

    def following(self, number: int) -> tuple[list[bytes], bool]:
        """Return the bytes of the entries after a number up to the first that is missing, and whether that was reached.

        Not all at once when they are many.
        """
        found: list[bytes] = []
        width = 1
        while len(found) < _CHUNK:
            first = number + 1 + len(found)
            try:
                if self.local or width == 1:
                    found.append(self.store.get(self.entry_key(first)))
                else:
                    for data in self.read_many(range(first, first + width)):
                        found.append(data)  # noqa: PERF402  (what came before one that is missing counts)
            except KeyNotFound:
                return found, True
            width = min(2 * width, _WIDEST)
        return found, False

    def decode(self, number: int, data: bytes) -> list[Event]:
        """Return the events in the bytes of an entry; raises `Corrupt`."""
        return decode_entry(data, number, self.entry_key(number))

    def remove(self, number: int) -> None:
        """Remove an entry."""
        self.store.delete(self.entry_key(number))

    def compacted(self) -> int:
        """Return the number up to which entries were, or are being, removed by compaction; 0 when none were."""
        return max((mark.number for mark in self._numbered("compacted")), default=0)

    def mark_compacted(self, number: int) -> None:
        """Say that all entries up to a number may be missing from now on."""
        earlier = sorted(mark for mark in self._numbered("compacted") if mark.number < number)
        self.store.put(f"{self.prefix}/compacted/{number:020d}", b"")
        # The one before stays: a listing that is under way may miss what is new, and must not miss both.
        for mark in earlier[:-1]:
            self.store.delete(mark.stored.key)

    def entries(self, after: int = 0) -> Iterator[Numbered]:
        """Give the entries that there are after a number, in order."""
        return self._numbered("log", self.entry_key(after) if after else "")

    def snapshots(self) -> list[Numbered]:
        """Return the snapshots that there are, the newest first."""
        return sorted(self._numbered("snapshots"), reverse=True)

    def read_snapshot(self, number: int) -> Iterator[Any]:
        """Return the items of a snapshot, once its checksum was verified; raises `KeyNotFound` and `Corrupt`."""
        key = self.snapshot_key(number)
        return decode_snapshot(self.store.get(key), number, key)

    def write_snapshot(self, number: int, items: Iterable[Any]) -> None:
        """Store a snapshot; two writers write the same."""
        self.store.put(self.snapshot_key(number), encode_snapshot(number, items))

    def _numbered(self, kind: str, after: str = "") -> Iterator[Numbered]:
        folder = f"{self.prefix}/{kind}/"
        for stored in self.store.scan(folder, after=after):
            if match := _NAMES[kind].fullmatch(stored.key.removeprefix(folder)):
                yield Numbered(int(match[1]), stored)
            else:
                logger.warning("event=foreign_key key=%s action=passed_over hint=move_it_away", stored.key)


def clock() -> float:
    """Return seconds that also go by while the machine sleeps, where the system knows how."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
