"""Short calls that went to a Dask worker together: one of its threads runs them one after the other."""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from compute.wire import Reply
from dask_bridge import worker
from dask_bridge.journal import Journal

if TYPE_CHECKING:
    from distributed import Worker

PATIENCE = 0.05
"""Seconds after which a bundle is no longer short: what has not begun goes back, to be run elsewhere."""

_FULL = 64 * 1024
"""Bytes of replies with which a bundle ends: large ones are for calls that go alone."""


class Item(NamedTuple):
    """One of the calls."""

    key: str
    timeout: float | None
    body: bytes


class Result(NamedTuple):
    """What came of a bundle."""

    replies: dict[str, Reply]
    returned: list[str]
    """Keys of the calls that never began and never will here."""


_bundles: dict[str, Bundle] = {}


def run(topic: str, name: str, packed: bytes) -> Result:
    """Run the pickled items of a bundle; this is the Dask task."""
    from distributed import get_worker

    bundle = _bundles[name] = Bundle(get_worker(), topic, name, pickle.loads(packed))  # noqa: S301  (our own)
    try:
        return bundle.run()
    finally:
        del _bundles[name]


def interrupt(name: str) -> bool:
    """Let a bundle end at once; False when it does not run here."""
    bundle = _bundles.get(name)
    if bundle is not None:
        bundle.interrupt()
    return bundle is not None


class Bundle:
    """Runs calls, and gives back what it does not come to.

    Parameters
    ----------
    where : distributed.Worker
        This process's.
    topic, name : str
        Under which the client is told what cannot wait for the end.
    items : list of Item
        In their order.
    """

    def __init__(self, where: Worker, topic: str, name: str, items: list[Item]) -> None:
        self._worker = where
        self._topic = topic
        self._name = name
        self._items = items
        self._lock = threading.Lock()
        self._pending = deque(items)
        self._running: tuple[str, float] | None = None
        self._replies: dict[str, Reply] = {}
        self._returned: list[str] = []

    def run(self) -> Result:
        """Run them all, or as many as there is time and room for."""
        timer = threading.Timer(PATIENCE, self._hand_back)
        timer.daemon = True
        timer.start()
        size = 0
        try:
            with Journal(self._worker, self._name) as journal:
                while size < _FULL and (item := self._next()) is not None:
                    journal.begun(item.key, time.time())
                    reply = worker.run_one(self._worker, self._topic, item.key, item.timeout, item.body, False, ())
                    journal.ended(item.key, reply)
                    size += len(reply.body) + sum(map(len, reply.buffers))
                    with self._lock:
                        self._replies[item.key] = reply
                        self._running = None
                self._give_up()
        finally:
            timer.cancel()
            worker.forget(item.key for item in self._items)
        return Result(self._replies, self._returned)

    def interrupt(self) -> None:
        """Begin no more of them, and interrupt the one that runs."""
        self._give_up()
        running = self._running
        if running is not None:
            worker.interrupt(running[0])

    def _next(self) -> Item | None:
        with self._lock:
            if not self._pending:
                return None
            item = self._pending.popleft()
            self._running = (item.key, time.time())
            return item

    def _give_up(self) -> None:
        with self._lock:
            self._returned += [item.key for item in self._pending]
            self._pending.clear()

    def _hand_back(self) -> None:
        """Tell the client how far it is, that nobody waits for a call that takes longer than was thought."""
        self._give_up()
        with self._lock:
            replies = [(key, tuple(reply)) for key, reply in self._replies.items()]
            running = self._running
        if running is not None:
            told = {"bundle": self._name, "replies": replies, "returned": self._returned}
            begun = {"key": running[0], "started_at": running[1], "worker": self._worker.address}
            self._worker.log_event(self._topic, {**told, **begun})
