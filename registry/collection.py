"""What nobody needs any more is removed, and what was freed is reported; safe while others register.

Keys of artifacts are never used again once their collection began. First an event of the journal, decided against the
newest table, gives digests that no model names the next *generation*; from then on a registration that names bytes of
an older one is refused, and its client writes them again under the new generation's key. Only then are the old keys
removed. A collector that dies in between leaves bytes that no record can ever name: the next one removes them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from registry import commands
from registry.journal import Journal
from registry.models import ModelTable
from registry.store import ObjectStore

GRACE = 3600.0
"""Seconds that an artifact is left alone after it was written: its registration follows."""
CHECKPOINTS_KEPT = 7 * 86_400.0
"""Seconds after which nobody goes on with a training that was interrupted."""
_PURGED_AT_ONCE = 500
_BLOBS = "blobs/"
_CHECKPOINTS = "checkpoints/"
_KEY = re.compile(r"blobs/sha256/[0-9a-f]{2}/(?P<digest>[0-9a-f]{64})(?:\.(?P<generation>[1-9][0-9]*))?")


class CollectionReport(BaseModel):
    """What a collection removed; with ``dry_run``, what it would have."""

    model_config = ConfigDict(frozen=True)

    models: int = Field(0, description="Deleted models whose time to be restored was over.")
    artifacts: int = Field(0, description="Artifacts that no model named, nor one that can be restored.")
    checkpoints: int = Field(0, description="Of trainings that were interrupted and not gone on with for a week.")
    bytes: int = Field(0, description="Of these artifacts and checkpoints.")
    dry_run: bool = False


class _Blob(NamedTuple):
    key: str
    digest: str
    generation: int
    size: int
    modified: float


def collect(
    journal: Journal[ModelTable],
    store: ObjectStore,
    keep_deleted: timedelta,
    *,
    dry_run: bool = False,
    grace: float = GRACE,
) -> CollectionReport:
    """Purge deleted models whose time is over, and remove the artifacts and checkpoints that nothing needs.

    Parameters
    ----------
    journal : Journal
        Of the models.
    store : ObjectStore
        Where the artifacts lie.
    keep_deleted : timedelta
        How long a deleted model can be restored.
    dry_run : bool
        Change nothing, and report what would go.
    grace : float
        Seconds for which an artifact stays that was just written and is not named yet.

    Returns
    -------
    CollectionReport
        What was freed.
    """
    before = time.time() - grace
    over = journal.read(lambda table: {record.model_id for record, _ in commands.expired(table, keep_deleted)})
    models = len(over) if dry_run else _purge(journal, keep_deleted)
    blobs = [blob for blob in _blobs(store) if blob.modified <= before]
    newest: dict[str, int] = {}
    for blob in blobs:
        newest[blob.digest] = max(blob.generation, newest.get(blob.digest, 0))
    if dry_run:
        generations = journal.read(lambda table: commands.condemn(table, newest, over)[1])
    else:
        generations = journal.execute(lambda table: commands.condemn(table, newest))
    outdated = [blob for blob in blobs if blob.generation < generations[blob.digest]]
    forgotten = [found for found in store.scan(_CHECKPOINTS) if found.modified <= time.time() - CHECKPOINTS_KEPT]
    if not dry_run:
        for key in [*(blob.key for blob in outdated), *(found.key for found in forgotten)]:
            store.delete(key)
    freed = sum(blob.size for blob in outdated) + sum(found.size for found in forgotten)
    return CollectionReport(
        models=models, artifacts=len(outdated), checkpoints=len(forgotten), bytes=freed, dry_run=dry_run
    )


def _purge(journal: Journal[ModelTable], keep_deleted: timedelta) -> int:
    total = 0
    while purged := journal.execute(lambda table: commands.purge(table, keep_deleted, _PURGED_AT_ONCE)):
        total += purged
    return total


def _blobs(store: ObjectStore) -> Iterator[_Blob]:
    for found in store.scan(_BLOBS):
        if match := _KEY.fullmatch(found.key):
            digest, generation = f"sha256:{match['digest']}", int(match["generation"] or 0)
            yield _Blob(found.key, digest, generation, found.size, found.modified)
