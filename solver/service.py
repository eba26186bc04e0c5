"""The facade: bring a question, get the answer; now, or as a durable task."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import Any

from compute import Config, TaskState, check_uri, load_config
from compute.errors import InvalidField, ResultTimeout, TaskNotFinished, from_problem
from registry import TaskContext, TaskRecord, TaskRegistry, get_task_registry
from solver import prediction
from solver.execute import ENTRY, TYPES, pack
from solver.optimization.answer import warmed
from solver.optimization.query import OptimizationParameters
from solver.queries import Parameters, PredictionParameters, PredictionQuery, Query, parse, replace_uris
from solver.status import events, problem, reported, summary

logger = logging.getLogger(__name__)

_KEY_LENGTH = 255
_QUICK_THREADS = 8
_LONGEST_PAGE = 1000
_SEARCHES = ("optimization", "decision")
"""Types of questions whose tasks keep the best that they have found so far."""
_LOOK = 0.5
"""Seconds from one look at what a running task reports to the next."""


class SolverService:
    """Answers questions.

    Parameters
    ----------
    config : Config
        Which storage and which cluster.
    trusted : bool
        Whether questions may name any URI that this process can reach; if not, only those that
        `compute.check_uri` allows.

    Examples
    --------
    >>> solver = get_solver_service()
    >>> solver.solve({"type": "prediction", "model": "delays", "entities": []})
    Traceback (most recent call last):
    ...
    compute.errors.InvalidField: query_data: entities: there is nothing to predict; give at least one record, or a URI
    """

    def __init__(self, config: Config, *, trusted: bool = True) -> None:
        self.config = config
        self.trusted = trusted
        self._lock = threading.Lock()
        self._tasks: TaskRegistry | None = None
        self._threads: ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(SolverService, trusted=self.trusted), (self.config,)

    def solve(
        self,
        query_data: Mapping[str, Any],
        parameters: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        caller: str = "",
    ) -> dict[str, Any]:
        """Answer a question and wait for the answer.

        A small prediction by a registered model is answered in this process, by a model that stays loaded. Everything
        else is a durable task that this call waits for.

        Parameters
        ----------
        query_data : mapping
            ``{"type": "prediction", "entities": [...], ...}``; see `solver.queries`.
        parameters : mapping, optional
            How to answer: ``model_type``, ``distribute_data``, ...
        timeout : float, optional
            Seconds to wait.

        Returns
        -------
        dict
            The answer, in JSON's values.

        Raises
        ------
        InvalidField
            When the question is not one.
        ResultTimeout
            When the answer was not there in time; a task goes on, and the error's context has its id.
        ComputeError
            What the task failed with.
        """
        query, options = self._parse(query_data, parameters)
        if (
            isinstance(query, PredictionQuery)
            and isinstance(options, PredictionParameters)
            and prediction.quick(query, options)
        ):
            return self._solve_here(query, options, timeout)
        record = self._submit(query, options, caller=caller)
        record = self._registry().wait(record.task_id, timeout)
        if not record.state.finished:
            raise ResultTimeout(
                f"no answer within {timeout:g} s; the task {record.task_id} goes on",
                hint="Ask for its status later, or cancel it.",
                context={"task_id": record.task_id},
            )
        return self.answer(record)

    def submit(
        self,
        query_data: Mapping[str, Any],
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        caller: str = "",
    ) -> str:
        """Take a question in as a task; it is durable when this returns.

        Parameters
        ----------
        idempotency_key : str, optional
            A second submission of the same question under the same key is the same task.
        caller : str
            Who asks; keys are the caller's own, and callers take turns.

        Returns
        -------
        str
            The task's id.

        Raises
        ------
        InvalidField, ModelNotFound, DataError, UriNotAllowed
            What is wrong with the question, as far as it can be seen without answering it.
        Conflict
            When the key was used for another question.
        Overloaded
            When too many tasks are open.
        """
        return self.accept(query_data, parameters, idempotency_key=idempotency_key, caller=caller)["task_id"]

    def accept(
        self,
        query_data: Mapping[str, Any],
        parameters: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        caller: str = "",
    ) -> dict[str, str]:
        """Take a question in as `submit` does; return the task's id and its state, ``{"task_id", "status"}``."""
        query, options = self._parse(query_data, parameters)
        record = self._submit(query, options, idempotency_key=idempotency_key, caller=caller)
        return {"task_id": record.task_id, "status": record.state.value}

    def status(self, task_id: str) -> dict[str, Any]:
        """Return where a task stands, with its progress while it runs, and its result or problem when it has ended.

        Of an optimization or a decision without a result, ``best`` is the best plan that it has found, checked; or
        None. It is there while the task runs, and stays when the task is cancelled, runs out of time or fails.

        Raises
        ------
        InvalidField
            When this is no task id.
        TaskNotFound
            When there is no such task; TaskExpired when it is no longer remembered.
        """
        return self._render(self._registry().get(task_id))

    def wait(self, task_id: str, timeout: float | None = None) -> dict[str, Any]:
        """Return the status when the task has ended, or as it is after `timeout` seconds."""
        return self._render(self._registry().wait(task_id, timeout))

    def cancel(self, task_id: str) -> dict[str, Any]:
        """End a task as cancelled, stop its work, and return its status.

        Raises
        ------
        TaskNotFinished
            When it has ended otherwise already.
        """
        return self._render(self._registry().cancel(task_id))

    def tasks(
        self,
        *,
        states: Sequence[str] = (),
        types: Sequence[str] = (),
        caller: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> dict[str, Any]:
        """Return tasks that are remembered, the newest first, without their results.

        Parameters
        ----------
        states, types : sequence of str, optional
            Only tasks of these.
        caller : str, optional
            Only what this caller submitted.
        cursor : str, optional
            The ``next_cursor`` of the page before.
        limit : int
            So many at most, up to 1,000.

        Returns
        -------
        dict
            ``tasks``, and ``next_cursor``, which is None when there are no more.

        Raises
        ------
        InvalidField
            When there is no such state or type, or the cursor is none that was given.
        """
        _check_known(states, [state.value for state in TaskState], "state")
        _check_known(types, list(TYPES), "type")
        if not 1 <= limit <= _LONGEST_PAGE:
            raise InvalidField(f"limit is {limit}", hint=f"From 1 to {_LONGEST_PAGE}.", context={"field": "limit"})
        records, following = self._registry().page(
            states=[TaskState(state) for state in states], kinds=list(types), caller=caller, cursor=cursor, limit=limit
        )
        return {"tasks": [summary(record) for record in records], "next_cursor": following}

    def events(self, task_id: str, after: float = 0.0, wait: float = 0.0) -> list[dict[str, Any]]:
        """Return what happened to a task: its states, its progress, and better solutions as they were found.

        Parameters
        ----------
        after : float
            The ``at`` of the last event that is known already.
        wait : float
            Seconds to wait for an event when there is none.

        Returns
        -------
        list of dict
            ``at`` (seconds since 1970), ``event`` (``state``, ``progress``, ``incumbent``) and ``data``. The state in
            which a task ended is its last event.
        """
        end = time.monotonic() + wait
        record = self._registry().get(task_id)
        while not (found := events(record, self._report(record), after)) and not record.state.finished:
            left = end - time.monotonic()
            if left <= 0:
                break
            record = self._registry().wait(task_id, min(left, _LOOK))
        return found

    def answer(self, record: TaskRecord) -> dict[str, Any]:
        """Return the result of a task that has ended; raise what it failed with."""
        if record.state is TaskState.SUCCEEDED:
            result: dict[str, Any] = self._registry().result(record)
            return result
        raise from_problem(problem(record))

    def close(self) -> None:
        """Without Ray: stop running tasks in this process; they go on when the storage is opened again."""
        with self._lock:
            tasks, threads, self._tasks, self._threads = self._tasks, self._threads, None, None
        if tasks is not None:
            tasks.close()
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    def _parse(self, query_data: object, parameters: object) -> tuple[Query, Parameters]:
        query, options = parse(query_data, parameters)
        if self.trusted:
            return query, options
        return replace_uris(query, options, partial(check_uri, config=self.config))

    def _submit(
        self, query: Query, parameters: Parameters, *, idempotency_key: str | None = None, caller: str = ""
    ) -> TaskRecord:
        fingerprint = _fingerprint(pack(query, parameters))
        if idempotency_key is not None:
            _check_key(idempotency_key)
            # Before the checks: the same question gets the same task, even when the model it named has gone since.
            earlier = self._registry().find(caller, idempotency_key)
            if earlier is not None and earlier.fingerprint == fingerprint:
                return earlier
        if isinstance(parameters, OptimizationParameters):
            parameters = warmed(parameters, self._found)
        prepared = TYPES[query.type].prepare(query, parameters, self.config)
        return self._registry().submit(
            query.type,
            pack(prepared, parameters),
            fingerprint=fingerprint,
            caller=caller,
            idempotency_key=idempotency_key,
            priority=parameters.priority,
            timeout=parameters.timeout,
            deadline=parameters.deadline,
            resources=TYPES[query.type].needs(parameters),
        )

    def _found(self, task_id: str) -> dict[str, Any]:
        """Return the answer of a task, or the best that it has found so far."""
        record = self._registry().get(task_id)
        if record.state is TaskState.SUCCEEDED:
            return self.answer(record)
        best = self._registry().best(task_id)
        if best is None:
            raise TaskNotFinished(
                f"the task {task_id} has no answer, and has found no plan: it is {record.state.value}",
                hint="Wait for it, or name another one.",
                context={"task_id": task_id},
            )
        return best

    def _solve_here(
        self, query: PredictionQuery, parameters: PredictionParameters, timeout: float | None
    ) -> dict[str, Any]:
        context = TaskContext("", self.config)
        limits = [limit for limit in (timeout, parameters.timeout) if limit is not None]
        if not limits:
            return prediction.answer(query, parameters, context)
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_QUICK_THREADS, thread_name_prefix="solver")
            future = self._threads.submit(prediction.answer, query, parameters, context)
        try:
            return future.result(min(limits))
        except FutureTimeout:
            future.cancel()
            raise ResultTimeout(f"no answer within {min(limits):g} s", hint="Allow more time.") from None

    def _registry(self) -> TaskRegistry:
        with self._lock:
            if self._tasks is None:
                self._tasks = get_task_registry(ENTRY, self.config)
            return self._tasks

    def _render(self, record: TaskRecord) -> dict[str, Any]:
        status = {**summary(record), **reported(record, self._report(record))}
        if record.state is TaskState.SUCCEEDED:
            status["result"] = self._registry().result(record)
        elif record.state.finished:
            status["problem"] = problem(record)
        if record.kind in _SEARCHES and record.state is not TaskState.SUCCEEDED:
            status["best"] = self._registry().best(record.task_id)
        return status

    def _report(self, record: TaskRecord) -> dict[str, Any] | None:
        return self._registry().progress(record.task_id) if record.runs else None


def get_solver_service(config: Config | None = None, *, trusted: bool = True) -> SolverService:
    """Return a solver over the configured storage and cluster.

    Examples
    --------
    >>> get_solver_service().trusted
    True
    """
    return SolverService(config or load_config(), trusted=trusted)


def _fingerprint(question: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


def _check_known(given: Sequence[str], known: Sequence[str], field: str) -> None:
    for one in given:
        if one not in known:
            raise InvalidField(
                f"there is no {field} {one[:80]!r}", hint=f"There are {', '.join(known)}.", context={"field": field}
            )


def _check_key(key: str) -> None:
    if not 0 < len(key) <= _KEY_LENGTH or not key.isprintable():
        raise InvalidField(
            f"the idempotency key has {len(key)} characters, or some that do not print",
            hint=f"Use 1 to {_KEY_LENGTH} printable characters, such as a UUID.",
            context={"field": "idempotency_key"},
        )
