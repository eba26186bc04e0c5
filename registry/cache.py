"""Models that were loaded lately, by the digest of their bytes: loading one again costs nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

MAX_MODELS = 8
MAX_BYTES = 1 << 30


class ModelCache:
    """Holds a few objects of a process; the one not asked for the longest leaves first. Safe under threads.

    Parameters
    ----------
    max_models : int
        So many at most.
    max_bytes : int
        So large at most, together; one that is larger by itself is not held.

    Examples
    --------
    >>> cache = ModelCache(max_models=1)
    >>> cache.get("a", 1, lambda: "made"), cache.get("a", 1, lambda: "made again")
    ('made', 'made')
    """

    def __init__(self, max_models: int = MAX_MODELS, max_bytes: int = MAX_BYTES) -> None:
        self._max_models = max_models
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, size: int, make: Callable[[], Any]) -> Any:
        """Return what is held under the key, or make it; two threads may make it at once, and one result is kept."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
        made = make()
        with self._lock:
            if key not in self._held and size <= self._max_bytes:
                self._held[key] = (made, size)
                while len(self._held) > self._max_models or self._bytes() > self._max_bytes:
                    self._held.popitem(last=False)
            return self._held[key][0] if key in self._held else made

    def _bytes(self) -> int:
        return sum(size for _, size in self._held.values())
