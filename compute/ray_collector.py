"""Learns what has become of Ray tasks: one by one by callback when there are few, in batches when there are many.

A callback brings a single result soonest, but costs a switch of threads for each; with a full queue that is a
fifth of the throughput. So what is handed over beyond what the cluster runs at once is waited for in batches, and
what turns out to take long gets its callback then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

_WAIT = 0.01
_LONG = 0.3
_SHARE = 4


class Collector:
    """Calls back, once, for each reference, with its value or the exception in its place.

    Parameters
    ----------
    ray : module
        Ray.
    batches : bool
        Whether to wait in batches at all.
    """

    def __init__(self, ray: Any, *, batches: bool) -> None:
        self._ray = ray
        self._batches = batches
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._count = 0
        self._waiting: dict[Any, tuple[float, Callable[[Any], None]]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, reference: Any, few: float, report: Callable[[Any], None]) -> None:
        """Have ``report`` called with what comes of the reference; ``few``: how many a callback each is good for."""
        with self._lock:
            self._count += 1
            if self._batches and self._count > few and not self._closed:
                self._waiting[reference] = (time.monotonic(), report)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="compute-ray-collector", daemon=True)
                    self._thread.start()
                elif len(self._waiting) == 1:
                    self._wake.notify()
                return
        reference._on_completed(lambda value: self._one(report, value))

    def close(self) -> None:
        """Let the thread end."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
            self._wake.notify()

    def _one(self, report: Callable[[Any], None], value: Any) -> None:
        with self._lock:
            self._count -= 1
        report(value)

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                references = list(self._waiting)
            try:
                self._collect(references)
            except Exception:
                if self._closed or not self._ray.is_initialized():
                    # Disconnected while it waited: the manager finds out by itself, and tells who waits.
                    return
                logger.exception("event=collect_failed")
                time.sleep(_WAIT)

    def _collect(self, references: list[Any]) -> None:
        ready, rest = self._ray.wait(
            references, num_returns=max(1, len(references) // _SHARE), timeout=_WAIT, fetch_local=False
        )
        with self._lock:
            found = [self._waiting.pop(reference, None) for reference in ready]
            self._count -= len(ready)
        for (_, report), value in zip((one for one in found if one is not None), self._values(ready), strict=True):
            report(value)
        before = time.monotonic() - _LONG
        with self._lock:
            long = [one for one in rest if one in self._waiting and self._waiting[one][0] < before]
            reports = [self._waiting.pop(reference)[1] for reference in long]
        for reference, report in zip(long, reports, strict=True):
            reference._on_completed(lambda value, report=report: self._one(report, value))

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
