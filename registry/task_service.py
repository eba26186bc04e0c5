"""The task registry as one object: table, journal and runner together. Ray-free; the actor is a thin shell over it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from compute import Config
from registry.storage import open_store
from registry.task_log import TaskLog
from registry.task_record import TaskRecord
from registry.task_runner import LEASE, SLOTS, TaskRunner
from registry.tasks import MAX_OPEN

if TYPE_CHECKING:
    from compute import ComputeManager

DAY = 86_400.0


class TaskService:
    """Accepts tasks, runs them, and tells where they stand; whatever it accepted survives it.

    Parameters
    ----------
    config : Config
        ``storage.uri`` holds the journal; ``monitoring.metrics_retention.days`` is how long finished tasks are kept.
    name : str
        Of the runner.
    manager : callable
        Makes the `ComputeManager` that the tasks go through.
    """

    def __init__(
        self,
        config: Config,
        *,
        name: str,
        manager: Callable[[], ComputeManager],
        slots: int = SLOTS,
        lease: float = LEASE,
        max_open: int = MAX_OPEN,
    ) -> None:
        retention = config.monitoring.metrics_retention.days * DAY
        self.log = TaskLog(
            open_store(config.storage.uri, config),
            retention=retention,
            max_open=max_open,
            read_staleness=config.storage.staleness,
        )
        self.runner = TaskRunner(self.log, config, name=name, manager=manager, slots=slots, lease=lease)
        self.runner.open()

    def accept(self, task_id: str, **fields: Any) -> TaskRecord:
        """Take a task in; see `TaskTable.accept` for the fields."""
        return self.runner.accept(task_id, **fields)

    def get(self, task_id: str) -> TaskRecord:
        """Return where the task stands."""
        return self.log.get(task_id)

    def find(self, caller: str, idempotency_key: str) -> TaskRecord | None:
        """Return the task that this caller submitted under this key, if it is remembered."""
        return self.log.find(caller, idempotency_key)

    def page(
        self,
        *,
        states: Collection[str] = (),
        kinds: Collection[str] = (),
        caller: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[TaskRecord]:
        """Return tasks, the newest first; of some states, kinds or one caller, and older than the id ``before``."""

        def wanted(record: TaskRecord) -> bool:
            return (
                (not states or record.state in states)
                and (not kinds or record.kind in kinds)
                and (caller is None or record.caller == caller)
            )

        return self.log.page(wanted, before, limit)

    def cancel(self, task_id: str) -> TaskRecord:
        """End the task as cancelled and stop its work."""
        return self.runner.cancel(task_id)

    def finished(self, task_id: str) -> Future[TaskRecord]:
        """Return a future of the record as it will be at its end."""
        return self.log.finished(task_id)

    def close(self) -> None:
        """Stop running; what is open goes on elsewhere, or here another time."""
        self.runner.close()
