"""Brings waiting tasks to the engine and what comes of them back: admission, retries, cancellation, deadlines.

One lock guards all state and is never held while the engine is called. Work is handed over in the thread that
submits when nothing waits; what waits is handed over by one thread, which sleeps when there is nothing to do.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from compute.backend import Attempt, Backend, Capacity, Ending, Outcome
from compute.durations import Durations
from compute.errors import (
    CapabilityMissing,
    ComputeError,
    TaskCancelled,
    WorkerLost,
)
from compute.lineage import Family
from compute.metrics import Metrics
from compute.resources import Limits, Resources
from compute.retry import pause
from compute.states import TaskState
from compute.table import TaskTable
from compute.task import Latch, Task, Watcher
from compute.verdicts import verdict, without
from compute.waiting import Share, Usage, WaitingQueue
from compute.wire import Awaited

logger = logging.getLogger(__name__)

AHEAD = 0.08
"""Seconds of work per CPU that is handed over ahead to an engine that queues: small tasks then follow each other
without a round trip, and long ones can still be overtaken."""

TOGETHER = 0.02
"""Seconds of work that is handed over as one to an engine that bundles."""

FED = 4.0
"""Bundles per CPU, the running ones among them, that are with an engine that queues: with fewer, Ray gives its workers
back between two of them, and starts others."""

_SMALL = 16 * 1024
"""Calls of so many bytes and more go alone."""

GRACE = 2.0
"""Seconds from asking a running task to stop to ending its process."""

_TICK = 1.0
_IDLE = 5.0
_REFRESH = 2.0


class Dispatcher:
    """The engine's side of a manager.

    Parameters
    ----------
    backend : Backend
        The engine.
    table : TaskTable
        Where finished tasks are remembered.
    limits : Limits
        What tasks may take at once; what the engine has bounds them besides.
    backoff_factor : float
        ``task_defaults.backoff_factor``.
    metrics : Metrics or None
        Counts, if anybody wants them.
    """

    def __init__(
        self, backend: Backend, table: TaskTable, limits: Limits, backoff_factor: float, metrics: Metrics | None
    ) -> None:
        self.lock = threading.Lock()
        self._backend = backend
        self._table = table
        self._limits = limits
        self._factor = backoff_factor
        self._metrics = metrics
        self._queues = backend.capabilities.queues
        self._bundles = backend.capabilities.bundles
        self._notes = backend.capabilities.keeps_notes
        self._waiting: WaitingQueue[Task] = WaitingQueue()
        self._durations = Durations()
        self._under_way: dict[str, Attempt] = {}
        self._timers: list[tuple[float, int, Callable[[], Attempt | None]]] = []
        self._numbers = itertools.count()
        self._inbox: list[tuple[Task, Outcome]] = []
        self._supplied: list[Task] = []
        self._wake = threading.Condition(self.lock)
        self._poked = False
        self._closed = False
        self._checked = self._refreshed = time.monotonic()
        self._usage = Usage(limits)
        self._resize(backend.capacity())
        backend.on_change(self._capacity_changed)
        self._thread = threading.Thread(target=self._run, name=f"compute-{backend.name}", daemon=True)
        self._thread.start()

    # Called by the manager

    def add(self, task: Task, dependencies: Sequence[Task] = ()) -> None:
        """Take a task in, and hand it over at once if it waits for no other, nothing waits and it fits."""
        with self.lock:
            if self._closed:
                raise TaskCancelled("the manager was shut down", hint="Get another with get_compute_manager().")
            self._table.add(task)
            if self._metrics is not None:
                self._metrics.submitted += 1
            if dependencies:
                task.missing = len(dependencies)
                for other in dependencies:
                    if other.state.finished:
                        self._supply(task, other)
                    else:
                        other.dependents.append(task)
                return
            fits = self._fits(task)
            if len(self._waiting) or not fits:
                self._enqueue(task)
                if not self._under_way or (fits and not self._well_fed()):
                    self._poke()
                return
            attempt = self._begin(task, self._take(task))
        self._start(attempt)

    def cancel(self, task: Task) -> bool:
        """End a task as cancelled; False when it has ended already."""
        running = task.attempt
        if (
            running is not None
            and not self._backend.capabilities.stops_running_tasks
            and self._backend.started_at(running) is not None
        ):
            raise CapabilityMissing(
                f"the backend {self._backend.name!r} cannot stop a task that is running",
                hint="It can be cancelled while it waits; give it a timeout, or use the Ray backend.",
                context={"task_id": task.task_id, "backend": self._backend.name},
            )
        with self.lock:
            if task.state.finished:
                return False
            attempt = task.attempt
            self._cancel(task)
            self._poke()
        if attempt is not None:
            self._backend.stop(attempt, force=False)
        return True

    def cancel_family(self, family: Family) -> None:
        """End the open tasks that an attempt submitted, but those that run where nothing can be stopped."""
        with self.lock:
            tasks = [task for task in self._table.all() if task.family is family]
        for task in tasks:
            try:
                self.cancel(task)
            except CapabilityMissing:
                logger.warning("task_id=%s event=outlives_its_parent", task.task_id)

    def watch(self, tasks: Iterable[Task], *, first_failure: bool) -> Latch | None:
        """Return a latch that opens when all have ended (or one has failed); None when that is so already."""
        with self.lock:
            pending = []
            for task in tasks:
                if not task.state.finished:
                    pending.append(task)
                elif first_failure and task.state is not TaskState.SUCCEEDED:
                    return None
            if not pending:
                return None
            latch = Latch(len(pending))
            for task in pending:
                task.latches = (*task.latches, (latch, first_failure))
            return latch

    def watch_each(self, tasks: Iterable[Task], watcher: Watcher) -> None:
        """Have the watcher hear of each task as it ends, or now when it has."""
        with self.lock:
            for task in tasks:
                if task.state.finished:
                    watcher.hit(task)
                else:
                    task.latches = (*task.latches, (watcher, False))

    def unwatch(self, tasks: Iterable[Task], latch: Watcher) -> None:
        """Let go of a latch that was given up waiting for."""
        with self.lock:
            for task in tasks:
                task.latches = tuple(entry for entry in task.latches if entry[0] is not latch)

    def bundles(self, task: Task) -> bool:
        """Whether more tasks like this one, if they waited, would be handed over together."""
        with self.lock:
            return self._bundles and task.payload is not None and self._goes_along(TOGETHER / 2, task)

    def under_way(self) -> list[Attempt]:
        """Return the attempts that are with the engine."""
        with self.lock:
            return list(self._under_way.values())

    def counts(self) -> tuple[int, int]:
        """Return how many tasks wait here, and how many are with the engine."""
        with self.lock:
            return len(self._waiting), len(self._under_way)

    def in_use(self) -> Resources:
        """Return what the tasks that are with the engine take together."""
        with self.lock:
            return Resources(self._usage.cpu, self._usage.memory, self._usage.gpu)

    def close(self) -> None:
        """Cancel everything that is open and let the thread end."""
        with self.lock:
            self._closed = True
            attempts = list(self._under_way.values())
            for task in self._table.all():
                if not task.state.finished:
                    self._cancel(task)
            self._timers.clear()
            self._poke()
        for attempt in attempts:
            self._backend.stop(attempt, force=True)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    # With the lock held

    def _take(self, task: Task) -> Share:
        self._usage.take(task.need, task.estimate)
        return Share(task.need, task.estimate)

    def _begin(self, task: Task, share: Share) -> Attempt:
        share.left += 1
        task.attempts += 1
        task.queued = False
        task.reports = b""
        need = task.need
        attempt = Attempt(
            f"{task.task_id}/{task.attempts}",
            task.label,
            need.cpu,
            need.memory,
            need.gpu,
            task.timeout,
            task.payload,
            self._report,
            task,
            share,
        )
        task.attempt = attempt
        self._under_way[attempt.key] = attempt
        return attempt

    def _followers(self, task: Task, share: Share) -> list[Attempt]:
        """Take out short tasks that wait and need the same, for no longer than all of them would wait elsewhere."""
        left = TOGETHER
        usage = self._usage
        most = len(self._waiting) // max(1, int(usage.cpus or usage.slots or 1))
        followers: list[Attempt] = []
        following: Task | None = task
        while following is not None and len(followers) < most and self._goes_along(left, following):
            left -= self._durations.seconds(following.function)
            following = self._waiting.pop_like(task, functools.partial(self._goes_along, left))
            if following is not None:
                followers.append(self._begin(following, share))
                estimate = self._durations.estimate(following.function, following.need)
                share.estimate += estimate
                usage.work += estimate
        return followers

    def _goes_along(self, left: float, task: Task) -> bool:
        call = task.payload
        # A handle that was lost would be the loss of all.
        if self._durations.seconds(task.function) > left or len(call.body) >= _SMALL or call.lifted or call.nested:
            return False
        # Where nobody knows which of them ended a worker, all of them are tried again: once, and then each alone.
        return self._notes or (task.retries > 0 and not task.reasons and self._durations.sociable(task.function))

    def _cancel(self, task: Task) -> None:
        attempt = task.attempt
        if attempt is not None:
            task.stopping = True
            self._after(GRACE, lambda: self._force(attempt))
        elif task.queued:
            task.queued = False
            self._waiting.discard(task)
        self._finish(task, TaskState.CANCELLED, error=TaskCancelled(f"the task {task.task_id} was cancelled"))

    def _force(self, attempt: Attempt) -> Attempt | None:
        return attempt if attempt.key in self._under_way else None

    def _settle(self, task: Task, outcome: Outcome) -> None:
        """Try a task again, or end it."""
        task.started_at = outcome.started_at or task.started_at
        if outcome.ending is Ending.LOST and task.attempts <= task.retries and not self._closed:
            self._repeat(task, str(outcome.payload))
        else:
            self._finish(task, *verdict(task, outcome), outcome)

    def _repeat(self, task: Task, reason: str) -> None:
        task.reasons = (*task.reasons, reason)
        seconds = pause(task.attempts, self._factor)
        logger.warning(
            "task_id=%s attempt=%d of=%d retry_in=%.2f reason=%r",
            task.task_id,
            task.attempts,
            task.retries + 1,
            seconds,
            reason,
        )
        if self._metrics is not None:
            self._metrics.retried += 1
        self._after(seconds, lambda: self._again(task))
        self._poke()

    def _again(self, task: Task) -> None:
        if not task.state.finished:
            self._enqueue(task)

    def _enqueue(self, task: Task) -> None:
        task.queued = True
        self._waiting.push(task)

    def _finish(
        self, task: Task, state: TaskState, error: ComputeError | None = None, outcome: Outcome | None = None
    ) -> None:
        task.state = state
        task.outcome = outcome
        task.error = error
        task.payload = None
        task.finished_at = time.time()
        self._table.finished(task)
        if self._metrics is not None:
            waited = None if task.started_at is None else max(0.0, task.started_at - task.submitted_at)
            self._metrics.finish(state, waited, outcome.seconds if outcome is not None else None)
        failed = state is not TaskState.SUCCEEDED
        for latch, first_failure in task.latches:
            # A weight that opens any latch, however many it still waits for.
            latch.hit(task, 2**31 if failed and first_failure else 1)
        task.latches = ()
        for dependent in task.dependents:
            self._supply(dependent, task)
        task.dependents = []

    def _supply(self, task: Task, other: Task) -> None:
        """Give a task the outcome of one that it waits for; what becomes of it then is for the thread to do."""
        if task.state.finished or task.culprit is not None:
            return
        task.missing -= 1
        if other.state is TaskState.SUCCEEDED and other.outcome is not None:
            task.inputs[other.task_id] = other.outcome
        else:
            # Of a whole chain the first one; a copy, since the outcome of the original may be forgotten.
            task.culprit = other.culprit or replace(other, dependents=[], latches=())
        if not task.missing or task.culprit is not None:
            self._supplied.append(task)
            self._poke()

    def _after(self, seconds: float, action: Callable[[], Attempt | None]) -> None:
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), action))

    def _poke(self) -> None:
        if not self._poked:
            self._poked = True
            self._wake.notify()

    def _resize(self, capacity: Capacity) -> None:
        total = capacity.total
        if not self._queues:
            self._usage.resize(self._limits.smaller(total), capacity.slots)
            return
        # The engine itself never runs more than it has: only a smaller limit is ours to keep.
        ours = Limits(
            *(
                None if limit is not None and have is not None and limit >= have else limit
                for limit, have in zip(self._limits, total, strict=True)
            )  # type: ignore[arg-type]
        )
        self._usage.resize(ours, capacity.slots, None if ours.cpu is not None else AHEAD, total.cpu)

    # Without the lock

    def _start(self, attempt: Attempt) -> None:
        try:
            self._backend.start(attempt)
        except Exception as error:
            logger.warning("attempt=%s event=start_failed", attempt.key, exc_info=True)
            outcome = Outcome(Ending.LOST, f"it could not be handed over ({type(error).__name__}: {error})")
            for one in (attempt, *attempt.followers):
                self._report(one, outcome)
            return
        for one in (attempt, *attempt.followers):
            if one.task.stopping:
                self._backend.stop(one, force=False)

    def _report(self, attempt: Attempt, outcome: Outcome) -> None:
        """Take what came of an attempt; the engine calls this from its own threads."""
        task: Task = attempt.task
        with self.lock:
            if self._under_way.pop(attempt.key, None) is None:
                return
            share: Share = attempt.share
            share.left -= 1
            if not share.left:
                self._usage.give(share.need, share.estimate)
            task.attempt = None
            task.reports = outcome.reports or task.reports
            if outcome.ending is Ending.LOST:
                self._durations.lost(task.function)
            if outcome.seconds is not None:
                self._durations.note(task.function, outcome.seconds)
            if task.state.finished:
                pass
            elif outcome.ending is Ending.RETURNED:
                task.attempts -= 1
                self._enqueue(task)
            elif outcome.ending is Ending.ERROR and task.retry_exceptions and task.attempts <= task.retries:
                # Which exception it is takes unpickling, which is not for the engine's thread.
                self._inbox.append((task, outcome))
                self._poke()
            else:
                self._settle(task, outcome)
            if len(self._waiting) and not self._well_fed():
                self._poke()

    def _well_fed(self) -> bool:
        """Whether the engine has enough in its own queue that the next ones may be handed over together, later."""
        usage = self._usage
        # A cluster that has no CPU yet is fed by nothing: what waits has to be seen there for it to grow.
        return usage.ahead is not None and usage.cpus is not None and 0 < FED * usage.cpus <= usage.cpu

    def _capacity_changed(self) -> None:
        with self.lock:
            self._refreshed = 0.0
            self._poke()

    def _run(self) -> None:
        while True:
            with self.lock:
                if not self._poked:
                    self._wake.wait(self._patience())
                self._poked = False
                if self._closed:
                    return
                inbox, self._inbox = self._inbox, []
                supplied, self._supplied = self._supplied, []
            try:
                for task in supplied:
                    self._admit(task)
                for task, outcome in inbox:
                    self._judge(task, outcome)
                self._look_after(time.monotonic())
                self._hand_over(time.monotonic())
            except Exception:
                # Nothing above raises by itself; but tasks that nobody hands over any more would hang for ever.
                logger.exception("backend=%s event=dispatch_failed", self._backend.name)
                time.sleep(_TICK)

    def _patience(self) -> float:
        # Not woken for each task that is handed over by the thread that submits it: found within a few seconds.
        seconds = _TICK if self._under_way or len(self._waiting) else _IDLE
        if self._timers:
            seconds = min(seconds, max(0.0, self._timers[0][0] - time.monotonic()))
        return seconds

    def _hand_over(self, now: float) -> None:
        force: list[Attempt] = []
        begun: list[Attempt] = []
        with self.lock:
            while self._timers and self._timers[0][0] <= now:
                attempt = heapq.heappop(self._timers)[2]()
                if attempt is not None:
                    force.append(attempt)
            while len(self._waiting) and (task := self._waiting.pop(self._fits, now)) is not None:
                share = self._take(task)
                begun.append(self._begin(task, share))
                if self._bundles:
                    begun[-1].followers = self._followers(task, share)
        for attempt in force:
            logger.warning("attempt=%s event=force_stop", attempt.key)
            self._backend.stop(attempt, force=True)
        for attempt in begun:
            self._start(attempt)

    def _fits(self, task: Task) -> bool:
        task.estimate = self._durations.estimate(task.function, task.need)
        if self._bundles and self._well_fed() and self._goes_along(TOGETHER, task):
            # It waits here until it can go together with others.
            return False
        return self._usage.fits(task.need, task.estimate)

    def _admit(self, task: Task) -> None:
        """Put a task in line whose inputs have come, or end it because one never will."""
        payload = task.payload
        if payload is None:
            # Cancelled meanwhile.
            return
        error: ComputeError | None = None
        if task.culprit is not None:
            error = without(task, task.culprit)
        else:
            try:
                lifted = [self._lend(task.inputs[it.task_id]) if type(it) is Awaited else it for it in payload.lifted]
                payload = payload._replace(lifted=tuple(lifted))
            except Exception as problem:  # noqa: BLE001  (whatever the engine says: the task must not hang)
                error = WorkerLost(
                    f"the inputs of the task {task.task_id} ({task.label}) could not be handed over "
                    f"({type(problem).__name__}: {problem})",
                    context={"task_id": task.task_id},
                )
        with self.lock:
            if task.state.finished:
                return
            task.inputs = {}
            if error is not None:
                self._finish(task, TaskState.FAILED, error)
                return
            task.payload = payload
            self._enqueue(task)

    def _lend(self, outcome: Outcome) -> Any:
        """Return what brings a result to a worker: where the engine holds it, it does not pass through here."""
        reply = outcome.payload
        if outcome.held:
            return reply
        reply = reply._replace(reports=b"")
        if not reply.buffers:
            return reply
        return self._backend.put(reply._replace(buffers=[bytes(memoryview(buffer)) for buffer in reply.buffers]))

    def _judge(self, task: Task, outcome: Outcome) -> None:
        """Repeat a task that raised one of the exceptions it is to be repeated for."""
        reason = None
        try:
            payload = self._backend.fetch(outcome.payload) if outcome.held else outcome.payload
            error = self._backend.codec.decode(payload).rebuild()
            if isinstance(error, task.retry_exceptions):
                reason = f"{type(error).__name__}: {error}"
        except ComputeError:
            logger.warning("task_id=%s event=exception_unreadable", task.task_id, exc_info=True)
        with self.lock:
            if task.state.finished:
                return
            if reason is None:
                self._settle(task, outcome)
            else:
                self._repeat(task, reason)

    def _look_after(self, now: float) -> None:
        if not self._under_way and not len(self._waiting):
            return
        if now - self._refreshed > _REFRESH:
            self._refreshed = now
            capacity = self._backend.capacity()
            with self.lock:
                self._resize(capacity)
                self._table.sweep(time.time())
        if now - self._checked > _TICK:
            self._checked = now
            if not self._backend.alive():
                gone = Outcome(Ending.LOST, f"the connection to {self._backend.name} is gone")
                for attempt in self.under_way():
                    self._report(attempt, gone)
