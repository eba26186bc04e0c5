"""What the Ray backend knows of attempts that are with Ray, and of those that went there together."""

from __future__ import annotations

import itertools
import logging
import pickle
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compute.backend import Attempt, Ending, Outcome
from compute.bundle import Item
from compute.ray_collector import wait_for
from compute.ray_worker import BACK, BUNDLE, HEADER
from compute.wire import Reply, as_reply, unpack

logger = logging.getLogger(__name__)

_LOOK = 0.05
_FIRST = 0.15
"""Seconds after which the cluster is asked for what a bundle gave back; most have ended by then."""
_MOST = 1.0
_UNHEARD = 0.5
"""Seconds after which a bundle of which nothing was heard waits in Ray's queue, most likely."""

_TOGETHER = "it was interrupted together with another one"
_ENDINGS = (Ending.VALUE, Ending.ERROR, Ending.UNSENDABLE, Ending.TIMED_OUT, Ending.INTERRUPTED)


def outcome_of(reply: Reply) -> Outcome:
    """Return what a reply that is here says of its attempt."""
    payload: Any = reply if reply.code < 2 else reply.body.decode()
    return Outcome(_ENDINGS[reply.code], payload, reply.started_at, reply.seconds, reports=reply.reports)


class Handle:
    """What the backend knows of an attempt that is with Ray."""

    __slots__ = ("asked_at", "handed_at", "progress_at", "reference", "reports", "sent", "started", "stopping", "where")

    def __init__(self, reference: Any, sent: Sent | None = None) -> None:
        self.reference = reference
        self.sent = sent
        """The bundle that it is in."""
        self.stopping = False
        self.handed_at = time.time()
        self.asked_at = 0.0
        self.started: float | None = None
        self.where = ""
        self.progress_at = 0.0
        self.reports = b""


class Sent:
    """Attempts that went to Ray as one task."""

    __slots__ = ("at", "left", "name", "next", "pause", "reference")

    def __init__(self, name: str, reference: Any, attempts: Sequence[Attempt]) -> None:
        self.name = name
        self.reference = reference
        self.left = {attempt.key: attempt for attempt in attempts}
        """Those of which nothing was reported yet."""
        self.at = time.monotonic()
        self.pause = _LOOK
        self.next = self.at + _FIRST

    @property
    def stopping(self) -> bool:
        """Whether any of them is to be stopped."""
        return any(attempt.handle.stopping for attempt in list(self.left.values()))

    @property
    def only_to_be_stopped(self) -> bool:
        """Whether nobody else's call is interrupted with it."""
        return all(attempt.handle.stopping for attempt in list(self.left.values()))


class Result:
    """What comes of a bundle: see `compute.ray_worker`.

    Parameters
    ----------
    value : bytes or tuple
        As the worker returned it.
    """

    def __init__(self, value: Any) -> None:
        told, others = value if type(value) is tuple else (value, ())
        packed, self.returned = pickle.loads(told)  # noqa: S301  (from our own worker)
        self.replies: Mapping[str, Reply] = {
            **{key: unpack(reply) for key, reply in packed},
            **{key: _here(as_reply(tuple(parts))) for key, *parts in others},
        }


def _here(reply: Reply) -> Reply:
    """Return a reply that keeps nothing in the object store: all the others would stay there with it."""
    return reply._replace(buffers=[bytes(memoryview(buffer)) for buffer in reply.buffers])


