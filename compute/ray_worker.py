"""One attempt in a Ray worker: deadlines that also end what hangs in native code, and word of when it began.

Ray is imported where it is used: only a process of Ray runs this.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import platform
import signal
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from compute.attempt import Overdue, run
from compute.bundle import PATIENCE, Bundle, Item
from compute.killer import Killer
from compute.wire import OUT_OF_BAND, Pickled, Pickler, Reply, keep_large, pack, take_nested

logger = logging.getLogger(__name__)

NAMESPACE = b"compute-tasks"
HEADER = struct.Struct("<ddBH")
"""The timeout (0: none), when it was handed over, `CLIENT` and `BUNDLE`, the length of the key.

The key follows, then the body of the call; of a bundle its name, and a pickle of its items.
"""

CLIENT, BUNDLE = 1, 2
"""Whether the driver uses Ray Client, and whether it is a bundle: see `compute.bundle`."""

PROGRESS = b"/progress"
"""Added to an attempt's key: where the table has what it reports."""

BACK = b"/back"
"""Added to a bundle's name: where the table has what comes of it while one of its calls still runs."""

KILL_AFTER = 1.0
"""Seconds from interrupting an overdue function to ending its process."""

_REPORT_AFTER = 0.25
_WAITED = 0.2
_IDLE = 20.0


def attempt(message: bytes, nested: Sequence[Any] = (), buffered: bool = False, *lifted: Any) -> Any:
    """Run one call; the remote function behind every task of the Ray backend.

    One argument of bytes and one result of bytes is what Ray moves fastest: as fast as no argument at all.
    """
    timeout, handed_at, flags, length = HEADER.unpack_from(message)
    start = HEADER.size + length
    key, body = message[HEADER.size : start], message[start:]
    client = bool(flags & CLIENT)
    if flags & BUNDLE:
        return _run_bundle(key, pickle.loads(body), client)  # noqa: S301  (from our own manager)
    late = bool(timeout) and time.time() - handed_at > _WAITED
    reply = _run(key, timeout, body, lifted, nested, buffered, late=late)
    return pack(reply) if _is_small(reply) else _in_parts(reply, client)


def _run_bundle(name: bytes, items: Sequence[Item], client: bool) -> Any:
    """Run calls that were handed over together.

    Returns a pickle of the replies by key and of the keys that are given back; beside it, in a tuple, the replies that
    are not small.
    """
    calls = Bundle(items, lambda item: _run(item.key.encode(), item.timeout or 0.0, item.body))
    _reporter.attend(name, calls)
    try:
        calls.run()
    except KeyboardInterrupt:
        # Between two of them.
        calls.give_up()
    finally:
        _reporter.leave()
    told = _told(calls)
    others = [(key, *_in_parts(reply, client)) for key, reply in calls.replies.items() if not _is_small(reply)]
    return (told, others) if others else told


def _told(calls: Bundle) -> bytes:
    with calls.lock:
        replies = [(key, pack(reply)) for key, reply in calls.replies.items() if _is_small(reply)]
        return pickle.dumps((replies, calls.returned), 5)


def _run(
    key: bytes,
    timeout: float,
    body: bytes,
    lifted: Sequence[Any] = (),
    nested: Sequence[Any] = (),
    buffered: bool = False,
    *,
    late: bool = False,
) -> Reply:
    _reporter.begin(key)
    if late:
        # Should the worker be lost, whether for its timeout is told by when it began, not by when it was handed over.
        _reporter.report()
    try:
        guard = _deadline(timeout) if timeout else None
        return run(body, lifted, nested, buffered, ray_pickler(), _reporter.tell, guard)
    finally:
        _reporter.end()


def _is_small(reply: Reply) -> bool:
    return not reply.buffers and not reply.nested and len(reply.body) < OUT_OF_BAND


def _in_parts(reply: Reply, client: bool) -> tuple[Any, ...]:
    """Return a reply that Ray is to carry in pieces."""
    head = pack(reply._replace(body=b"", buffers=(), nested=()))
    if client:
        # Its server reads the result and pickles it again, which it cannot do with views of the object store.
        return head, reply.body, [buffer.raw().tobytes() for buffer in reply.buffers], list(reply.nested)
    return head, pickle.PickleBuffer(reply.body), list(reply.buffers), list(reply.nested)


_pickler: Pickler | None = None


def ray_pickler() -> Pickler:
    """Return Ray's own cloudpickle; its references and actors are set aside for Ray to carry.

    Both sides use Ray's copy, not the package of that name: each keeps its own book of the classes that it has
    made anew, and an instance made by one is no instance of the other's class.
    """
    global _pickler
    if _pickler is None:
        _pickler = _make_pickler()
    return _pickler


