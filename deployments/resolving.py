"""What references to models stand for, kept up to date by asking what changed rather than for each of them again."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from compute.errors import PositionGone
from deployments.freshness import Fresh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry import Change, ModelRecord, ModelRegistry

logger = logging.getLogger(__name__)

_KNOWN = 4_096
"""References that are remembered."""
_PAGE = 1_000
_IDLE = 5.0
"""Seconds without a request after which nobody asks for changes any more."""


class Resolving:
    """Knows what references stand for, at most `ttl` seconds out of date.

    While there are requests, the registry is asked every quarter of `ttl` what changed: that costs the same for one
    model and for thousands. Where it does not answer, each reference is asked for by itself once in `ttl`, and what is
    known counts for `grace` seconds.

    Parameters
    ----------
    registry : ModelRegistry
        Whom to ask.
    ttl, grace : float
        Seconds.
    """

    def __init__(self, registry: ModelRegistry, *, ttl: float, grace: float) -> None:
        self._registry = registry
        self._pause = ttl / 4
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolve")
        self._records: Fresh[str, ModelRecord] = Fresh(self._resolve, ttl=ttl, limit=_KNOWN, grace=grace)
        self._following: asyncio.Task[None] | None = None
        self._asked = 0.0

    async def get(self, reference: str) -> ModelRecord:
        """Return the record that a reference stands for; raises `ModelNotFound`."""
        self._asked = time.monotonic()
        if self._following is None or self._following.done():
            self._following = asyncio.get_running_loop().create_task(self._follow())
        return await self._records.get(reference)

    def forget(self, reference: str) -> None:
        """Ask the registry anew when this reference is next used."""
        self._records.forget(reference)

    async def _resolve(self, reference: str) -> ModelRecord:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._registry.resolve, reference)

    async def _follow(self) -> None:
        """Follow the changes from now on, for as long as there are requests."""
        loop, position, since, failed = asyncio.get_running_loop(), None, 0.0, False
        while time.monotonic() - self._asked < _IDLE:
            began = time.monotonic()
            try:
                page = await loop.run_in_executor(self._threads, self._registry.changes, position, _PAGE)
            except PositionGone:
                position = None  # what was read before the new position is read again when its time is over
                continue
            except Exception as error:  # noqa: BLE001  (whatever the registry fails with: each is then asked for by itself)
                if not failed:
                    logger.warning("event=changes_not_followed action=ask_for_each_model error=%r", error)
                failed = True
                await asyncio.sleep(self._pause)
                continue
            failed = False
            if position is None:
                since = time.monotonic()
            self._drop(page.changes)
            all_of_them = len(page.changes) < _PAGE
            if position is not None and all_of_them:
                self._records.confirm(since, began)
            position = page.position
            if all_of_them:
                await asyncio.sleep(self._pause)

    def _drop(self, changes: Sequence[Change]) -> None:
        """Forget what changed: a name with all its versions and aliases."""
        if not changes:
            return
        ids, names = {change.model_id for change in changes}, {change.name for change in changes}
        everything = None in names  # as entries of an old release have it
        for reference in self._records.known():
            if everything or reference in ids or reference.partition("@")[0].partition(":")[0] in names:
                self._records.forget(reference)
