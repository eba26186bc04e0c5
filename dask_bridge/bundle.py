"""Short calls that went to a Dask worker together: one of its threads runs them one after the other."""

from __future__ import annotations

import pickle
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from compute.bundle import PATIENCE, Bundle, Item
from compute.wire import Reply
from dask_bridge import worker
from dask_bridge.journal import Journal

if TYPE_CHECKING:
    from distributed import Worker


class Result(NamedTuple):
    """What came of a bundle."""

    replies: dict[str, Reply]
    returned: list[str]
    """Keys of the calls that never began and never will here."""


_bundles: dict[str, Bundle] = {}


def run(topic: str, name: str, packed: bytes) -> Result:
    """Run the pickled items of a bundle; this is the Dask task."""
    from distributed import get_worker

    where = get_worker()
    items: list[Item] = pickle.loads(packed)  # noqa: S301  (our own)

    def run_one(item: Item) -> Reply:
        journal.begun(item.key, time.time())
        reply = worker.run_one(where, topic, item.key, item.timeout, item.body, False, ())
        journal.ended(item.key, reply)
        return reply

    bundle = _bundles[name] = Bundle(items, run_one)
    timer = threading.Timer(PATIENCE, _hand_back, (where, topic, name, bundle))
    timer.daemon = True
    timer.start()
    try:
        with Journal(where, name) as journal:
            bundle.run()
        return Result(bundle.replies, bundle.returned)
    finally:
        timer.cancel()
        del _bundles[name]
        worker.forget(item.key for item in items)


def interrupt(name: str) -> bool:
    """Let a bundle end at once; False when it does not run here."""
    bundle = _bundles.get(name)
    if bundle is not None:
        bundle.give_up()
        running = bundle.running
        if running is not None:
            worker.interrupt(running.key)
    return bundle is not None


def _hand_back(where: Worker, topic: str, name: str, bundle: Bundle) -> None:
    """Tell the client how far it is, that nobody waits for a call that takes longer than was thought."""
    bundle.give_up()
    with bundle.lock:
        replies = [(key, tuple(reply)) for key, reply in bundle.replies.items()]
        running = bundle.running
    if running is not None:
        told = {"bundle": name, "replies": replies, "returned": bundle.returned}
        begun = {"key": running.key, "started_at": running.since, "worker": where.address}
        where.log_event(topic, {**told, **begun})
