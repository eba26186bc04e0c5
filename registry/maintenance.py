"""What a registry that runs for months does for itself: collect what nobody needs, and compact its journal."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from compute.errors import ComputeError
from registry.catalog import ModelCatalog
from registry.compaction import GRACE
from registry.journal import Journal

logger = logging.getLogger(__name__)

INTERVAL = 3600.0


class Maintenance:
    """Tidies a catalog at intervals, in a thread of its own, from its creation until `stop`.

    Parameters
    ----------
    catalog : ModelCatalog
        What is kept tidy. Any number may do so at one store.
    grace : float
        Seconds for which its journal tells what happened, at least: as long as anyone may need to catch up.
    others : sequence of Journal
        Journals of the same store that are compacted along with it.
    interval : float
        Seconds from one time to the next.
    """

    def __init__(
        self,
        catalog: ModelCatalog,
        grace: float = GRACE,
        others: Sequence[Journal[Any]] = (),
        *,
        interval: float = INTERVAL,
    ) -> None:
        self._catalog = catalog
        self._grace = grace
        self._others = others
        self._interval = interval
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry-maintenance", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait until a collection that has begun is done."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            try:
                tidy(self._catalog, self._grace)
                for journal in self._others:
                    journal.compact()
            except ComputeError:
                # The store may be unreachable for a while: what was not removed now is removed an hour later.
                logger.exception("event=maintenance_failed action=try_again_in seconds=%g", self._interval)


def tidy(catalog: ModelCatalog, grace: float = GRACE) -> None:
    """Collect and compact once, and say in the log what was freed."""
    freed = catalog.collect()
    logger.info("event=collected models=%d artifacts=%d bytes=%d", freed.models, freed.artifacts, freed.bytes)
    compacted = catalog.journal.compact(grace)
    logger.info(
        "event=compacted entries=%d snapshots=%d bytes=%d", compacted.entries, compacted.snapshots, compacted.bytes
    )
