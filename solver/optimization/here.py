"""Solves a job in this process: in milliseconds, and without the walls that `solver.optimization.process` has.

For many small programs one after another, in a worker that may be lost.
"""

from __future__ import annotations

import importlib
import time

from solver.optimization.engine import Engine, Events, Outcome
from solver.optimization.engines import MODULES
from solver.optimization.job import Incumbent, Job
from solver.optimization.process import Run


def run_here(job: Job) -> Run:
    """Solve one job; an engine's failure is told as an outcome."""
    started = time.monotonic()
    engine: Engine = importlib.import_module(MODULES[job.engine])  # type: ignore[assignment]
    found: list[Incumbent] = []

    def note(objective: float, x: object, bound: float | None) -> None:
        found[:] = [Incumbent(time.monotonic() - started, float(objective), x, bound)]  # type: ignore[arg-type]

    if refusal := engine.refuses(job.program):
        outcome = Outcome("OTHER_ERROR", None, f"{job.engine} does not take this program: {refusal}")
    else:
        try:
            outcome = engine.solve(job.program, job.options._replace(quiet=True), Events(note))
        except Exception as error:  # noqa: BLE001  (whatever it is; it is told, and the next engine asked)
            outcome = Outcome("OTHER_ERROR", None, f"{type(error).__name__}: {error}")
    return Run(outcome, found, None, engine.version(), time.monotonic() - started, "", job.options)