class Bundles:
    """The bundles that are with Ray.

    The cluster is asked for what they give back while one of their calls still runs.

    Parameters
    ----------
    kv : callable
        The cluster's key-value table: ``kv("get" or "del", name, suffix)``.
    cancel : callable
        Has Ray interrupt a task of this reference, or never begin it.
    verdict : callable
        Returns the outcome that an error of Ray's is, or None when a worker was lost.
    lost : callable
        Reports one attempt whose worker was lost; may take its time.
    """

    def __init__(
        self,
        kv: Callable[[str, str, bytes], Any],
        cancel: Callable[[Any], None],
        verdict: Callable[[Any], Outcome | None],
        lost: Callable[[Attempt, Handle, Any], None],
    ) -> None:
        self._kv, self._cancel, self._verdict, self._lost = kv, cancel, verdict, lost
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._wake = threading.Condition()
        self._asked: dict[str, Sent] = {}
        self._closed = False
        self._thread: threading.Thread | None = None

    def pack(self, attempts: Sequence[Attempt], flags: int) -> tuple[str, bytes]:
        """Return a name for a bundle, and the message to its worker."""
        items = [Item(attempt.key, attempt.timeout, attempt.payload.body) for attempt in attempts]
        # Not the manager's keys alone: an attempt that was given back comes again.
        name = f"{attempts[0].key}+{next(self._numbers)}"
        key = name.encode()
        return name, HEADER.pack(0.0, time.time(), flags | BUNDLE, len(key)) + key + pickle.dumps(items, 5)

    def add(self, name: str, reference: Any, attempts: Sequence[Attempt]) -> Sent:
        """Take note of one that is with Ray now."""
        sent = Sent(name, reference, attempts)
        for attempt in attempts:
            attempt.handle = Handle(reference, sent)
        with self._wake:
            self._asked[name] = sent
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="compute-ray-bundles", daemon=True)
                self._thread.start()
            elif len(self._asked) == 1:
                self._wake.notify()
        return sent

    def completed(self, sent: Sent, value: Any) -> None:
        """Take what Ray brings of one; in a thread of Ray's."""
        self._forget(sent)
        if type(value) in (bytes, tuple):
            self._take(sent, Result(value))
            # Interrupted between its end and its reply, if any.
            self._report_left(sent, Outcome(Ending.LOST, _TOGETHER))
        elif (outcome := self._verdict(value)) is None:
            # The table must be asked, for which this thread must not be used.
            threading.Thread(target=self._fail, args=(sent, value), daemon=True).start()
        elif outcome.ending is Ending.INTERRUPTED:
            # Before any of them had begun.
            self._report_left(sent, Outcome(Ending.RETURNED))
        else:
            self._report_left(sent, outcome)

    def close(self) -> None:
        """Ask no more, from when this returns on."""
        with self._wake:
            self._closed = True
            self._asked.clear()
            self._wake.notify()
            thread = self._thread
        wait_for(thread)

    def _forget(self, sent: Sent) -> None:
        with self._wake:
            self._asked.pop(sent.name, None)

    def _fail(self, sent: Sent, error: Any) -> None:
        """Find out what a bundle gave back whose worker was lost; what is left then is lost, too."""
        told = None
        try:
            told = self._kv("get", sent.name, BACK)
            if told is not None:
                self._take(sent, Result(told))
                self._kv("del", sent.name, BACK)
        except Exception:
            # The cluster's head does not answer, most likely: all of them count as lost, and are tried again.
            logger.warning("bundle=%s event=unheard", sent.name, exc_info=True)
        left = list(sent.left.values())
        if told is None and len(left) > 1:
            reason = f"{type(error).__name__}, in a worker that ran {len(left)} short tasks one after the other"
            self._report_left(sent, Outcome(Ending.LOST, reason))
            return
        for attempt in left:
            self._lost(attempt, attempt.handle, error)

    def _take(self, sent: Sent, result: Result) -> None:
        """Report what has ended of a bundle, and what has not begun and never will."""
        for key, reply in result.replies.items():
            self._report(sent, key, outcome_of(reply))
        for key in result.returned:
            self._report(sent, key, Outcome(Ending.RETURNED))

    def _report_left(self, sent: Sent, outcome: Outcome) -> None:
        for key in list(sent.left):
            self._report(sent, key, outcome)

    def _report(self, sent: Sent, key: str, outcome: Outcome) -> None:
        with self._lock:
            attempt = sent.left.pop(key, None)
        if attempt is None:
            return
        handle: Handle = attempt.handle
        if outcome.ending is Ending.INTERRUPTED and not handle.stopping:
            outcome = outcome._replace(ending=Ending.LOST, payload=_TOGETHER)
        handle.reference = handle.sent = None
        attempt.report(attempt, outcome)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._asked and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
            time.sleep(_LOOK)
            now = time.monotonic()
            with self._wake:
                due = [sent for sent in self._asked.values() if sent.next <= now]
            for sent in due:
                try:
                    self._look(sent, now)
                except Exception:
                    # The cluster's head does not answer, most likely.
                    logger.warning("bundle=%s event=unheard", sent.name, exc_info=True)
                sent.pause = min(2 * sent.pause, _MOST)
                sent.next = time.monotonic() + sent.pause

    def _look(self, sent: Sent, now: float) -> None:
        told = self._kv("get", sent.name, BACK)
        if told is not None:
            self._forget(sent)
            self._take(sent, Result(told))
            if sent.left and sent.only_to_be_stopped:
                self._cancel(sent.reference)
        elif sent.stopping and now - sent.at > _UNHEARD:
            # None of them has begun: the others are given back.
            self._cancel(sent.reference)
