"""Solves in a process of its own, with three deadlines: the engine's own limit, a request to stop, and the end.

Whatever an engine does, the best solution that it told of before is there.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import IO, Any, NamedTuple

import numpy as np

from solver.optimization.engine import Conflict, Options, Outcome
from solver.optimization.forkserver import Child, start
from solver.optimization.job import STOP, Incumbent, Job

_SOFT = 1.0
"""Seconds after the engine's own limit that it is asked to stop."""
_HARD = 2.0
"""Seconds after that until its process is ended."""
_QUICK = 0.35
"""The same when somebody else asks it to stop: what it has found is known, and it is not waited for."""
_STARTING = 60.0
"""Seconds in which its process has to be up, however busy the machine is."""
_EXPLAINING = 12.0
_LOG_BYTES = 64 * 1024
_LOOK = 0.05
_TELL = 0.2


class Run(NamedTuple):
    """What came of a job."""

    outcome: Outcome
    incumbents: list[Incumbent]
    """The better solutions in the order in which they were found; the points of the last ones only."""
    conflict: Conflict | None
    version: str
    seconds: float
    log: str
    """The end of what the engine printed."""
    options: Options = Options()
    """What the engine was given."""


def run_job(
    job: Job,
    *,
    progress: Callable[[float, Incumbent | None], None] | None = None,
    stopped: Callable[[], bool] | None = None,
    ready: Callable[[], None] | None = None,
) -> Run:
    """Solve a job in a process of its own, and wait for it.

    Parameters
    ----------
    job : Job
        Its ``options.time_limit`` is kept to within three seconds, whatever the engine does.
    progress : callable
        Told a few times a second of the seconds that have passed, and of the best solution so far.
    stopped : callable
        Asked as often whether to stop; the solution found so far is kept.
    ready : callable
        Told when its process is up, which may take its time on a busy machine.

    Returns
    -------
    Run
    """
    with tempfile.TemporaryFile() as log:
        ours, theirs = socket.socketpair()
        with theirs, ours:
            child = start(job.engine, theirs.fileno(), log.fileno())
            line = Connection(ours.detach())
        try:
            return _Watch(job, child, line, log, ready or _nothing).run(progress or _ignore, stopped or _never)
        finally:
            # Also when the wait was interrupted: nothing is left behind.
            child.close()
            line.close()


class _Watch:
    def __init__(self, job: Job, child: Child, line: Connection, log: IO[bytes], ready: Callable[[], None]) -> None:
        self._job, self._child, self._line, self._log = job, child, line, log
        self._tell_ready = ready
        self._incumbents: list[Incumbent] = []
        self._outcome: Outcome | None = None
        self._conflict: Conflict | None = None
        self._version = ""
        self._started = time.monotonic()
        self._ready: float | None = None
        self._asked: float | None = None
        self._patience = _HARD

    def run(self, progress: Callable[[float, Incumbent | None], None], stopped: Callable[[], bool]) -> Run:
        self._line.send(self._job)
        told = -_TELL
        while self._receive():
            now = time.monotonic()
            if now >= told + _TELL:
                progress(now - self._started, self._incumbents[-1] if self._incumbents else None)
                told = now
            if self._asked is None and self._outcome is None and (now >= self._soft() or stopped()):
                self._asked = now
                self._patience = _HARD if now >= self._soft() else _QUICK
                with suppress(OSError):  # it has ended: what it said is read next
                    self._line.send(STOP)
            if now >= self._hard() or (self._outcome is not None and stopped()):
                self._child.kill()
        seconds = time.monotonic() - self._started
        outcome = self._outcome or self._ended()
        if outcome.limit == "INTERRUPTED" and not stopped():
            # It was asked to stop because its time was up.
            outcome = replace(outcome, limit="TIME")
        return Run(outcome, self._incumbents, self._conflict, self._version, seconds, self._tail(), self._job.options)

    def _soft(self) -> float:
        """Return when it is asked to stop: its limit does not begin before it does."""
        begun = self._started + _STARTING if self._ready is None else self._ready
        return begun + self._job.options.time_limit + _SOFT

    def _hard(self) -> float:
        """Return when it is ended."""
        if self._outcome is not None:
            return self._soft() + _EXPLAINING
        if self._asked is not None:
            return self._asked + self._patience
        return self._started + _STARTING if self._ready is None else self._soft() + _HARD

    def _receive(self) -> bool:
        """Take one message, if one comes soon; False when there will be none."""
        try:
            if not self._line.poll(_LOOK):
                return True
            message: Any = self._line.recv()
        except (EOFError, OSError):
            return False
        if isinstance(message, Incumbent):
            self._incumbents.append(message)
            # The points of all of them could be large.
            if len(self._incumbents) > (kept := self._job.options.solutions):
                self._incumbents[-1 - kept] = self._incumbents[-1 - kept]._replace(x=np.empty(0))
        elif message[0] == "ready":
            self._ready = time.monotonic()
            self._tell_ready()
        elif message[0] == "solved":
            self._outcome, self._version = message[1], message[2]
            return message[1].reason == "INFEASIBLE" and self._job.explain
        elif message[0] == "explained":
            self._conflict = message[1]
            return False
        elif message[0] == "refused":
            self._outcome = Outcome("OTHER_ERROR", detail=f"{self._job.engine} cannot solve it: {message[1]}")
            return False
        else:
            self._outcome = self._kept(message[1], message[2])
            return False
        return True

    def _ended(self) -> Outcome:
        """Say what happened when the process ended without an answer."""
        code = self._child.wait(_HARD)
        now = time.monotonic()
        if (self._asked is not None or now >= self._hard()) and code in (None, -signal.SIGKILL):
            limit = "INTERRUPTED" if now < self._soft() else "TIME"
            return self._kept(limit, f"{self._job.engine} did not stop when it was asked to, and was ended")
        if code is None:
            how = "without a word: what had started it has ended"
        else:
            how = f"with signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return self._kept(None, f"the process of {self._job.engine} ended {how}")

    def _kept(self, limit: Any, detail: str) -> Outcome:
        """Return the best solution that was told of before."""
        if not self._incumbents:
            return Outcome("NO_SOLUTION_FOUND" if limit else "OTHER_ERROR", limit, detail)
        best = self._incumbents[-1]
        return Outcome("FEASIBLE", limit or "OTHER", detail, best.x, best.bound)

    def _tail(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        self._log.seek(max(0, size - _LOG_BYTES))
        return self._log.read().decode(errors="replace")


def _ignore(seconds: float, best: Incumbent | None) -> None:
    """Tell nobody."""


def _nothing() -> None:
    """Do nothing."""


def _never() -> bool:
    return False
