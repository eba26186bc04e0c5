"""The process that solves: ``python -m solver.optimization.worker FD``, started by `solver.optimization.process`.

An engine that crashes, leaks or does not stop takes this process along, and nothing else. It ends with the one that
started it: when the other end of its socket closes.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from solver.optimization.engine import Conflict, Engine, Events
from solver.optimization.engines import MODULES
from solver.optimization.job import STOP, Incumbent, Job
from solver.optimization.model import Model
from solver.optimization.program import Program


def main() -> None:
    """Solve one job and end."""
    line = Connection(int(sys.argv[1]))
    job: Job = line.recv()
    if job.memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (job.memory, job.memory))
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


if __name__ == "__main__":
    main()
