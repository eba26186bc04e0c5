"""A process that keeps the libraries of models imported and works for one run at a time: what a warm actor does.

Plain and synchronous, so that it is tested without a cluster; Ray is imported where an actor ends itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from compute.errors import WorkerLost

logger = logging.getLogger(__name__)

LIBRARIES = ("pandas", "pyarrow.parquet", "xgboost", "lightgbm", "registry", "jobs.metrics")
# Seconds that a run may be silent, between two of its calls, before its worker is free again: its driver has died.
_SILENCE = 60.0
_LOOK = 2.0


class WarmWorker:
    """Does what runs ask, one run after another.

    Parameters
    ----------
    idle : float
        Seconds without a run after which ``leave`` is called with False.
    growth : int
        Bytes that the process may have grown by when a run is over, before ``leave`` is called with True.
    libraries : sequence of str
        What is imported at the start.
    leave : callable, optional
        Ends this process; told whether another is to take its place.
    """

    def __init__(
        self,
        idle: float,
        growth: int,
        libraries: tuple[str, ...] = LIBRARIES,
        leave: Callable[[bool], None] | None = None,
    ) -> None:
        # Ray sets it to 1 for an actor without CPUs; each run says how many threads it has.
        os.environ.pop("OMP_NUM_THREADS", None)
        for name in libraries:
            importlib.import_module(name)
        self._idle, self._growth = idle, growth
        self._leave = leave or _leave_ray
        self._lock = threading.Lock()
        self._run: str | None = None
        self._state: dict[str, Any] = {}
        self._working = self._leaving = False
        self._used = time.monotonic()
        self._base = _resident()
        threading.Thread(target=self._watch, name="warm-worker", daemon=True).start()

    def process(self) -> int:
        """Return the number of this process: an answer says that the imports are done."""
        return os.getpid()

    def reserve(self, run: str) -> bool:
        """Work for this run alone from now on, if no other has the worker."""
        with self._lock:
            self._drop_silent()
            if self._leaving or self._run not in (None, run):
                return False
            self._run, self._used = run, time.monotonic()
            return True

    def release(self, run: str) -> None:
        """Forget what the run left here; what is under way is ended first."""
        with self._lock:
            if self._run == run and not self._working:
                self._forget()
            elif self._run == run:
                # No further call of the run is taken, and the silence ends it.
                self._used = 0.0

    def call(self, run: str, function: Callable[..., Any], *args: Any) -> Any:
        """Return what the function gives; its first argument is a dict that lasts as long as the run."""
        with self._lock:
            if self._run != run:
                raise WorkerLost("a warm worker has started anew", hint="Do it again.", context={"run": run})
            self._working, state = True, self._state
        try:
            return function(state, *args)
        finally:
            with self._lock:
                self._working = False
                if self._used:
                    self._used = time.monotonic()
                else:
                    self._forget()

    def _drop_silent(self) -> None:
        if self._run is not None and not self._working and time.monotonic() - self._used > _SILENCE:
            logger.warning("run=%s event=abandoned", self._run)
            self._forget()

    def _forget(self) -> None:
        self._run, self._used = None, time.monotonic()
        self._state = {}
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # not glibc: the allocator gives back what it will
            ctypes.CDLL("libc.so.6").malloc_trim(0)

    def _watch(self) -> None:
        while not self._leaving:
            time.sleep(min(_LOOK, self._idle))
            self.look()

    def look(self) -> None:
        """Leave when there was nothing to do for long, or when runs have left too much behind."""
        with self._lock:
            self._drop_silent()
            if self._run is not None:
                return
            idle, grown = time.monotonic() - self._used, _resident() - self._base
            if idle <= self._idle and grown <= self._growth:
                return
            self._leaving = True
        logger.info("event=leaving idle=%.0f grown=%d", idle, grown)
        self._leave(idle <= self._idle)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _leave_ray(again: bool) -> None:
    import ray

    actor: Any = ray.get_runtime_context().current_actor
    ray.kill(actor, no_restart=not again)
