"""The newest entries of a log, kept for those who follow it."""

from __future__ import annotations

from collections import deque
from itertools import islice

_ENTRIES = 256
_BYTES = 4 << 20


class RecentEntries:
    """The bytes of the newest entries, in bounded memory.

    Parameters
    ----------
    newest : int
        The number of the newest entry so far, which is not kept.

    Examples
    --------
    >>> recent = RecentEntries(7)
    >>> recent.append(b"8")
    >>> recent.after(7, 10), recent.after(6, 10)
    ([b'8'], None)
    """

    def __init__(self, newest: int) -> None:
        self._newest = newest
        self._kept: deque[bytes] = deque()
        self._size = 0

    def append(self, data: bytes) -> None:
        """Keep the next entry."""
        self._newest += 1
        self._kept.append(data)
        self._size += len(data)
        while len(self._kept) > _ENTRIES or self._size > _BYTES:
            self._size -= len(self._kept.popleft())

    def after(self, number: int, limit: int) -> list[bytes] | None:
        """Return the entries after a number, so many at most; None when they are no longer kept."""
        skipped = number - (self._newest - len(self._kept))
        return list(islice(self._kept, skipped, skipped + limit)) if skipped >= 0 else None
