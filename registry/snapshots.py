"""Writes the snapshots of a journal in the background, so that the next start reads few entries."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from compute.errors import StorageError
from registry.log import Log

logger = logging.getLogger(__name__)

_BYTES = 64 << 20
_SHARE = 0.2
_SHORT = 1.0


class Snapshots:
    """Decides when a snapshot is due, and writes it.

    Large ones take at most a fifth of the time, even if that makes them rarer than asked for.

    Parameters
    ----------
    log : Log
        Of the journal.
    every : int
        Entries from one snapshot to the next, unless 64 MiB come first.
    """

    def __init__(self, log: Log, every: int) -> None:
        self._log = log
        self._every = every
        self._entries = 0
        self._size = 0
        self._thread: threading.Thread | None = None
        self._not_before = 0.0

    def reset(self, entries: int, size: int) -> None:
        """Take note of what came since the newest snapshot."""
        self._entries, self._size = entries, size

    def grow(self, size: int) -> None:
        """Take note of one more entry."""
        self._entries += 1
        self._size += size

    def write_if_due(self, sequence: int, dump: Callable[[], Iterable[Any]]) -> None:
        """Begin to write one, if it is time for it; called under the lock of the state."""
        if self._entries < self._every and self._size < _BYTES:
            return
        if (self._thread is not None and self._thread.is_alive()) or time.monotonic() < self._not_before:
            return
        self._thread = threading.Thread(
            target=self._write,
            args=(sequence, self._entries, dump()),
            name=f"snapshot-{self._log.prefix}",
            daemon=True,
        )
        self.reset(0, 0)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the one that is being written, if one is, lies on the store."""
        if thread := self._thread:
            thread.join()

    def _write(self, sequence: int, entries: int, items: Iterable[Any]) -> None:
        key = self._log.snapshot_key(sequence)
        started = time.monotonic()
        try:
            if any(snapshot.number > sequence - entries / 2 for snapshot in self._log.snapshots()):
                return  # another writer's is about as new
            self._log.write_snapshot(sequence, items)
        except StorageError:
            # The log has it all; the next snapshot is tried after as many entries again.
            logger.exception("event=snapshot_failed key=%s", key)
            return
        seconds = time.monotonic() - started
        if seconds > _SHORT:
            self._not_before = time.monotonic() + seconds * (1 - _SHARE) / _SHARE
        logger.info("event=snapshot_written key=%s seconds=%.3f", key, seconds)
