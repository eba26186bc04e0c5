"""Short calls that go to a worker together, which runs them one after the other; the engines' workers use this."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from compute.wire import Reply

PATIENCE = 0.05
"""Seconds after which a bundle is no longer short: what has not begun goes back, to be run elsewhere."""

_FULL = 64 * 1024
"""Bytes of replies with which a bundle ends: large ones are for calls that go alone."""


class Item(NamedTuple):
    """One of the calls."""

    key: str
    timeout: float | None
    body: bytes


class Running(NamedTuple):
    """The call that runs now."""

    key: str
    since: float
    """Seconds since the epoch."""


class Bundle:
    """Runs calls, and gives back what it does not come to.

    Parameters
    ----------
    items : sequence of Item
        In their order.
    run_one : callable
        Runs one of them, whatever its function does.

    Examples
    --------
    >>> from compute.wire import VALUE
    >>> bundle = Bundle([Item("a", None, b"1"), Item("b", None, b"2")], lambda it: Reply(VALUE, 0.0, 0.0, it.body))
    >>> bundle.run()
    >>> [(key, reply.body) for key, reply in bundle.replies.items()], bundle.returned
    ([('a', b'1'), ('b', b'2')], [])
    """

    def __init__(self, items: Sequence[Item], run_one: Callable[[Item], Reply]) -> None:
        self.lock = threading.Lock()
        self.replies: dict[str, Reply] = {}
        self.returned: list[str] = []
        """Keys of the calls that never began and never will here."""
        self.running: Running | None = None
        self.began = time.monotonic()
        self._pending = deque(items)
        self._run_one = run_one

    def run(self) -> None:
        """Run them all, or as many as there is time and room for."""
        size = 0
        while size < _FULL and (item := self._next()) is not None:
            reply = self._run_one(item)
            size += len(reply.body) + sum(memoryview(buffer).nbytes for buffer in reply.buffers)
            with self.lock:
                self.replies[item.key] = reply
                self.running = None
        self.give_up()

    def give_up(self) -> None:
        """Begin no more of them."""
        with self.lock:
            self.returned += [item.key for item in self._pending]
            self._pending.clear()

    def _next(self) -> Item | None:
        with self.lock:
            if not self._pending:
                return None
            item = self._pending.popleft()
            self.running = Running(item.key, time.time())
            return item
