"""`ComputeManager`: submit a task, get its result; the same on every engine."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from compute import progress
from compute.arrivals import Arrivals, Bell
from compute.backend import Backend, Ending
from compute.config import Config, load_config
from compute.dispatcher import Dispatcher
from compute.errors import InvalidField, ResourcesUnavailable, ResultTimeout
from compute.lineage import Family, current
from compute.metrics import Metrics
from compute.resources import DEFAULT, Limits, Resources, parse_resources
from compute.states import TaskState
from compute.table import TaskTable
from compute.task import Task, TaskId, TaskStatus
from compute.wire import Awaited

logger = logging.getLogger(__name__)

Submit = Callable[[tuple[Any, ...], dict[str, Any], str | None], TaskId]
"""Takes the arguments and perhaps an id, gives the id."""


class ComputeManager:
    """Runs functions on an engine. `get_compute_manager` makes one from the configuration.

    Parameters
    ----------
    backend : Backend
        The engine.
    config : Config, optional
        ``task_defaults`` and ``monitoring`` apply; by default what `load_config` finds.
    limits : Limits
        What tasks may take at once; by default what the engine has.
    limits_from : str
        The configuration key that the limits come from, for messages.

    Examples
    --------
    >>> from compute.local_backend import LocalBackend
    >>> with ComputeManager(LocalBackend(workers=1)) as manager:
    ...     manager.get_result(manager.submit_task(pow, 2, 10))
    1024
    """

    def __init__(
        self,
        backend: Backend,
        config: Config | None = None,
        *,
        limits: Limits = Limits(),  # noqa: B008  (a NamedTuple: nobody can change it)
        limits_from: str = "the limits",
    ) -> None:
        config = config or load_config()
        self.backend = backend
        self._defaults = config.task_defaults
        self._limits = limits
        self._limits_from = limits_from
        self._codec = backend.codec
        self._metrics = Metrics() if config.monitoring.enabled else None
        self._table = TaskTable(config.monitoring.metrics_retention.days * 86400)
        self._dispatcher = Dispatcher(backend, self._table, limits, self._defaults.backoff_factor, self._metrics)
        self._lock = self._dispatcher.lock
        self._placeable: set[Resources] = set()
        self._closed = False

    def submit_task(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        task_id: str | None = None,
        priority: int = 0,
        resources: Mapping[str, object] | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        retry_exceptions: type[BaseException] | tuple[type[BaseException], ...] = (),
        **kwargs: Any,
    ) -> TaskId:
        """Run a function in a worker; returns at once.

        Parameters
        ----------
        function : callable
            With all that it captures and its arguments it must be picklable by cloudpickle. They are taken as they
            are now.
        *args, **kwargs
            Its arguments; handles from `put` are replaced by what was put, and ids that this manager returned by the
            results of those tasks, for which the task waits. Where the engine holds a result it does not pass
            through this process.
        task_id : str, optional
            Of your own choice, unique within this manager.
        priority : int
            Higher goes first, among tasks that wait; one step outweighs a minute of waiting.
        resources : mapping, optional
            ``{"cpu": 1, "memory": "2g", "gpu": 0}``; one CPU when left out.
        timeout : float, optional
            Seconds that one attempt may run, counted from when it starts; by default ``task_defaults.timeout``.
        retries : int, optional
            Attempts after the first, when the worker or its node was lost; by default ``task_defaults.retries``.
            Short tasks go to a worker several at a time; on Ray they share its fate, and with 0 each goes alone.
        retry_exceptions : exception class or tuple of them
            Exceptions of the function itself for which it is tried again, too.

        Returns
        -------
        TaskId
            The task's id, a str.

        Raises
        ------
        NotSerializable
            Naming the captured variable or the argument.
        ResourcesUnavailable
            When the task can never be placed; with the numbers.
        TaskExists
            When the id is taken.
        TaskNotFound, TaskExpired
            When the result that an argument stands for is not known here, or no longer.

        Examples
        --------
        >>> from compute.local_backend import LocalBackend
        >>> with ComputeManager(LocalBackend(workers=1)) as manager:
        ...     square = manager.submit_task(pow, 3, 2)
        ...     manager.get_result(manager.submit_task(int.__add__, square, 1))
        10
        """
        submit = self._prepare(function, priority, resources, timeout, retries, retry_exceptions)
        return submit(args, kwargs, task_id)

    def submit_many(
        self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], **options: Any
    ) -> list[TaskId]:
        """Submit one task for each tuple of arguments; the function is pickled once.

        Parameters
        ----------
        function : callable
            As for `submit_task`.
        calls : iterable of tuple
            Positional arguments.
        **options
            As for `submit_task`, all but ``task_id``.
        """
        submit = self._prepare(function, **options)
        return [submit(args, {}, None) for args in calls]

    def get_result(self, task_id: str, timeout: float | None = None) -> Any:
        """Wait for a task and return its result.

        Parameters
        ----------
        task_id : str
            From `submit_task`.
        timeout : float, optional
            Seconds to wait at most.

        Raises
        ------
        ResultTimeout
            When it is not there in time; the task goes on.
        TaskTimeout, TaskCancelled, WorkerLost, NotSerializable, DependencyFailed
            When the task ended so.
        Exception
            The function's own, with the worker's traceback as a note; `TaskFailed` when it could not be brought back.
        """
        task = self._find(task_id)
        if not task.state.finished:
            self._wait([task], timeout, first_failure=False)
        return self._result(task)

    async def get_result_async(self, task_id: str, timeout: float | None = None) -> Any:
        """Wait for a task in an event loop, without blocking it, and return its result.

        Parameters
        ----------
        task_id : str
            From `submit_task`.
        timeout : float, optional
            Seconds to wait at most. Who gives up waiting, or is cancelled, leaves the task as it is.

        Raises
        ------
        Exception
            As `get_result` does.

        Examples
        --------
        >>> from compute.local_backend import LocalBackend
        >>> async def squares(manager):
        ...     task_ids = manager.submit_many(pow, [(2, 2), (3, 2)])
        ...     return await asyncio.gather(*map(manager.get_result_async, task_ids))
        >>> with ComputeManager(LocalBackend(workers=1)) as manager:
        ...     asyncio.run(squares(manager))
        [4, 9]
        """
        task = self._find(task_id)
        bell = Bell()
        self._dispatcher.watch_each([task], bell)
        try:
            await asyncio.wait_for(bell.rung.wait(), timeout)
        except TimeoutError:
            raise self._late([task], timeout) from None
        finally:
            self._dispatcher.unwatch([task], bell)
        held = task.outcome is not None and task.outcome.held
        return await asyncio.to_thread(self._result, task) if held else self._result(task)

    def as_completed(self, task_ids: Iterable[str], timeout: float | None = None) -> Iterator[str]:
        """Yield the ids of tasks in the order in which they end, however they end.

        Parameters
        ----------
        task_ids : iterable of str
            From `submit_task`; one that is given twice is yielded once.
        timeout : float, optional
            Seconds for all of them together.

        Raises
        ------
        ResultTimeout
            When they have not all ended in time; they go on.

        Examples
        --------
        >>> from compute.local_backend import LocalBackend
        >>> with ComputeManager(LocalBackend(workers=1)) as manager:
        ...     task_ids = manager.submit_many(abs, [(-1,), (-2,)])
        ...     sorted(manager.get_result(task_id) for task_id in manager.as_completed(task_ids))
        [1, 2]
        """
        until = None if timeout is None else time.monotonic() + timeout
        tasks = [self._find(task_id) for task_id in dict.fromkeys(task_ids)]
        arrivals = Arrivals()
        self._dispatcher.watch_each(tasks, arrivals)
        return self._arriving(tasks, arrivals, timeout, until)

    def gather_results(
        self, task_ids: Iterable[str], timeout: float | None = None, return_exceptions: bool = False
    ) -> list[Any]:
        """Wait for many tasks and return their results in the order of the ids.

        Parameters
        ----------
        task_ids : iterable of str
            From `submit_task`.
        timeout : float, optional
            Seconds to wait for all of them together.
        return_exceptions : bool
            Whether a task's failure takes its place in the list; else the first of them, in order, is raised as soon
            as one is known. The other tasks go on.
        """
        tasks = [self._find(task_id) for task_id in task_ids]
        self._wait(tasks, timeout, first_failure=not return_exceptions)
        if not return_exceptions:
            failed = next((task for task in tasks if task.state not in (TaskState.SUCCEEDED, *_OPEN)), None)
            return [self._result(failed)] if failed is not None else [self._result(task) for task in tasks]
        results: list[Any] = []
        for task in tasks:
            try:
                results.append(self._result(task))
            except Exception as error:  # noqa: BLE001  (the task's own, which the caller asked for)
                results.append(error)
        return results

    def get_task_status(self, task_id: str) -> TaskStatus:
        """Return how a task stands."""
        task = self._find(task_id)
        attempt = task.attempt
        started_at = task.started_at
        state = task.state
        reports = b""
        if attempt is not None and not state.finished:
            reports = self.backend.reports(attempt)
            started_at = self.backend.started_at(attempt)
            state = TaskState.PENDING if started_at is None else TaskState.RUNNING
        with self._lock:
            # It may have ended while the engine was asked.
            if task.state.finished:
                state, started_at, reports = task.state, task.started_at, task.reports
            messages = progress.unpack(reports)
            return TaskStatus(
                task.task_id,
                state,
                task.attempts,
                task.priority,
                task.submitted_at,
                started_at,
                task.finished_at,
                self._problem(task),
                task.label,
                task.need,
                task.reasons,
                messages[-1].fraction if messages else None,
                messages,
            )

    def cancel_task(self, task_id: str) -> bool:
        """Cancel a task: it ends as ``CANCELLED``, and its worker is free soon after.

        A running function is interrupted (``KeyboardInterrupt`` on Ray), and its process ended if that does not help.
        What it submitted itself is cancelled with it.

        Returns
        -------
        bool
            False when it had ended already.

        Raises
        ------
        CapabilityMissing
            When it is running on an engine that cannot stop it.
        """
        return self._dispatcher.cancel(self._find(task_id))

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any], *, window: int | None = None, **options: Any
    ) -> Iterator[Any]:
        """Yield ``function(item)`` for each item, in their order.

        At most ``window`` items are taken ahead of the results, so the items may go on for ever. A failure is raised
        in its item's place; what is under way is cancelled when the iterator is closed.

        Parameters
        ----------
        function : callable
            Of one argument.
        items : iterable
            Read as results are taken.
        window : int, optional
            By default 64, or 8 for each CPU if that is more; eight times that for small items that take so short
            that an engine takes several together.
        **options
            As for `submit_task`: ``resources``, ``timeout``, ``retries``, ``retry_exceptions``, ``priority``.

        Examples
        --------
        >>> from compute.local_backend import LocalBackend
        >>> with ComputeManager(LocalBackend(workers=1)) as manager:
        ...     list(manager.map(abs, [3, -4]))
        [3, 4]
        """
        size = window if window is not None else max(64, 8 * int(self.backend.capacity().total.cpu or 1))
        most = size if window is not None else 8 * size
        if size < 1:
            raise InvalidField(f"window is {window!r}", hint="Give 1 or more.")
        source = iter(items)
        submit = self._prepare(function, **options)
        # The first ones start now, not when the first result is asked for.
        waiting = deque(submit((item,), {}, None) for item in itertools.islice(source, size))
        return self._stream(submit, source, waiting, most)

    def put(self, value: Any) -> Any:
        """Keep a value near the workers, once, and return a handle that any number of tasks take as an argument."""
        return self.backend.put(value)

    def resources(self) -> dict[str, Any]:
        """Return what there is, what tasks may take, what they take now, and how many wait."""
        capacity = self.backend.capacity()
        waiting, under_way = self._dispatcher.counts()
        return {
            "backend": self.backend.name,
            "total": capacity.total._asdict(),
            "limits": self._limits._asdict(),
            "in_use": self._dispatcher.in_use()._asdict(),
            "waiting": waiting,
            "under_way": under_way,
        }

    def metrics(self) -> dict[str, Any]:
        """Return counts of tasks by state, and how long they waited and ran; empty when `monitoring.enabled` is off."""
        if self._metrics is None:
            return {}
        waiting, under_way = self._dispatcher.counts()
        with self._lock:
            return {**self._metrics.snapshot(), "waiting": waiting, "under_way": under_way}

    def drop(self, task_ids: Iterable[str], *, cancel: bool = False) -> None:
        """Forget many tasks, those that are open only once they have been cancelled."""
        for task_id in task_ids:
            if cancel:
                self._abandon(task_id)
            with self._lock:
                task = self._table.find(task_id)
                if task is not None and task.state.finished:
                    self._table.forget(task)

    def cancel_family(self, family: Family) -> None:
        """Cancel what an attempt that runs in this process submitted here and has not ended."""
        if not self._closed:
            self._dispatcher.cancel_family(family)

    @property
    def closed(self) -> bool:
        """Whether it was shut down, or what it was connected to is gone."""
        return self._closed or not self.backend.alive()

    def shutdown(self) -> None:
        """Cancel what is open and let go of the engine; ends what this manager started, and only that."""
        if self._closed:
            return
        self._closed = True
        self._dispatcher.close()
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a ComputeManager stays in its process; call get_compute_manager() inside the task")

    def _prepare(
        self,
        function: Callable[..., Any],
        priority: int = 0,
        resources: Mapping[str, object] | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        retry_exceptions: type[BaseException] | tuple[type[BaseException], ...] = (),
    ) -> Submit:
        """Check the options and pickle the function; return what submits one call."""
        need = DEFAULT if resources is None else parse_resources(resources)
        if need not in self._placeable:
            self._check_placeable(need)
        if timeout is None:
            timeout = self._defaults.timeout
        elif not timeout > 0:
            raise InvalidField(f"timeout is {timeout!r}", hint="Give seconds, more than 0.")
        limit = None if timeout == float("inf") else timeout
        tries = self._defaults.retries if retries is None else retries
        if tries < 0:
            raise InvalidField(f"retries is {retries!r}", hint="Give 0 or more.")
        repeat = retry_exceptions if isinstance(retry_exceptions, tuple) else (retry_exceptions,)
        label = getattr(function, "__qualname__", None) or type(function).__qualname__
        kind = getattr(function, "__code__", None) or type(function)
        blob = self._codec.encode_function(function)

        def submit(args: tuple[Any, ...], kwargs: dict[str, Any], task_id: str | None) -> TaskId:
            wanted = {value for value in (*args, *kwargs.values()) if type(value) is TaskId}
            dependencies: Sequence[Task] = ()
            if wanted:
                dependencies = [self._find(value) for value in wanted]
                args = tuple(Awaited(value) if type(value) is TaskId else value for value in args)
                kwargs = {name: Awaited(value) if type(value) is TaskId else value for name, value in kwargs.items()}
            payload = self._codec.encode_call(blob, args, kwargs)
            name = TaskId(task_id or self._table.new_id())
            now, tick = time.time(), time.monotonic()
            task = Task(name, label, kind, need, priority, limit, tries, repeat, payload, now, tick)
            task.family = current()
            if task.family is not None:
                task.family.join(self)
            self._dispatcher.add(task, dependencies)
            return name

        return submit

    def _find(self, task_id: str) -> Task:
        with self._lock:
            self._table.sweep(time.time())
            return self._table.get(task_id)

    def _wait(self, tasks: list[Task], timeout: float | None, *, first_failure: bool) -> None:
        latch = self._dispatcher.watch(tasks, first_failure=first_failure)
        single = tasks[0].attempt if len(tasks) == 1 else None
        if latch is None or self.backend.wait(latch.wait, timeout, single, self._dispatcher.under_way):
            return
        self._dispatcher.unwatch(tasks, latch)
        pending = [task for task in tasks if not task.state.finished]
        if pending:
            raise self._late(tasks, timeout)

    def _late(self, tasks: Sequence[Task], timeout: float | None) -> ResultTimeout:
        pending = [task for task in tasks if not task.state.finished] or tasks
        which = f"the task {pending[0].task_id}" if len(tasks) == 1 else f"{len(pending)} of {len(tasks)} tasks"
        return ResultTimeout(
            f"{which} had not ended after {timeout:g} s",
            hint="It goes on; ask again, or cancel it with cancel_task.",
            context={"task_id": pending[0].task_id, "pending": len(pending)},
        )

    def _result(self, task: Task) -> Any:
        error, outcome = task.error, task.outcome
        if error is not None:
            with self._lock:
                self._table.fetched(task, 0)
            raise error.with_traceback(None) from self._cause(task)
        if outcome is None:
            # Dropped between being found and being read.
            with self._lock:
                self._table.get(task.task_id)
            raise AssertionError(task.task_id)
        payload = self.backend.fetch(outcome.payload) if outcome.held else outcome.payload
        value = self._codec.decode(payload)
        with self._lock:
            self._table.fetched(task, 0 if outcome.held else len(payload.body))
        if outcome.ending is Ending.ERROR:
            raise value.rebuild()
        return value

    def _cause(self, task: Task) -> BaseException | None:
        if task.culprit is None:
            return None
        try:
            self._result(task.culprit)
        except Exception as error:  # noqa: BLE001  (the other task's own, whatever it is)
            return error
        raise AssertionError(task.culprit)

    def _arriving(
        self, tasks: list[Task], arrivals: Arrivals, timeout: float | None, until: float | None
    ) -> Generator[str, None, None]:
        left = {task.task_id: task for task in tasks}
        try:
            while left:
                seconds = None if until is None else max(0.0, until - time.monotonic())
                if not self.backend.wait(arrivals.wait, seconds, None, self._dispatcher.under_way):
                    raise self._late(list(left.values()), timeout)
                yield left.pop(arrivals.take().task_id).task_id
        finally:
            self._dispatcher.unwatch(left.values(), arrivals)

    def _problem(self, task: Task) -> dict[str, Any] | None:
        if task.error is not None:
            return {"code": getattr(task.error, "code", "internal-error"), "detail": str(task.error)}
        if task.state is not TaskState.FAILED or task.outcome is None or task.outcome.held:
            return None
        failure = self._codec.decode(task.outcome.payload)
        return {"code": "task-failed", "detail": f"{failure.kind}: {failure.summary}"}

    def _stream(
        self, submit: Submit, source: Iterator[Any], waiting: deque[TaskId], most: int
    ) -> Generator[Any, None, None]:
        try:
            while waiting:
                value = self.get_result(waiting[0])
                self.drop([waiting.popleft()])
                more = 2 if len(waiting) < most - 1 and self._in_bundles(waiting) else 1
                waiting.extend(submit((item,), {}, None) for item in itertools.islice(source, more))
                yield value
        finally:
            self.drop(waiting, cancel=True)

    def _in_bundles(self, waiting: deque[TaskId]) -> bool:
        task = self._table.find(waiting[-1]) if waiting else None
        return task is not None and self._dispatcher.bundles(task)

    def _abandon(self, task_id: str) -> None:
        if self._closed or self._table.find(task_id) is None:
            return
        if self.backend.capabilities.stops_running_tasks or self.get_task_status(task_id).state is TaskState.PENDING:
            self.cancel_task(task_id)

    def _check_placeable(self, need: Resources) -> None:
        shortage = self._limits.shortage(need)
        where = f"the limit ({self._limits_from})"
        if shortage is None:
            capacity = self.backend.capacity()
            shortages = [node.shortage(need) for node in capacity.nodes]
            if shortages and None not in shortages:
                # The node that comes closest says most.
                largest = max(capacity.nodes, key=lambda node: tuple(value or 0 for value in node))
                shortage, where = largest.shortage(need), f"the largest node of {self.backend.name}"
        if shortage is not None:
            raise ResourcesUnavailable(
                f"the task asks for {shortage} that {where} has: it can never run",
                hint="Ask for less with resources=, raise the limit, or add a larger node.",
                context={"asked": need._asdict(), "limits": self._limits._asdict()},
            )
        self._placeable.add(need)


_OPEN = (TaskState.PENDING, TaskState.RUNNING)
