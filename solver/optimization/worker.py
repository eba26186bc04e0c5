"""What a process does that solves, started by `solver.optimization.forkserver`.

An engine that crashes, leaks or does not stop takes this process along, and nothing else. It ends with the one that
asked for it: when the other end of its socket closes.
"""

from __future__ import annotations

import importlib
import os
import resource
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from solver.optimization.engine import Conflict, Engine, Events
from solver.optimization.engines import MODULES
from solver.optimization.job import STOP, Incumbent, Job
from solver.optimization.model import Model
from solver.optimization.program import Program


def solve(fd: int) -> None:
    """Solve the one job that comes over a socket."""
    line = Connection(fd)
    job: Job = line.recv()
    if job.memory is not None:
        limit = job.memory + _taken()
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    lock = threading.Lock()

    def send(message: Any) -> None:
        with lock:
            line.send(message)

    events = Events(lambda objective, x, bound: send(Incumbent(time.monotonic() - started, float(objective), x, bound)))
    threading.Thread(target=_listen, args=(line, events), daemon=True).start()
    try:
        engine: Engine = importlib.import_module(MODULES[job.engine])  # type: ignore[assignment]
        send(("ready",))
        started = time.monotonic()
        if refusal := engine.refuses(job.program):
            send(("refused", refusal))
            return
        outcome = engine.solve(job.program, job.options, events)
        send(("solved", outcome, engine.version()))
        if outcome.reason == "INFEASIBLE" and job.explain:
            send(("explained", _conflict(job.program)))
    except MemoryError:
        send(("failed", "MEMORY", f"{job.engine} ran out of the memory that it may take"))
    except Exception as error:  # noqa: BLE001  (whatever an engine raises; the other process tells of it)
        send(("failed", None, f"{type(error).__name__}: {error}"))


def _taken() -> int:
    """Return the bytes of this process's addresses: of libraries, mostly, which all such processes share."""
    with suppress(FileNotFoundError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    return 0  # where nothing counts them, the limit is not kept either


def _conflict(program: Model) -> Conflict | None:
    """Say why a program is infeasible, of those for which that is known."""
    if not isinstance(program, Program) or program.choices.given:
        return None
    from solver.optimization.conflict import find_conflict

    return find_conflict(program)


def _listen(line: Connection, events: Events) -> None:
    while True:
        try:
            message = line.recv()
        except (EOFError, OSError):
            os._exit(1)
        if message == STOP:
            events.stop()
