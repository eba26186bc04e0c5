"""One attempt in a Dask worker; it runs in one of the worker's threads."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

from compute.attempt import Overdue, run
from compute.wire import plain_pickler

TOPIC = "compute-attempts-begun"


def attempt(topic: str, key: str, timeout: float | None, body: bytes, buffered: bool, *lifted: Any) -> Any:
    """Run one call and return its reply; tells those who listen to the topic when it begins."""
    from distributed import get_worker

    get_worker().log_event(topic, {"key": key, "started_at": time.time()})
    guard = None if timeout is None else _deadline(timeout)
    reply = run(body, lifted, (), buffered, plain_pickler(), guard)
    # Bytes, which Dask moves as they are; views of memory it would not know.
    return reply._replace(buffers=[buffer.raw().tobytes() for buffer in reply.buffers])


def _deadline(timeout: float) -> Callable[[Callable[[], Any]], Any]:
    def guard(function: Callable[[], Any]) -> Any:
        """Run a function; raise `Overdue` in this thread when its time is up.

        A thread cannot be ended, so this reaches Python code only: not what waits or computes in native code.
        """
        thread = threading.get_ident()
        done = threading.Lock()
        over = False

        def interrupt() -> None:
            with done:
                if not over:
                    raise_in(thread, Overdue)

        timer = threading.Timer(timeout, interrupt)
        timer.daemon = True
        timer.start()
        began = time.monotonic()
        try:
            value = function()
            if time.monotonic() - began > timeout:
                raise Overdue
            return value
        finally:
            timer.cancel()
            with done:
                over = True

    return guard


def raise_in(thread: int, error: type[BaseException]) -> None:
    """Raise an exception in another thread, as soon as it runs Python code."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
