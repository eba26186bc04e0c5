"""Runs the accepted tasks of one runner through the task layer, a window at a time, and commits how they end."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from compute import Config, TaskState
from compute.errors import ComputeError, TaskCancelled, TaskFailed, TaskNotFinished, TaskNotFound, TaskTimeout
from registry.task_log import TaskLog
from registry.task_queue import TaskQueue
from registry.task_record import TaskRecord
from registry.task_work import execute, remove_objects
from registry.tasks import MAX_RUNS

if TYPE_CHECKING:
    from compute import ComputeManager

logger = logging.getLogger(__name__)

SLOTS = 16
"""Tasks that are with the task layer at once; the others wait here, where their order can still change."""

LEASE = 15.0
"""Seconds after which the tasks of a runner that was lost go to another."""

_SWEEP = 600.0
_SHORTEST = 0.001


class TaskRunner:
    """Runs what its table says is to be run.

    Parameters
    ----------
    log : TaskLog
        The table of tasks and its journal.
    config : Config
        Goes with each task to its worker.
    name : str
        Of this runner. One that comes back under its name goes on with its tasks at once; those of
        other names are taken over when their lease has run out.
    manager : callable
        Makes the `ComputeManager`; called when the first task runs.
    """

    def __init__(
        self,
        log: TaskLog,
        config: Config,
        *,
        name: str,
        manager: Callable[[], ComputeManager],
        slots: int = SLOTS,
        lease: float = LEASE,
    ) -> None:
        self.log = log
        self.name = name
        self._config = config
        self._make_manager = manager
        self._slots = slots
        self._lease = lease
        self._queue = TaskQueue()
        self._lock = threading.Lock()
        self._manager: ComputeManager | None = None
        self._running: dict[str, str | None] = {}
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self._beat: threading.Thread | None = None
        self._swept = time.monotonic()

    def open(self) -> None:
        """Take up what was left open under this name or by runners that are gone, and stay alive."""
        self._heartbeat()
        self._beat = threading.Thread(target=self._keep_alive, name="task-heartbeat", daemon=True)
        self._beat.start()
        atexit.register(self.close)

    def accept(self, task_id: str, **fields: Any) -> TaskRecord:
        """Take a task in: it is in the journal when this returns."""
        until = self.log.clock() + self._lease
        record = self.log.accept(task_id, runner=self.name, until=until, **fields)
        if record.task_id == task_id and not record.state.finished:
            self._enqueue(record)
        return record

    def cancel(self, task_id: str) -> TaskRecord:
        """End a task as cancelled, and stop its work."""
        record = self.log.cancel(task_id)
        self._stop(task_id)
        return record

    @property
    def busy(self) -> int:
        """Tasks that this runner has with the task layer, or is about to commit."""
        with self._lock:
            return len(self._running)

    def close(self) -> None:
        """Let go of everything: what is open goes on with the next runner of this name, or with another at once."""
        if self._closed.is_set():
            return
        self._closed.set()
        atexit.unregister(self.close)
        self._queue.close()
        with self._lock:
            running = list(self._running)
        for task_id in running:
            self._stop(task_id)
        self.log.lease(self.name, 0.0)

    # What follows runs in the runner's own threads

    def _enqueue(self, record: TaskRecord) -> None:
        with self._lock:
            if record.task_id in self._running:
                return
            if len(self._threads) < self._slots and len(self._queue) + len(self._running) >= len(self._threads):
                thread = threading.Thread(target=self._work, name=f"task-slot-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._queue.put(record.task_id, record.caller, record.priority)

    def _work(self) -> None:
        while (task_id := self._queue.get()) is not None:
            with self._lock:
                if task_id in self._running:
                    continue
                self._running[task_id] = None
            try:
                self._run(task_id)
            except (TaskNotFinished, TaskNotFound) as refused:
                # It ended meanwhile (cancelled, mostly), or another runner has it: nothing of ours is to be committed.
                logger.info("task_id=%s runner=%s refused=%r", task_id, self.name, str(refused))
            except Exception:
                # The storage failed, most likely. The task is open still, and the next heartbeat takes it up again:
                # this thread must be there for it.
                logger.exception("task_id=%s runner=%s left_open=true", task_id, self.name)
            finally:
                with self._lock:
                    self._running.pop(task_id, None)

    def _run(self, task_id: str) -> None:
        # First: without a cluster to run it on, it is not begun.
        manager = self._get_manager()
        record = self.log.start(task_id, self.name)
        if record.runs > MAX_RUNS:
            lost = TaskFailed(
                f"the task {task_id} was begun {MAX_RUNS} times, and each time its runner was lost",
                hint="See whether it takes more memory than its node has.",
            )
            self.log.finish(task_id, TaskState.FAILED, run=record.runs, error=lost.problem())
            return
        if self._is_late(record):
            self._end_late(record)
            return
        work_id = manager.submit_task(
            execute,
            record,
            self._config,
            timeout=self._seconds_for(record),
            retries=self._config.task_defaults.retries,
            resources=record.resources,
            priority=record.priority,
        )
        with self._lock:
            self._running[task_id] = work_id
        if self._closed.is_set() or self.log.get(task_id).state.finished:
            manager.cancel_task(work_id)
        state, result, problem = self._outcome(manager, work_id)
        if self._closed.is_set() and state is not TaskState.SUCCEEDED:
            return
        status = manager.get_task_status(work_id)
        manager.drop([work_id])  # what is to be remembered of it, the journal does
        try:
            self.log.finish(
                task_id,
                state,
                run=record.runs,
                retries=max(status.attempts - 1, 0),
                started_at=status.started_at,
                result=result,
                error=problem,
            )
        except TaskNotFinished:
            if result is not None:
                self.log.store.delete(result["key"])
            raise

    def _seconds_for(self, record: TaskRecord) -> float | None:
        """Return what one attempt may take."""
        timeout = record.timeout if record.timeout is not None else self._config.task_defaults.timeout
        if record.deadline is None:
            return timeout
        left = max(record.deadline - self.log.clock(), _SHORTEST)
        return left if timeout is None else min(timeout, left)

    def _outcome(
        self, manager: ComputeManager, work_id: str
    ) -> tuple[TaskState, dict[str, Any] | None, dict[str, Any] | None]:
        try:
            return TaskState.SUCCEEDED, manager.get_result(work_id), None
        except TaskTimeout as error:
            return TaskState.TIMED_OUT, None, error.problem()
        except TaskCancelled as error:
            return TaskState.CANCELLED, None, error.problem()
        except ComputeError as error:
            return TaskState.FAILED, None, error.problem()
        except Exception as error:
            # Whatever the function that answers let through: told to whoever asked, in the log with its traceback.
            logger.exception("work_id=%s failed=true", work_id)
            return TaskState.FAILED, None, TaskFailed(f"{type(error).__name__}: {error}").problem()

    def _get_manager(self) -> ComputeManager:
        with self._lock:
            if self._manager is None or self._manager.closed:
                self._manager = self._make_manager()
            return self._manager

    def _stop(self, task_id: str) -> None:
        with self._lock:
            work_id, manager = self._running.get(task_id), self._manager
        if work_id is not None and manager is not None:
            with suppress(TaskNotFound):  # it has just ended
                manager.cancel_task(work_id)

    def _keep_alive(self) -> None:
        while not self._closed.wait(self._lease / 3):
            try:
                self._heartbeat()
                if time.monotonic() - self._swept > _SWEEP:
                    self.sweep()
                    # In a thread of its own: it may take longer than the lease lasts.
                    threading.Thread(target=self._compact, name=f"compact-{self.name}", daemon=True).start()
            except Exception:
                # Whatever it was (the storage, most likely): without a next beat our tasks would go to others.
                logger.exception("runner=%s heartbeat=failed", self.name)

    def _heartbeat(self) -> None:
        """Say that we live, take up what nobody works on, stop what was cancelled through another process."""
        mine = self.log.adoptable(self.name)
        if mine:
            self.log.lease(self.name, self.log.clock() + self._lease)
        for record in mine:
            if self._is_late(record):
                self._end_late(record)
            else:
                self._enqueue(record)
        with self._lock:
            running = list(self._running)
        for task_id in set(running).difference(record.task_id for record in mine):
            self._stop(task_id)

    def _is_late(self, record: TaskRecord) -> bool:
        return record.deadline is not None and record.deadline <= self.log.clock()

    def _end_late(self, record: TaskRecord) -> None:
        late = TaskTimeout(
            f"the task {record.task_id} had not ended by its deadline",
            hint="Allow more time: other tasks may come first.",
            context={"task_id": record.task_id},
        )
        with suppress(TaskNotFinished, TaskNotFound):  # it has just ended
            self.log.finish(record.task_id, TaskState.TIMED_OUT, run=record.runs, error=late.problem())
        self._stop(record.task_id)

    def _compact(self) -> None:
        try:
            self.log.compact()
        except ComputeError:  # the storage, most likely: it is tried again after the next sweep
            logger.exception("runner=%s compaction=failed", self.name)

    def sweep(self) -> int:
        """Forget what ended longer ago than results are kept, and remove its objects. Gives their number."""
        self._swept = time.monotonic()
        count = 0
        while forgotten := self.log.forget():
            count += len(forgotten)
            for record in forgotten:
                remove_objects(self.log.store, record)
        return count
