"""One attempt in a Dask worker; it runs in one of the worker's threads.

A thread cannot be ended. An interruption is raised in it, which reaches Python code; what does not heed that ends with
the worker's process, which a nanny starts again. Without a nanny it is left alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from compute.attempt import Overdue, run
from compute.killer import Killer
from compute.wire import INTERRUPTED, Reply, plain_pickler

if TYPE_CHECKING:
    from distributed import Nanny, Worker

MARK = "compute/"
"""How the keys of attempts begin."""

TOPIC = "compute-attempts"
KILL_AFTER = 1.0
"""Seconds from interrupting an overdue function to ending its process."""

HELD = 1024 * 1024
"""Replies of this many bytes and more stay with the worker until they are asked for."""


class Held(Reply):
    """A reply that is fetched only when it is asked for: Dask tells the client the type of a result."""

    __slots__ = ()


class _Run:
    """An attempt that is running in a thread of this process."""

    __slots__ = ("_lock", "_over", "_thread")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = False
        self._thread = threading.get_ident()

    def interrupt(self, error: type[BaseException]) -> None:
        """Raise an exception in the function, as soon as it runs Python code."""
        with self._lock:
            if not self._over:
                raise_in(self._thread, error)

    def end(self) -> None:
        """Take back an interruption that came too late to be noticed."""
        with self._lock:
            self._over = True
            raise_in(self._thread, None)


_running: dict[str, _Run] = {}
_unwanted: set[str] = set()


class _Killers(threading.local):
    """A timer for each thread."""

    def __init__(self) -> None:
        self.own = Killer()


_killers = _Killers()


def attempt(topic: str, key: str, timeout: float | None, body: bytes, buffered: bool, *lifted: Any) -> Reply:
    """Run one call and return its reply; tells those who listen to the topic when it begins."""
    from distributed import get_worker

    worker = get_worker()
    worker.log_event(topic, {"key": key, "started_at": time.time(), "worker": worker.address})
    reply = run_one(worker, topic, key, timeout, body, buffered, lifted)
    large = reply.code == 0 and len(reply.body) + sum(map(len, reply.buffers)) >= HELD
    return Held(*reply) if large else reply


def run_one(
    worker: Worker, topic: str, key: str, timeout: float | None, body: bytes, buffered: bool, lifted: Sequence[Any]
) -> Reply:
    """Run a call in this thread so that it can be interrupted."""
    current = _running[key] = _Run()
    try:
        if key in _unwanted:
            return Reply(INTERRUPTED, time.time(), 0.0, b"")
        guard = functools.partial(_guard, current, timeout, worker.nanny is not None)
        reply = run(body, lifted, (), buffered, plain_pickler(), functools.partial(_tell, worker, topic, key), guard)
    finally:
        del _running[key]
        _unwanted.discard(key)
    # Bytes, which Dask moves as they are; views of memory it would not know.
    return reply._replace(buffers=[buffer.raw().tobytes() for buffer in reply.buffers])


def _tell(worker: Worker, topic: str, key: str, reports: bytes) -> None:
    worker.log_event(topic, {"key": key, "reports": reports})


def _guard(current: _Run, timeout: float | None, has_nanny: bool, function: Callable[[], Any]) -> Any:
    """Run a function that others may interrupt; raise `Overdue` in it when its time is up."""
    if timeout is None:
        try:
            return function()
        finally:
            current.end()
    timer = threading.Timer(timeout, current.interrupt, (Overdue,))
    timer.daemon = True
    timer.start()
    if has_nanny:
        _killers.own.arm(timeout + KILL_AFTER)
    began = time.monotonic()
    try:
        value = function()
        if time.monotonic() - began > timeout:
            # It kept the interruption from itself.
            raise Overdue
        return value
    finally:
        if has_nanny:
            _killers.own.disarm()
        timer.cancel()
        current.end()


def interrupt(key: str) -> None:
    """Raise `KeyboardInterrupt` in an attempt on this worker, or keep it from beginning; by `Client.run`."""
    current = _running.get(key)
    if current is None:
        _unwanted.add(key)
    else:
        current.interrupt(KeyboardInterrupt)


def forget(keys: Iterable[str]) -> None:
    """Let go of what was said of attempts that have had their turn, or will have it elsewhere."""
    _unwanted.difference_update(keys)


def end_process(dask_worker: Nanny) -> None:
    """End the process of a nanny's worker, which the nanny then starts again; by `Client.run` on the nanny.

    Parameters
    ----------
    dask_worker : distributed.Nanny
        So called because Dask fills in the argument of this name.
    """
    pid = dask_worker.pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in another thread, as soon as it runs Python code; None takes it back."""
    exception = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)
