"""The Ray backend: an attempt is a Ray task, and short ones that the manager bundles share one.

Retries, queueing and time-outs are the manager's: Ray has none of them.

Ray is imported inside the functions: this module is read by processes that may not need it.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from compute.backend import Attempt, Capabilities, Capacity, Ending, Outcome
from compute.errors import WorkerLost
from compute.failures import take_apart
from compute.pickling import Codec
from compute.ray_bundles import Bundles, Handle, outcome_of
from compute.ray_collector import Collector
from compute.ray_connection import Connection, session
from compute.ray_worker import (
    CLIENT,
    HEADER,
    KILL_AFTER,
    NAMESPACE,
    PROGRESS,
    attempt,
    ray_pickler,
    reference_types,
)
from compute.resources import Limits
from compute.wire import Reply, as_reply, unpack

logger = logging.getLogger(__name__)

_HELD = 1024 * 1024
_MEMORY = 1.0
_ASK_AGAIN = 0.05
_FUNCTIONS = 1024
# Attempts that take no CPU are not bounded by CPUs.
_SLOTS = 2_000


class RayBackend:
    """Tasks on the Ray cluster that this process is connected to.

    Parameters
    ----------
    connection : Connection, optional
        Released when the backend is closed; None when the connection is somebody else's.
    """

    name = "ray"
    capabilities = Capabilities(stops_running_tasks=True, holds_results=True, queues=True, bundles=True)

    def __init__(self, connection: Connection | None = None) -> None:
        import ray

        self._ray: Any = ray
        self._connection = connection
        self.started_cluster = connection is not None and connection.address == "local"
        self._client = self._ray.util.client.ray.is_connected()
        self._session = session()
        self._nested = not self._client and _in_task(ray)
        self.codec = Codec(ray_pickler(), ray.put, reference_types())
        self._remote = ray.remote(max_retries=0, retry_exceptions=False)(attempt)
        self._options: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        # Ray Client gives no batches: each reference is a request of its own there.
        self._collector = Collector(ray, batches=not self._client)
        self._bundles = Bundles(self._kv, self._cancel, self._verdict, self._lost)
        self._few = 0.0
        self._capacity: Capacity | None = None
        self._capacity_at = 0.0

    def capacity(self) -> Capacity:
        """Return what the cluster has; remembered for a second."""
        now = time.monotonic()
        if self._capacity is None or now - self._capacity_at > _MEMORY:
            self._capacity = self._look()
            self._capacity_at = now
            self._few = 2 * (self._capacity.total.cpu or 0)
        return self._capacity

    def start(self, attempt: Attempt) -> None:
        """Submit the attempt to Ray, its followers in the same task."""
        if attempt.followers:
            self._start_bundle([attempt, *attempt.followers])
            return
        call = attempt.payload
        key = attempt.key.encode()
        message = (
            HEADER.pack(attempt.timeout or 0.0, time.time(), CLIENT if self._client else 0, len(key)) + key + call.body
        )
        remote = self._with_options(attempt)
        if call.lifted or call.nested:
            reference = remote.remote(message, list(call.nested), call.buffered, *call.lifted)
        else:
            reference = remote.remote(message)
        attempt.handle = Handle(reference)
        self._collector.watch(reference, self._few, functools.partial(self._completed, attempt))

    def _start_bundle(self, attempts: Sequence[Attempt]) -> None:
        name, message = self._bundles.pack(attempts, CLIENT if self._client else 0)
        # The same remote function as for one: Ray keeps workers for each function, and starts more to change over.
        reference = self._with_options(attempts[0]).remote(message)
        sent = self._bundles.add(name, reference, attempts)
        self._collector.watch(reference, self._few, functools.partial(self._bundles.completed, sent))

    def stop(self, attempt: Attempt, *, force: bool) -> None:
        """Have Ray raise KeyboardInterrupt in the function, or with ``force`` end its process.

        One of a bundle is not stopped before it is known that no other of them runs: that is soon, see `Bundles`.
        """
        handle: Handle | None = attempt.handle
        # None while it is being handed over: the dispatcher asks again when it has been.
        if handle is None or not self.alive():
            return
        handle.stopping = True
        reference, sent = handle.reference, handle.sent
        if reference is not None and (force or sent is None or sent.only_to_be_stopped):
            self._ray.cancel(reference, force=force)

    def _cancel(self, reference: Any) -> None:
        if self.alive():
            self._ray.cancel(reference)

    def started_at(self, attempt: Attempt) -> float | None:
        """Ask the cluster whether the attempt has begun; known a quarter of a second after it has."""
        handle: Handle | None = attempt.handle
        if handle is None:
            return None
        if handle.started is not None:
            return handle.started
        now = time.monotonic()
        if now - handle.asked_at > _ASK_AGAIN and self.alive():
            handle.asked_at = now
            fact = self._kv("get", attempt.key)
            if fact:
                told = json.loads(fact)
                handle.started = told["started_at"]
                handle.where = f"process {told['process']} on {told['host']}"
        return handle.started

    def reports(self, attempt: Attempt) -> bytes:
        """Ask the cluster what the attempt has reported."""
        handle: Handle | None = attempt.handle
        if handle is None:
            return b""
        now = time.monotonic()
        if now - handle.progress_at > _ASK_AGAIN and self.alive():
            handle.progress_at = now
            handle.reports = self._kv("get", attempt.key, PROGRESS) or handle.reports
            if handle.reports:
                # So it has begun, and the table says when.
                handle.asked_at = 0.0
        return handle.reports

    def fetch(self, payload: Any) -> Any:
        """Get a large result out of the object store."""
        try:
            return as_reply(self._ray.get(payload))
        except self._ray.exceptions.RayError as error:
            raise WorkerLost(
                f"the result was lost with the node that kept it ({type(error).__name__}: {error})",
                hint="Submit the task again.",
            ) from error

    def put(self, value: Any) -> Any:
        """Put a value into the object store; gives Ray's own reference."""
        return self._ray.put(value)

    def wait(
        self,
        event: Callable[[float], bool],
        timeout: float | None,
        attempt: Attempt | None,
        under_way: Callable[[], Sequence[Attempt]],
    ) -> bool:
        """Wait for the event; for a single attempt by asking Ray, and in a Ray task so that others may use its CPU."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        handle: Handle | None = attempt.handle if attempt is not None else None
        # What is left of a bundle may take longer than this one of it.
        reference = handle.reference if handle is not None and handle.sent is None else None
        if reference is None:
            self._collector.hurry()
        else:
            self._collector.get(reference, timeout)
        if not self._nested or threading.current_thread() is not threading.main_thread():
            return event(-1.0 if timeout is None else max(until - time.monotonic(), 0.0))
        while not event(0.0):
            seconds = until - time.monotonic()
            if seconds <= 0:
                return False
            handles = [one.handle.reference for one in under_way() if one.handle is not None]
            references = [reference for reference in dict.fromkeys(handles) if reference is not None]
            if references:
                self._ray.wait(references, num_returns=1, timeout=min(seconds, 1.0), fetch_local=False)
            # What Ray has told this call it tells the collector at about the same time.
            event(min(seconds, 0.002 if references else 0.05))
        return True

    def on_change(self, listener: Callable[[], None]) -> None:
        """Nothing to tell: who uses the capacity looks again every two seconds."""

    def alive(self) -> bool:
        """Whether this process is still connected to the cluster that it was connected to."""
        return self._session is not None and session() == self._session

    def close(self) -> None:
        """Disconnect, if this backend connected."""
        self._session = None
        self._bundles.close()
        self._collector.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    def _with_options(self, attempt: Attempt) -> Any:
        shape = (attempt.label, attempt.cpu, attempt.memory, attempt.gpu)
        remote = self._options.get(shape)
        if remote is None:
            remote = self._remote.options(
                name=attempt.label,
                num_cpus=attempt.cpu,
                num_gpus=attempt.gpu or None,
                memory=attempt.memory or None,
            )
            self._options[shape] = remote
            if len(self._options) > _FUNCTIONS:
                self._options.pop(next(iter(self._options)), None)
        return remote

    def _completed(self, attempt: Attempt, value: Any) -> None:
        """Take what Ray brings; in a thread of Ray's that must neither wait nor run a user's code."""
        handle: Handle = attempt.handle
        if type(value) is bytes:
            reply = unpack(value)
        elif type(value) is tuple:
            reply = unpack(value[0])
            if reply.code < 2 and (value[2] or memoryview(value[1]).nbytes > _HELD):
                # Too large to keep in this process, or to pin in the store: it stays there until it is asked for.
                ending = Ending.ERROR if reply.code else Ending.VALUE
                outcome = Outcome(ending, handle.reference, reply.started_at, reply.seconds, held=True)
                attempt.report(attempt, outcome._replace(reports=reply.reports))
                return
            reply = as_reply(value)
        else:
            self._failed(attempt, handle, value)
            return
        handle.reference = None
        attempt.report(attempt, outcome_of(reply))

    def _failed(self, attempt: Attempt, handle: Handle, error: Any) -> None:
        outcome = self._verdict(error)
        if outcome is None:
            # The table that says when it began must be asked, for which this thread must not be used.
            threading.Thread(target=self._lost, args=(attempt, handle, error), daemon=True).start()
            return
        handle.reference = None
        attempt.report(attempt, outcome)

    def _verdict(self, error: Any) -> Outcome | None:
        """Return what an error of Ray's says that no worker was lost for."""
        exceptions = self._ray.exceptions
        if isinstance(error, exceptions.TaskCancelledError):
            return Outcome(Ending.INTERRUPTED)
        if isinstance(error, (exceptions.TaskUnschedulableError, exceptions.RuntimeEnvSetupError)):
            return Outcome(Ending.UNPLACEABLE, _text(error))
        if isinstance(error, exceptions.RayTaskError):
            # Not from the function, whose exceptions come as replies: from an argument that another task was to make.
            cause = error.as_instanceof_cause()
            return Outcome(Ending.ERROR, Reply(1, 0.0, 0.0, take_apart(cause, ray_pickler().dumps)))
        return None

    def _lost(self, attempt: Attempt, handle: Handle, error: Any) -> None:
        """Tell a worker that was lost from one that was ended because its attempt had outlived its timeout."""
        ended = time.time()
        reason = _text(error)
        started: float | None = None
        try:
            handle.asked_at = 0.0
            started = self.started_at(attempt)
            handle.progress_at = 0.0
            self.reports(attempt)
            self._kv("del", attempt.key)
            self._kv("del", attempt.key, PROGRESS)
        except Exception:
            logger.warning("attempt=%s event=start_unknown", attempt.key, exc_info=True)
        # Who never reported began about when it was handed over, and was kept from reporting: by a function that holds
        # the interpreter's lock from its first moment on. Only the kernel's timer ends such a one.
        ran = ended - (started or handle.handed_at)
        limit = None if attempt.timeout is None else attempt.timeout + (0.0 if started else KILL_AFTER)
        if limit is not None and ran >= limit and not _out_of_memory(self._ray, error):
            outcome = Outcome(Ending.TIMED_OUT, reason, started, ran)
        else:
            where = f" ({handle.where})" if handle.where else ""
            outcome = Outcome(Ending.LOST, f"{reason}{where}", started, ran if started else None)
        handle.reference = None
        attempt.report(attempt, outcome._replace(reports=handle.reports))

    def _kv(self, what: str, key: str, suffix: bytes = b"") -> Any:
        from ray.experimental import internal_kv

        return getattr(internal_kv, f"_internal_kv_{what}")(key.encode() + suffix, namespace=NAMESPACE)

    def _look(self) -> Capacity:
        nodes = [_limits(node["Resources"]) for node in self._ray.nodes() if node["Alive"]]
        total = Limits(*(sum(values) for values in zip(*nodes, strict=True))) if nodes else Limits(0.0, 0, 0.0)
        possible = [] if self._client else _possible_nodes()
        for node, count in possible:
            # Seen as if they were there, or the autoscaler would never be asked for them.
            total = Limits(*((have or 0) + (more or 0) * count for have, more in zip(total, node, strict=True)))  # type: ignore[arg-type]
        return Capacity(total, (*nodes, *(node for node, _ in possible)), _SLOTS)


def _limits(resources: dict[str, float]) -> Limits:
    return Limits(resources.get("CPU", 0.0), int(resources.get("memory", 0)), resources.get("GPU", 0.0))


def _possible_nodes() -> list[tuple[Limits, int]]:
    """Return the kinds of nodes that the cluster's autoscaler can add, and how many of each."""
    from ray._private.state import state

    config = state.get_cluster_config()
    groups = [] if config is None else config.node_group_configs
    # -1 means without bound.
    return [(_limits(dict(group.resources)), group.max_count if group.max_count >= 0 else 1000) for group in groups]


def _in_task(ray: Any) -> bool:
    context = ray.get_runtime_context()
    return context.worker.mode == ray.WORKER_MODE and context.get_actor_id() is None


def _out_of_memory(ray: Any, error: Any) -> bool:
    return isinstance(error, ray.exceptions.OutOfMemoryError)


def _text(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:600]}"