def _make_pickler() -> Pickler:
    import io

    import ray
    from ray.actor import ActorHandle

    cloudpickle: Any = ray.cloudpickle
    carried: tuple[type, ...] = (*reference_types(), ActorHandle)

    class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def __init__(self, file: io.BytesIO, buffers: list[pickle.PickleBuffer], nested: list[Any]) -> None:
            super().__init__(file, protocol=5, buffer_callback=keep_large(buffers))
            self.nested = nested

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, carried):
                self.nested.append(value)
                return take_nested, (len(self.nested) - 1,)
            return super().reducer_override(value)

    def split(value: Any) -> Pickled:
        file, buffers, nested = io.BytesIO(), list[pickle.PickleBuffer](), list[Any]()
        _Pickler(file, buffers, nested).dump(value)
        return Pickled(file.getvalue(), buffers, nested)

    return Pickler(split, cloudpickle.dumps)


def reference_types() -> tuple[type, ...]:
    """Return the classes of Ray's references: of a driver in the cluster, and of one that uses Ray Client."""
    import ray
    from ray.util.client.common import ClientActorHandle, ClientObjectRef

    return ray.ObjectRef, ClientObjectRef, ClientActorHandle


def _deadline(timeout: float) -> Callable[[Callable[[], Any]], Any]:
    def guard(function: Callable[[], Any]) -> Any:
        """Run a function; raise `Overdue` in it when its time is up, and end the process soon after."""
        interrupts = threading.current_thread() is threading.main_thread()
        if interrupts:
            signal.signal(signal.SIGALRM, _overdue)
        _killer.arm(timeout + KILL_AFTER)
        try:
            if interrupts:
                signal.setitimer(signal.ITIMER_REAL, timeout)
            began = time.monotonic()
            value = function()
            if time.monotonic() - began > timeout:
                # It kept the interruption from itself.
                raise Overdue
            return value
        finally:
            if interrupts:
                signal.setitimer(signal.ITIMER_REAL, 0)
            _killer.disarm()

    return guard


def _overdue(number: int, frame: Any) -> None:  # noqa: ARG001  (the signature of a handler)
    raise Overdue


class _Reporter:
    """Tells the cluster's key-value table when an attempt began, if it runs for longer than a moment.

    The driver cannot know: an attempt may wait in Ray's queue. Most attempts are over before anybody asks, so a
    thread looks now and then, and the quick ones cost nothing. A bundle that takes longer than was thought is given
    back there, too, but for the call that runs.
    """

    def __init__(self) -> None:
        self._current: tuple[bytes, float] | None = None
        self._reported: bytes | None = None
        self._told: bytes | None = None
        self._bundle: tuple[bytes, Bundle] | None = None
        self._given_back: bytes | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, key: bytes) -> None:
        """Note that an attempt begins."""
        self._current = (key, time.time())
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="compute-reporter", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Note that it ended, and take back what was told: its reply says all."""
        self._current = None
        with self._lock:
            keys = [key for key in (self._reported, self._told) if key is not None]
            self._reported = self._told = None
        if keys:
            from ray.experimental.internal_kv import _internal_kv_del

            for key in keys:
                _internal_kv_del(key, namespace=NAMESPACE)

    def attend(self, name: bytes, calls: Bundle) -> None:
        """Note that a bundle begins."""
        self._bundle = name + BACK, calls

    def leave(self) -> None:
        """Note that it ended, and take back what was told: its result says all."""
        with self._lock:
            self._bundle = None
            key, self._given_back = self._given_back, None
        if key is not None:
            from ray.experimental.internal_kv import _internal_kv_del

            _internal_kv_del(key, namespace=NAMESPACE)

    def _give_back(self) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        with self._lock:
            current = self._bundle
            if current is None or self._given_back is not None or time.monotonic() - current[1].began < PATIENCE:
                return
            current[1].give_up()
            _internal_kv_put(current[0], _told(current[1]), overwrite=True, namespace=NAMESPACE)
            self._given_back = current[0]

    def report(self) -> None:
        """Tell that the current attempt has begun."""
        from ray.experimental.internal_kv import _internal_kv_put

        with self._lock:
            current = self._current
            if current is None or self._reported == current[0]:
                return
            fact = {"started_at": current[1], "process": os.getpid(), "host": platform.node()}
            _internal_kv_put(current[0], json.dumps(fact).encode(), overwrite=True, namespace=NAMESPACE)
            self._reported = current[0]

    def tell(self, reports: bytes) -> None:
        """Tell what the current attempt has said of its progress."""
        from ray.experimental.internal_kv import _internal_kv_put

        # First: who sees that it is half done must also see that it has begun.
        self.report()
        with self._lock:
            current = self._current
            if current is not None:
                self._told = current[0] + PROGRESS
                _internal_kv_put(self._told, reports, overwrite=True, namespace=NAMESPACE)

    def _look(self) -> None:
        busy = time.time()
        while time.time() - busy < _IDLE:
            time.sleep(_REPORT_AFTER / 2)
            current = self._current
            if current is not None:
                busy = time.time()
                try:
                    self._give_back()
                    if busy - current[1] >= _REPORT_AFTER:
                        self.report()
                except Exception:
                    # The cluster's head does not answer, most likely; it is tried again.
                    logger.warning("attempt=%s event=unreported", current[0].decode(), exc_info=True)
        self._thread = None
        if (current := self._current) is not None:
            # It began while this thread was about to end.
            self.begin(current[0])


_killer = Killer()
_reporter = _Reporter()
