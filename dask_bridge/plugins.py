"""What the manager adds to a Dask cluster: tasks run once, and do not outlive the client that wanted them.

Imported by the scheduler and its workers, which have this package, too.
"""

from __future__ import annotations

from typing import Any

import distributed

from dask_bridge import bundle, journal, worker


class RunOnce(distributed.SchedulerPlugin):
    """Leaves repeating to the manager, which counts it and waits between.

    Dask runs a task again when its worker is lost, even one whose result was there already, and tells nobody. An
    attempt that was given to a worker is forgotten instead, as if what it depends on were gone, and the client hears.
    """

    name = "compute-run-once"
    idempotent = True

    async def start(self, scheduler: distributed.Scheduler) -> None:
        """Remember the scheduler."""
        self._scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Mark an attempt that goes to a worker."""
        if finish == "processing" and isinstance(key, str) and key.startswith(worker.MARK):
            self._scheduler.tasks[key].has_lost_dependencies = True


class StopUnwanted(distributed.WorkerPlugin):
    """Interrupts an attempt that nobody wants any more: its client is gone."""

    name = "compute-stop-unwanted"
    idempotent = True

    def teardown(self, worker: distributed.Worker) -> None:  # noqa: ARG002
        """Leave nothing behind."""
        journal.forget()

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:  # noqa: ARG002
        """Look for attempts that the scheduler took back while they were running."""
        running = start in ("executing", "long-running")
        mine = isinstance(key, str) and key.startswith(worker.MARK)
        if running and finish == "released" and mine and not bundle.interrupt(key):
            worker.interrupt(key)
