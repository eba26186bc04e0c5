"""How far a running task is: what it reports, and how that travels to who asks.

Workers import this, so it needs the standard library and nothing else.
"""

from __future__ import annotations

import contextvars
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

logger = logging.getLogger(__name__)

KEPT = 100
"""Reports of one attempt that are remembered: the latest."""

LONGEST = 1000
"""Characters of a message that are kept."""

PERIOD = 0.1
"""Seconds between two sendings: a task that reports in a tight loop does not wait for the network."""


class Progress(NamedTuple):
    """One report of a task."""

    fraction: float
    """How much is done, 0 to 1."""
    message: str | None
    at: float
    """Seconds since the epoch, by the worker's clock."""


def report_progress(fraction: float, message: str | None = None) -> None:
    """Tell, from within a task, how far it is; `ComputeManager.get_task_status` shows it while the task runs.

    It never fails or delays the task for want of a connection, and outside of a task it does nothing. Reports belong
    to the thread that runs the task's function: those of threads that the function starts reach nobody.

    Parameters
    ----------
    fraction : float
        How much is done, 0 to 1.
    message : str, optional
        A line for people; of a long one the first 1,000 characters are kept.

    Raises
    ------
    InvalidField
        When the fraction is not from 0 to 1.

    Examples
    --------
    >>> from compute.local_backend import LocalBackend
    >>> from compute.manager import ComputeManager
    >>> with ComputeManager(LocalBackend(workers=1)) as manager:
    ...     task_id = manager.submit_task(report_progress, 0.4, "fold 2 of 5")
    ...     manager.get_result(task_id)
    ...     manager.get_task_status(task_id).progress
    0.4
    """
    if not 0 <= fraction <= 1:
        from compute.errors import InvalidField

        raise InvalidField(f"fraction is {fraction!r}", hint="Give how much is done, from 0 to 1.")
    reports = _current.get()
    if reports is not None:
        text = None if message is None else str(message)[:LONGEST]
        reports.add(Progress(float(fraction), text, time.time()))


class Reports:
    """What one attempt reports, sent on at most ten times a second; with the last of it comes the attempt's reply.

    Parameters
    ----------
    send : callable
        Takes all that is kept, as bytes, to the manager; called in the task's thread or a timer's.
    """

    __slots__ = ("_closed", "_kept", "_lock", "_send", "_sent_at", "_timer", "_token")

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._kept: deque[Progress] | None = None
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._sent_at = 0.0
        self._closed = False
        self._token = _current.set(self)

    def add(self, report: Progress) -> None:
        """Keep a report, and send it on now or soon."""
        with self._lock:
            if self._closed:
                return
            if self._kept is None:
                self._kept = deque(maxlen=KEPT)
            self._kept.append(report)
            wait = self._sent_at + PERIOD - time.monotonic()
            if wait <= 0:
                self._flush()
            elif self._timer is None:
                self._timer = threading.Timer(wait, self._late)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> bytes:
        """Send nothing any more; return what is kept."""
        _current.reset(self._token)
        if self._kept is None:
            return b""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        return pack(self._kept)

    def _late(self) -> None:
        with self._lock:
            self._timer = None
            if not self._closed:
                self._flush()

    def _flush(self) -> None:
        self._sent_at = time.monotonic()
        try:
            self._send(pack(self._kept or ()))
        except Exception:
            # The reply brings it, too: nobody is to lose a day's work because a report could not be sent.
            logger.warning("event=report_unsent", exc_info=True)


def pack(reports: deque[Progress] | tuple[Progress, ...]) -> bytes:
    """Return reports as bytes.

    Examples
    --------
    >>> unpack(pack((Progress(0.5, "half", 1.0),)))
    (Progress(fraction=0.5, message='half', at=1.0),)
    """
    return json.dumps(list(reports)).encode()


def unpack(data: bytes) -> tuple[Progress, ...]:
    """Undo `pack`; no bytes are no reports."""
    return tuple(Progress(*report) for report in json.loads(data)) if data else ()


_current: contextvars.ContextVar[Reports | None] = contextvars.ContextVar("compute_reports", default=None)
