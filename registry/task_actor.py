"""The second detached actor: keeps and runs durable tasks for a whole cluster, and comes back by itself.

Ray is imported inside the functions: without a cluster it is not needed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from compute import ComputeManager, Config, get_compute_manager
from registry.task_record import TaskRecord
from registry.task_service import TaskService

logger = logging.getLogger(__name__)

NAMESPACE = "registry"

T = TypeVar("T")

_THREADS = 64
_RETRY = 5.0


class TaskActor:
    """Shell over `TaskService`: writes are made in threads, so that many share an entry; waiting takes no thread.

    It opens the service by itself, for there may be tasks to go on with and nobody who calls; while that fails,
    callers get the reason.
    """

    def __init__(self, config: Config, name: str) -> None:
        self._config = config
        self._name = name
        self._opening = threading.Lock()
        self._opened: TaskService | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="task-registry")
        threading.Thread(target=self._keep_opening, name="task-registry-open", daemon=True).start()

    def _keep_opening(self) -> None:
        while self._opened is None:
            try:
                self._open()
            except Exception:
                # Whatever it was (the storage is away, most likely): there is nobody to tell, and it may come back.
                logger.exception("actor=%s event=open_failed retry_in=%g", self._name, _RETRY)
                time.sleep(_RETRY)

    def _open(self) -> TaskService:
        with self._opening:
            if self._opened is None:
                config = self._config
                self._opened = TaskService(config, name=self._name, manager=lambda: _cluster_manager(config))
            return self._opened

    async def accept(self, task_id: str, fields: dict[str, Any]) -> TaskRecord:
        """See `TaskService.accept`."""
        return await self._with(lambda service: service.accept(task_id, **fields))

    async def get(self, task_id: str) -> TaskRecord:
        """See `TaskService.get`."""
        return await self._with(lambda service: service.get(task_id))

    async def find(self, caller: str, idempotency_key: str) -> TaskRecord | None:
        """See `TaskService.find`."""
        return await self._with(lambda service: service.find(caller, idempotency_key))

    async def page(self, filters: dict[str, Any]) -> list[TaskRecord]:
        """See `TaskService.page`."""
        return await self._with(lambda service: service.page(**filters))

    async def cancel(self, task_id: str) -> TaskRecord:
        """See `TaskService.cancel`."""
        return await self._with(lambda service: service.cancel(task_id))

    async def wait(self, task_id: str, timeout: float | None) -> TaskRecord:
        """Return the record when the task has ended, or as it is after `timeout` seconds."""
        future = asyncio.wrap_future(await self._with(lambda service: service.finished(task_id)))
        # Not wait_for, which would cancel the future: others wait for the same one.
        await asyncio.wait([future], timeout=timeout)
        return await self.get(task_id)

    async def _with(self, call: Callable[[TaskService], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(self._open()))


def actor_name(config: Config) -> str:
    """Return the actor's name: one for each storage.

    Examples
    --------
    >>> from compute import load_config
    >>> actor_name(load_config())[:6]
    'tasks-'
    """
    return "tasks-" + hashlib.sha256(config.storage.uri.rstrip("/").encode()).hexdigest()[:16]


def get_actor(config: Config) -> Any:
    """Return the handle of this storage's actor; it is created when it is not there."""
    import ray

    name = actor_name(config)
    # The name under which it runs tasks is the same after a restart, and another on another cluster: a restarted
    # actor goes on with its own tasks at once, and with those of a lost cluster when their lease has run out.
    runner = f"{name}@{ray.get_runtime_context().gcs_address}"
    return (
        ray.remote(TaskActor)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            # Every method may be called twice: accept repeats by its task id, cancel says what is.
            max_task_retries=-1,
            max_concurrency=1000,
        )
        .remote(config, runner)
    )


def _cluster_manager(config: Config) -> ComputeManager:
    """Return the manager of the cluster that this actor lives in, whatever address the configuration names."""
    here = config.compute.model_copy(update={"backend": "ray", "ray_address": None})
    return get_compute_manager(config=config.model_copy(update={"compute": here}))
