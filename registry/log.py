"""What a journal keeps on the store: numbered entries, and snapshots of what they add up to. No state, no decisions."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from compute.errors import Corrupt, KeyNotFound
from registry.entry import Event, decode_entry, decode_snapshot, encode_entry, encode_snapshot
from registry.store import ObjectStore, StoredObject, check_key

logger = logging.getLogger(__name__)

_READERS = 16
_AHEAD = 64
_ENTRY = re.compile(r"(\d{20})\.json")
_SNAPSHOT = re.compile(r"(\d{20})\.json\.zz")
_MARK = re.compile(r"(\d{20})")


class Numbered(NamedTuple):
    """An entry or a snapshot on the store."""

    number: int
    stored: StoredObject


class Log:
    """Entries under ``<prefix>/log/<20 digits>.json``, snapshots under ``<prefix>/snapshots/<20 digits>.json.zz``.

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
    >>> log.append(1, [b'{"kind":"noted"}'])
    173
    >>> log.read(1), [entry.number for entry in log.entries()]
    ([{'kind': 'noted'}], [1])
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store = store
        self.prefix = check_key(prefix)

    def entry_key(self, number: int) -> str:
        """Return the key of an entry."""
        return f"{self.prefix}/log/{number:020d}.json"

    def snapshot_key(self, number: int) -> str:
        """Return the key of the snapshot after an entry."""
        return f"{self.prefix}/snapshots/{number:020d}.json.zz"

    def append(self, number: int, events: list[bytes]) -> int:
        """Create an entry, and return its size; raises `KeyExists` when another writer did."""
        data = encode_entry(number, events)
        self.store.create(self.entry_key(number), data)
        return len(data)

    def read(self, number: int) -> list[Event]:
        """Return the events of an entry; raises `KeyNotFound` and `Corrupt`."""
        key = self.entry_key(number)
        return decode_entry(self.store.get(key), number, key)

    def read_many(self, numbers: Iterable[int]) -> Iterator[tuple[int, list[Event]]]:
        """Give several entries in the order asked for, read a few ahead at the same time: on S3 each is a request."""
        pending: deque[tuple[int, Future[bytes]]] = deque()

        def oldest() -> tuple[int, list[Event]]:
            number, data = pending.popleft()
            return number, decode_entry(data.result(), number, self.entry_key(number))

        if self.store.local_path(self.entry_key(1)) is not None:  # threads would only be in each other's way
            yield from ((number, self.read(number)) for number in numbers)
            return
        with ThreadPoolExecutor(_READERS, thread_name_prefix="journal-read") as pool:
            try:
                for number in numbers:
                    pending.append((number, pool.submit(self.store.get, self.entry_key(number))))
                    if len(pending) > _AHEAD:
                        yield oldest()
                while pending:
                    yield oldest()
            finally:
                pool.shutdown(cancel_futures=True)

    def remove(self, number: int) -> None:
        """Remove an entry."""
        self.store.delete(self.entry_key(number))

    def compacted(self) -> int:
        """Return the number up to which entries were, or are being, removed by compaction; 0 when none were."""
        return max((found.number for found in self._numbered("compacted", "", _MARK)), default=0)

    def mark_compacted(self, number: int) -> None:
        """Say that all entries up to a number may be missing from now on."""
        earlier = [found for found in self._numbered("compacted", "", _MARK) if found.number < number]
        self.store.put(f"{self.prefix}/compacted/{number:020d}", b"")
        for found in earlier:
            self.store.delete(found.stored.key)

    def entries(self, after: int = 0) -> Iterator[Numbered]:
        """Give the entries that there are after a number, in order."""
        return self._numbered("log", self.entry_key(after) if after else "", _ENTRY)

    def snapshots(self) -> list[Numbered]:
        """Return the snapshots that there are, the newest first."""
        return sorted(self._numbered("snapshots", "", _SNAPSHOT), reverse=True)

    def newest_snapshot(self) -> int:
        """Return the number of the newest snapshot, 0 when there is none."""
        return max((snapshot.number for snapshot in self.snapshots()), default=0)

    def read_snapshot(self, number: int) -> Iterator[Any]:
        """Return the items of a snapshot, once its checksum was verified; raises `KeyNotFound` and `Corrupt`."""
        key = self.snapshot_key(number)
        return decode_snapshot(self.store.get(key), number, key)

    def write_snapshot(self, number: int, items: Iterable[Any]) -> None:
        """Store a snapshot; two writers write the same."""
        self.store.put(self.snapshot_key(number), encode_snapshot(number, items))

    def replay(self) -> tuple[int, Iterator[Any], Iterator[tuple[int, list[Event]]]]:
        """Return the number of the newest sound snapshot, its items, and the entries after it.

        Raises
        ------
        Corrupt
            When an entry is damaged or missing, or compacted and in no sound snapshot.
        KeyNotFound
            While the entries are read, when a compaction overtook: begin again.
        """
        number, items = self._newest_sound()
        newest = max((entry.number for entry in self.entries(after=number)), default=number)
        if (compacted := self.compacted()) > number:
            raise Corrupt(
                f"the entries of {self.prefix} up to {compacted:,} were compacted, and no sound snapshot holds them",
                hint=f"Restore {self.prefix}/snapshots/ from a backup of the store.",
                context={"key": self.snapshot_key(compacted)},
            )
        # Not those that the listing shows: while others write, it may miss one and show the next.
        return number, items, self._entries(number + 1, newest)

    def _newest_sound(self) -> tuple[int, Iterator[Any]]:
        for number, stored in self.snapshots():
            try:
                return number, self.read_snapshot(number)
            except Corrupt:
                # No event is lost: compaction leaves the entries after the snapshot before this one.
                logger.exception("event=snapshot_damaged key=%s action=replay_from_an_older_one", stored.key)
        return 0, iter(())

    def _entries(self, first: int, last: int) -> Iterator[tuple[int, list[Event]]]:
        expected = first
        try:
            for found in self.read_many(range(first, last + 1)):
                expected = found[0] + 1
                yield found
        except KeyNotFound as error:
            missing = self.entry_key(expected)
            if self.compacted() >= expected:
                raise
            raise Corrupt(
                f"{missing} is missing, and {self.entry_key(last)} comes after it",
                hint="An entry was removed: restore it from a backup of the store.",
                context={"key": missing},
            ) from error

    def _numbered(self, kind: str, after: str, name: re.Pattern[str]) -> Iterator[Numbered]:
        for stored in self.store.scan(f"{self.prefix}/{kind}/", after=after):
            match = name.fullmatch(stored.key.rpartition("/")[2])
            if match is None:
                raise Corrupt(
                    f"{stored.key} has no business in the journal", hint="Move it away.", context={"key": stored.key}
                )
            yield Numbered(int(match[1]), stored)
