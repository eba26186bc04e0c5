"""What other rooms use of the task registry: the actor's client, or the same registry in this process without Ray.

Ray is imported inside the functions: without a cluster it is not needed.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from compute import Config, get_compute_manager, load_config
from compute.errors import BackendUnavailable, ComputeError
from registry.storage import open_store
from registry.task_actor import get_actor
from registry.task_record import TaskRecord, accepted_at, new_task_id
from registry.task_service import TaskService
from registry.task_work import keep_payload, read_best, read_progress, read_result, remove_payload

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = 120.0
"""Seconds in which the actor answers, a restart of it included."""

_services: dict[str, TaskService] = {}
_services_lock = threading.Lock()


class TaskRegistry:
    """Durable tasks: submit one, ask where it stands, wait for it, cancel it, read its result.

    With Ray, it speaks to the detached actor of this storage, which is started when it is not there. Without, the same
    table and runner work in this process: what it leaves open goes on when the next process opens the same storage.
    It can be pickled, and used from any thread.

    Parameters
    ----------
    config : Config
        Which storage, and what the tasks are given.
    entry : str
        ``"module:function"`` that answers a task: called with the payload and a `TaskContext`, in a worker.
    """

    def __init__(self, config: Config, entry: str) -> None:
        self.config = config
        self.entry = entry
        self._store = open_store(config.storage.uri, config)
        self._actor: Any = None
        self._service: TaskService | None = None
        if not _on_ray(config):
            # Connects this process to the cluster, if the configuration means one.
            get_compute_manager(config=config)
        if not _on_ray(config):
            self._service = _service_here(config)

    def __reduce__(self) -> tuple[Any, ...]:
        return TaskRegistry, (self.config, self.entry)

    def submit(
        self,
        kind: str,
        payload: Mapping[str, Any],
        *,
        fingerprint: str | None = None,
        caller: str = "",
        idempotency_key: str | None = None,
        priority: int = 0,
        timeout: float | None = None,
        deadline: float | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> TaskRecord:
        """Take a task in; it is durable when this returns.

        Parameters
        ----------
        kind : str
            What sort of task it is.
        payload : mapping
            What the answering function gets; JSON values.
        fingerprint : str, optional
            What makes a repetition of the question; by default the digest of the payload.
        caller : str
            Who asks. Idempotency keys are the caller's own, and callers take turns.
        idempotency_key : str, optional
            A second submission under the same key gives the first one's task.
        priority : int
            Larger runs earlier among the caller's tasks.
        timeout : float, optional
            Seconds that one attempt may run; by default ``task_defaults.timeout``.
        deadline : float, optional
            Seconds from now in which it has to end, waiting and retries included; it is stopped then.
        resources : mapping, optional
            As `ComputeManager.submit_task` takes them.

        Raises
        ------
        Conflict
            When the key was used for another question.
        Overloaded
            When too many tasks are open.
        """
        task_id = new_task_id()
        place = keep_payload(self._store, task_id, payload)
        fields = {
            "kind": kind,
            "entry": self.entry,
            "payload": place,
            "fingerprint": fingerprint or place["sha256"],
            "caller": caller,
            "idempotency_key": idempotency_key,
            "priority": priority,
            "timeout": timeout,
            "deadline": None if deadline is None else time.time() + deadline,
            "resources": None if resources is None else dict(resources),
        }
        try:
            record = self._ask(
                lambda actor: actor.accept.remote(task_id, fields), lambda s: s.accept(task_id, **fields)
            )
        except ComputeError:
            remove_payload(self._store, place)
            raise
        if record.task_id != task_id:
            remove_payload(self._store, place)
        return record

    def get(self, task_id: str) -> TaskRecord:
        """Return where the task stands; raises TaskNotFound, TaskExpired or, for what is no id, InvalidField."""
        return self._ask(lambda actor: actor.get.remote(task_id), lambda service: service.get(task_id))

    def find(self, caller: str, idempotency_key: str) -> TaskRecord | None:
        """Return the task that this caller submitted under this key, if it is remembered."""
        return self._ask(
            lambda actor: actor.find.remote(caller, idempotency_key), lambda s: s.find(caller, idempotency_key)
        )

    def page(
        self,
        *,
        states: Collection[str] = (),
        kinds: Collection[str] = (),
        caller: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> tuple[list[TaskRecord], str | None]:
        """Return tasks that are remembered, the newest first, and the cursor of the next page.

        Parameters
        ----------
        states, kinds : collection of str, optional
            Only tasks of these.
        caller : str, optional
            Only what this caller submitted.
        cursor : str, optional
            What the page before gave; tasks that were submitted since do not move it.
        limit : int
            So many at most.

        Returns
        -------
        tuple of (list of TaskRecord, str or None)
            None when there are no more.

        Raises
        ------
        InvalidField
            When the cursor is none that was given.
        """
        if cursor is not None:
            accepted_at(cursor)
        filters: dict[str, Any] = {
            "states": states, "kinds": kinds, "caller": caller, "before": cursor, "limit": limit + 1
        }  # fmt: skip
        found = self._ask(lambda actor: actor.page.remote(filters), lambda service: service.page(**filters))
        return found[:limit], found[limit - 1].task_id if len(found) > limit else None

    def cancel(self, task_id: str) -> TaskRecord:
        """End the task as cancelled and stop its work; raises TaskNotFinished when it has ended otherwise."""
        return self._ask(lambda actor: actor.cancel.remote(task_id), lambda service: service.cancel(task_id))

    def wait(self, task_id: str, timeout: float | None = None) -> TaskRecord:
        """Return the record when the task has ended, or as it is after `timeout` seconds."""
        return self._ask(
            lambda actor: actor.wait.remote(task_id, timeout),
            lambda service: _wait(service, task_id, timeout),
            patience=None if timeout is None else timeout + _PATIENCE,
        )

    def result(self, record: TaskRecord) -> Any:
        """Return the answer of a task that succeeded, straight from the store."""
        return read_result(self._store, record)

    def progress(self, task_id: str) -> dict[str, Any] | None:
        """Return what a task that was begun reported: see `registry.task_work.read_progress`."""
        return read_progress(self._store, task_id)

    def best(self, task_id: str) -> dict[str, Any] | None:
        """Return the best answer so far that the task kept, by `TaskContext.keep`; None when it kept none."""
        return read_best(self._store, task_id)

    def close(self) -> None:
        """Without Ray: stop running tasks in this process; they go on when the storage is opened again."""
        if self._service is not None:
            with _services_lock:
                _services.pop(self.config.storage.uri, None)
            self._service.close()

    def _ask(
        self,
        remote: Callable[[Any], Any],
        local: Callable[[TaskService], T],
        *,
        patience: float | None = _PATIENCE,
    ) -> T:
        if self._service is not None:
            return local(self._service)
        import ray
        from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

        for last in (False, True):
            try:
                answer: T = ray.get(remote(self._find(renew=last)), timeout=patience)
            except RayTaskError as error:
                raise error.cause from error.cause.__cause__
            except ActorDiedError as error:
                if last:
                    raise BackendUnavailable(
                        f"the actor that keeps the tasks does not stay alive: {error}",
                        hint="See its log in Ray's session directory.",
                    ) from error
                logger.warning("event=task_actor_died action=find_or_create reason=%r", str(error))
            except GetTimeoutError as error:
                raise BackendUnavailable(
                    f"the actor that keeps the tasks did not answer in {patience:g} s",
                    hint="See whether the cluster has a live node: ray status. The call may have been carried out.",
                ) from error
            else:
                return answer
        raise AssertionError("the loop returns or raises")  # for the type checker

    def _find(self, *, renew: bool) -> Any:
        if self._actor is None or renew:
            self._actor = get_actor(self.config)
        return self._actor


def get_task_registry(entry: str, config: Config | None = None) -> TaskRegistry:
    """Return the durable tasks of the configured storage, answered by the function that `entry` names."""
    return TaskRegistry(config or load_config(), entry)


def _wait(service: TaskService, task_id: str, timeout: float | None) -> TaskRecord:
    try:
        return service.finished(task_id).result(timeout)
    except FutureTimeout:
        return service.get(task_id)


def _service_here(config: Config) -> TaskService:
    key = config.storage.uri
    with _services_lock:
        if key not in _services:
            name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
            _services[key] = TaskService(config, name=name, manager=lambda: get_compute_manager(config=config))
        return _services[key]


def _on_ray(config: Config) -> bool:
    """Whether the actor keeps the tasks: this process is connected to Ray, and no other backend is asked for."""
    ray = sys.modules.get("ray")
    return config.compute.backend in ("auto", "ray") and ray is not None and bool(ray.is_initialized())
