"""Removes from the store what a journal needs no more: entries that snapshots cover, and older snapshots."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from registry.log import Log

KEPT_SNAPSHOTS = 2


class CompactionReport(BaseModel):
    """What a compaction removed."""

    model_config = ConfigDict(frozen=True)

    entries: int = Field(0, description="Log entries.")
    snapshots: int = Field(0, description="Snapshots that newer ones replace.")
    bytes: int = Field(0, description="Of all of them.")


def compact(log: Log, grace: float) -> CompactionReport:
    """Remove what lies before a snapshot that is older than the grace and not the newest.

    So the newest snapshot may be damaged, and nothing is lost: the one before it is there, and all entries after that.

    Parameters
    ----------
    log : Log
        Of the journal.
    grace : float
        Seconds; see `registry.journal.GRACE`.

    Raises
    ------
    Corrupt
        When the snapshot that is to stand for what goes, or the newest, is damaged: then nothing is removed.

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
    floor = next(
        (found for found in snapshots[KEPT_SNAPSHOTS - 1 :] if _now(log) - found.stored.modified >= grace), None
    )
    if floor is None:
        return CompactionReport()
    for number in (floor.number, snapshots[0].number):
        log.read_snapshot(number)
    log.mark_compacted(floor.number)
    entries = [entry.stored for entry in log.entries() if entry.number <= floor.number]
    old = [snapshot.stored for snapshot in reversed(snapshots) if snapshot.number < floor.number]
    for stored in [*old, *entries]:
        log.store.delete(stored.key)
    return CompactionReport(
        entries=len(entries), snapshots=len(old), bytes=sum(stored.size for stored in (*entries, *old))
    )


def _now(log: Log) -> float:
    """Return the time by the clock of the store, which need not be ours."""
    key = f"{log.prefix}/clock"
    log.store.put(key, b"")
    return log.store.stat(key).modified
