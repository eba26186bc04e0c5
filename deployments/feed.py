"""The registry's changes, asked for once by a replica and handed to everyone who follows them; knows no HTTP."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compute.errors import PositionGone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry import Change, ModelRegistry

logger = logging.getLogger(__name__)

_REMEMBERED = 1_000
"""Changes that are held for those who lag behind; who lags further asks the registry himself."""
_WAIT = 10.0
"""Seconds that one question to the registry waits for a change."""
_PAUSE = 1.0
"""Seconds after a question that failed."""

Place = tuple[int, int]


class Feed:
    """Follows the changes while anyone is interested: one thread and one question at a time, however many they are.

    Nothing is kept for a follower but his own position, so a slow one costs what a quick one costs.

    Parameters
    ----------
    registry : ModelRegistry
        Whom to ask.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._followers = 0
        self._polling = False
        self._lock = threading.Lock()
        self._waiting: set[asyncio.Event] = set()
        self._recent: deque[tuple[Place, Change]] = deque(maxlen=_REMEMBERED)
        self._begin: Place | None = None
        """Where what is held begins; None: nothing is known."""

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Have the feed run, in the loop that calls this."""
        self._followers += 1
        loop = asyncio.get_running_loop()
        with self._lock:
            start, self._polling = not self._polling, True
        if start:
            threading.Thread(target=self._poll, args=(loop,), name="changes", daemon=True).start()
        try:
            yield
        finally:
            self._followers -= 1

    def after(self, place: Place) -> list[Change] | None:
        """Return the changes after a place; None when they are not all held."""
        with self._lock:
            if self._begin is None or place < self._begin:
                return None
            # The newest are at the end, and that is where a follower is.
            found: list[Change] = []
            for position, change in reversed(self._recent):
                if position <= place:
                    break
                found.append(change)
        return found[::-1]

    async def wait(self, place: Place, seconds: float) -> bool:
        """Return whether it is worth looking for changes after a place again, before the time is over."""
        arrived = asyncio.Event()
        self._waiting.add(arrived)
        try:
            if not self.after(place):  # nothing came since the caller looked
                async with asyncio.timeout(seconds):
                    await arrived.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(arrived)
        return True

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        position: str | None = None
        while self._goes_on(loop):
            try:
                page = self._registry.changes(position, limit=_REMEMBERED, wait=_WAIT if position else 0.0)
            except PositionGone:
                logger.warning("event=feed_lost position=%s action=begin_anew", position)
                self._forget()
                position = None
                continue
            except Exception:  # whatever it is, those who follow are better off waiting than cut
                logger.exception("event=feed_failed position=%s action=retry", position)
                time.sleep(_PAUSE)
                continue
            news = position is None or bool(page.changes)
            with self._lock:
                if position is None:
                    self._begin = place(page.position)
                for change in page.changes:
                    if len(self._recent) == _REMEMBERED:
                        self._begin = self._recent[0][0]
                    self._recent.append((place(change.position), change))
            position = page.position
            if news and not loop.is_closed():
                loop.call_soon_threadsafe(self._wake)

    def _goes_on(self, loop: asyncio.AbstractEventLoop) -> bool:
        with self._lock:
            self._polling = self._followers > 0 and not loop.is_closed()
            if not self._polling:
                self._begin = None
                self._recent.clear()
            return self._polling

    def _forget(self) -> None:
        with self._lock:
            self._begin = None
            self._recent.clear()

    def _wake(self) -> None:
        for arrived in self._waiting:
            arrived.set()


def place(position: str) -> Place:
    """Return a position as numbers, which are in the order of the changes.

    Examples
    --------
    >>> place("12.1") < place("12.2") < place("100.0")
    True
    """
    sequence, _, index = position.partition(".")
    return int(sequence), int(index)
