"""Values read from elsewhere, kept for a moment: at most `ttl` seconds out of date, read by one caller for all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from compute.errors import ComputeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound="Hashable")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Value]):
    asked_at: float
    value: Value | None
    error: ComputeError | None

    def outcome(self) -> Value:
        if self.error is not None:
            raise self.error.with_traceback(None)
        return self.value  # type: ignore[return-value]  # None only where Value allows it


class Fresh(Generic[Key, Value]):
    """A cache whose answers are never older than `ttl`, counted from the moment the source was asked.

    From half of that age on, an answer in use is read again in the background, so a busy key never waits. Callers that
    ask for one key at once share one read. "No such thing" is an answer and kept like any other; a failure of the
    source is not.

    Parameters
    ----------
    fetch : callable
        Reads the value of a key; raises `ComputeError` with a status below 500 when there is none.
    ttl : float
        Seconds.
    limit : int
        How many keys are kept; beyond that, the one unused for longest goes.
    grace : float
        For how many seconds a known value still counts when the source fails. 0 where security depends on it.
    """

    def __init__(
        self, fetch: Callable[[Key], Awaitable[Value]], *, ttl: float, limit: int = 1024, grace: float = 0
    ) -> None:
        self._fetch = fetch
        self._ttl = ttl
        self._limit = limit
        self._grace = grace
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._reads: dict[Key, asyncio.Task[_Entry[Value]]] = {}
        self._since, self._confirmed_at = 0.0, 0.0

    async def get(self, key: Key) -> Value:
        """Return the value of the key, or raise what its source answered."""
        entry = self._entries.get(key)
        if entry is not None:
            age = self._age(entry)
            if age < self._ttl:
                self._entries.move_to_end(key)
                if age > self._ttl / 2:
                    self._read(key)
                return entry.outcome()
        # Shielded: a caller that goes away does not take the answer from the others.
        return (await asyncio.shield(self._read(key))).outcome()

    def confirm(self, since: float, at: float) -> None:
        """Count what was asked for after one moment as asked for at another: what changed between them was forgotten.

        Parameters
        ----------
        since, at : float
            Of `time.monotonic`.
        """
        self._since, self._confirmed_at = since, at

    def known(self) -> set[Key]:
        """Return the keys that are known or being read."""
        return {*self._entries, *self._reads}

    def forget(self, key: Key) -> None:
        """Read the key anew when it is next asked for; a read under way does not count."""
        self._entries.pop(key, None)
        self._reads.pop(key, None)

    def _age(self, entry: _Entry[Value]) -> float:
        asked_at = entry.asked_at
        return time.monotonic() - (max(asked_at, self._confirmed_at) if asked_at >= self._since else asked_at)

    def _read(self, key: Key) -> asyncio.Task[_Entry[Value]]:
        task = self._reads.get(key)
        if task is None:
            task = self._reads[key] = asyncio.get_running_loop().create_task(self._ask(key))
            task.add_done_callback(lambda done: self._keep(key, done))
        return task

    async def _ask(self, key: Key) -> _Entry[Value]:
        asked_at = time.monotonic()
        try:
            return _Entry(asked_at, await self._fetch(key), None)
        except ComputeError as error:
            if error.status < 500:
                return _Entry(asked_at, None, error)
            return self._outlast(key, error)
        except Exception as error:  # noqa: BLE001  (whatever the source fails with; raised again after the grace)
            return self._outlast(key, error)

    def _outlast(self, key: Key, error: Exception) -> _Entry[Value]:
        """Give the last known value while the grace lasts, else raise the failure of the source."""
        known = self._entries.get(key) if self._grace else None
        if known is None or known.error or self._age(known) > self._grace:
            raise error
        logger.warning("event=serving_last_known key=%s error=%r", key, error)
        return known

    def _keep(self, key: Key, done: asyncio.Task[_Entry[Value]]) -> None:
        if self._reads.get(key) is not done:
            return  # forgotten meanwhile
        del self._reads[key]
        if done.cancelled() or done.exception() is not None:
            return
        self._entries[key] = done.result()
        self._entries.move_to_end(key)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)
