"""Learns what has become of Ray tasks, in the cheapest of three ways.

- Somebody waits for this very task: the waiting thread asks Ray itself, as `ray.get` does.
- Few are under way: a callback each, which brings a result soonest but costs a switch of threads.
- Many are: one thread waits for them in batches; with callbacks a full queue loses a fifth of its throughput.

So a task is left alone for a moment after it was handed over, and what turns out to take long gets a callback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

Report = Callable[[Any], None]
"""Takes the value of a reference, or the exception in its place."""

_CLOSING = 5.0

_FRESH = 0.003
_AWAKE = 0.25
_WAIT = 0.01
_LONG = 0.3
_SHARE = 4


def wait_for(thread: threading.Thread | None) -> None:
    """Wait until a thread has ended that asks Ray something; letting go of a reference while Ray shuts down ends us."""
    if thread is not None and thread is not threading.current_thread():
        thread.join(_CLOSING)


class Collector:
    """Calls back, once, for each reference.

    Parameters
    ----------
    ray : module
        Ray.
    batches : bool
        Whether to wait in batches at all: over Ray Client each reference would be a request of its own.
    """

    def __init__(self, ray: Any, *, batches: bool) -> None:
        self._ray = ray
        self._batches = batches
        self._few = 0.0
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._waiting: dict[Any, tuple[float, Report]] = {}
        self._watched = 0
        self._dozing = False
        self._hurry = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def watch(self, reference: Any, few: float, report: Report) -> None:
        """Have ``report`` called with what comes of the reference; up to ``few`` of them one by one."""
        with self._lock:
            self._few = few
            self._waiting[reference] = (time.monotonic(), report)
            self._watched += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="compute-ray-collector", daemon=True)
                self._thread.start()
            elif self._dozing:
                self._dozing = False
                self._wake.notify()

    def get(self, reference: Any, timeout: float | None) -> None:
        """Wait for this reference in the calling thread and report it from there, if nobody else does yet."""
        with self._lock:
            claimed = self._waiting.pop(reference, None)
        if claimed is None:
            return
        try:
            value = self._ray.get(reference, timeout=timeout)
        except self._ray.exceptions.GetTimeoutError:
            reference._on_completed(claimed[1])
            return
        except Exception as error:  # noqa: BLE001  (the task's failure is its value here)
            value = error
        except BaseException:
            # Ctrl-C: this thread waits no longer, the task goes on.
            reference._on_completed(claimed[1])
            raise
        claimed[1](value)

    def hurry(self) -> None:
        """Look at all references now: somebody waits for several."""
        with self._lock:
            if self._waiting and len(self._waiting) <= self._few:
                self._hurry = True
                self._wake.notify()

    def close(self) -> None:
        """Let the thread end, and wait for it."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._wake.notify()
            thread = self._thread
        wait_for(thread)

    def _run(self) -> None:
        while True:
            batch, singles = self._next()
            try:
                if self._closed:
                    return
                for reference, report in singles:
                    reference._on_completed(report)
                if batch:
                    self._collect(batch)
            except Exception:
                if self._closed or not self._ray.is_initialized():
                    # Disconnected while it waited: the manager finds out by itself, and tells who waits.
                    return
                logger.exception("event=collect_failed")
                time.sleep(_WAIT)

    def _next(self) -> tuple[list[Any], list[tuple[Any, Report]]]:
        """Wait until there is something to do; return references to wait for, and some to get a callback each."""
        active, seen = time.monotonic(), self._watched
        with self._lock:
            while not self._closed:
                now = time.monotonic()
                if self._batches and len(self._waiting) > self._few:
                    return list(self._waiting), []
                before = now if self._hurry else now - _FRESH
                self._hurry = False
                old = [one for one, (since, _) in self._waiting.items() if since <= before]
                if old:
                    return [], [(one, self._waiting.pop(one)[1]) for one in old]
                if self._waiting or self._watched != seen:
                    active, seen = now, self._watched
                if now - active < _AWAKE:
                    self._wake.wait(_FRESH)
                else:
                    self._dozing = True
                    self._wake.wait()
                    self._dozing = False
                    active = time.monotonic()
        return [], []

    def _collect(self, references: list[Any]) -> None:
        ready, rest = self._ray.wait(
            references, num_returns=max(1, len(references) // _SHARE), timeout=_WAIT, fetch_local=False
        )
        with self._lock:
            found = [(one, self._waiting.pop(one)[1]) for one in ready if one in self._waiting]
        for (_, report), value in zip(found, self._values([one for one, _ in found]), strict=True):
            report(value)
        before = time.monotonic() - _LONG
        with self._lock:
            long = [(one, self._waiting.pop(one)[1]) for one in rest if self._since(one) < before]
        for reference, report in long:
            reference._on_completed(report)

    def _since(self, reference: Any) -> float:
        return self._waiting[reference][0] if reference in self._waiting else float("inf")

    def _values(self, references: list[Any]) -> list[Any]:
        try:
            return list(self._ray.get(references))
        except Exception:  # noqa: BLE001  (one of them failed; which, and how, is asked one by one)
            return [self._value(reference) for reference in references]

    def _value(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except Exception as error:  # noqa: BLE001  (the task's failure is its value here)
            return error
