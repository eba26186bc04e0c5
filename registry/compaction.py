"""Removes from the store what a journal needs no more: entries that snapshots cover, and older snapshots."""

from __future__ import annotations

import logging

from pydantic import BaseModel, ConfigDict, Field

from compute.errors import Corrupt, KeyNotFound
from registry.log import Log, Numbered
from registry.parallel import read_ahead

logger = logging.getLogger(__name__)

GRACE = 24 * 3600.0
"""Seconds that entries stay after a snapshot made them superfluous, for those who follow the log."""
TRUST = 1.0
"""Seconds for which a look at the end of a log is believed, see `registry.journal`."""
LEAST_GRACE = 3 * TRUST
"""The least that is safe beside other processes; the clocks of stores tell whole seconds only."""

_KEPT_SNAPSHOTS = 2


class CompactionReport(BaseModel):
    """What a compaction removed."""

    model_config = ConfigDict(frozen=True)

    entries: int = Field(0, description="Log entries.")
    snapshots: int = Field(0, description="Snapshots that newer ones replace.")
    bytes: int = Field(0, description="Of all of them.")


def compact(log: Log, grace: float = GRACE) -> CompactionReport:
    """Remove what lies before a sound snapshot that is older than the grace and not the newest sound one.

    So the newest snapshot may be damaged, and nothing is lost: the one before it is there, and all entries after that.

    Parameters
    ----------
    log : Log
        Of the journal.
    grace : float
        Seconds by the clock of the store; at least `LEAST_GRACE` when others may write.

    Examples
    --------
    >>> import tempfile
    >>> from registry.file_store import FileStore
    >>> log = Log(FileStore(tempfile.mkdtemp()), "models")
    >>> for number in (1, 2, 3):
    ...     _ = log.append(number, [b"{}"])
    ...     log.write_snapshot(number, [])
    >>> compact(log, grace=0).entries, [entry.number for entry in log.entries()]
    (2, [3])
    """
    snapshots = log.snapshots()
    if len(snapshots) < _KEPT_SNAPSHOTS or (kept := _oldest_needed(log, snapshots, grace)) is None:
        return CompactionReport()
    log.mark_compacted(kept)
    old = [snapshot.stored for snapshot in snapshots if snapshot.number < kept]
    entries = [entry.stored for entry in log.entries() if entry.number <= kept]
    for _ in read_ahead(log.store.delete, [stored.key for stored in (*old, *entries)]):
        pass
    freed = sum(stored.size for stored in (*entries, *old))
    return CompactionReport(entries=len(entries), snapshots=len(old), bytes=freed)


def _oldest_needed(log: Log, snapshots: list[Numbered], grace: float) -> int | None:
    """Return the number of the newest snapshot that may stand for all before it."""
    before = _now(log) - grace
    sound = 0
    for number, stored in snapshots:
        if sound >= _KEPT_SNAPSHOTS - 1 and stored.modified > before:
            continue
        try:
            log.read_snapshot(number)
        except Corrupt as error:
            logger.warning("event=snapshot_damaged key=%s action=not_relied_on error=%s", stored.key, error)
            continue
        except KeyNotFound:  # another compaction removed it
            continue
        sound += 1
        if sound >= _KEPT_SNAPSHOTS:
            return number
    return None


def _now(log: Log) -> float:
    """Return the time by the clock of the store, which need not be ours."""
    key = f"{log.prefix}/clock"
    log.store.put(key, b"")
    return log.store.stat(key).modified
