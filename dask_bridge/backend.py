"""The Dask backend: an attempt is a future on a Dask cluster.

Dask is imported inside the functions: the entry point is loaded by processes that may not need it.

What Dask cannot do, and this backend therefore declares: end a thread. A running task cannot be cancelled, and one
that outlives its timeout while in native code is given up, not stopped: its thread is busy until it returns. When a
worker is lost, Dask itself runs its tasks again, ``distributed.scheduler.allowed-failures`` times, before we hear.
"""

from __future__ import annotations

import functools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from compute.backend import Attempt, Backend, Capabilities, Capacity, Ending, Outcome
from compute.config import Config
from compute.errors import BackendUnavailable
from compute.failures import take_apart
from compute.pickling import Codec
from compute.resources import Limits
from compute.wire import Reply, plain_pickler
from dask_bridge.worker import TOPIC, attempt

logger = logging.getLogger(__name__)

LOCAL = "local"
_ANSWER = 6
_ENDINGS = (Ending.VALUE, Ending.ERROR, Ending.UNSENDABLE, Ending.TIMED_OUT, Ending.INTERRUPTED)
_MEMORY = 1.0
_SCATTER = 256 * 1024
_GIVE_UP = 2.0


def connect(config: Config, address: str | None, key: str) -> Backend:
    """Return the backend for an address; without one, Dask-on-Ray. The entry point ``compute.backends: dask``.

    Parameters
    ----------
    config : Config
        For a Ray cluster that is started here.
    address : str or None
        ``host:port`` or ``tcp://host:port`` of a Dask scheduler; ``local``: a cluster of processes is started here.
    key : str
        The configuration key that the address comes from.

    Raises
    ------
    BackendUnavailable
        Within ten seconds, when no Dask scheduler answers.
    """
    if address is None:
        from dask_bridge.on_ray import connect_on_ray

        return connect_on_ray(config)
    import distributed

    make: Any = distributed.Client
    if address == LOCAL:
        from dask_bridge.local_cluster import start_cluster

        cluster = start_cluster(config)
        most = None if config.scaling is None else config.scaling.max_workers
        return DaskBackend(make(cluster, set_as_default=False), cluster, most)
    try:
        client = make(address, timeout=_ANSWER, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise BackendUnavailable(
            f"the Dask scheduler at {address} (from {key}) cannot be reached: {type(error).__name__}: {error}",
            hint="Check that `dask scheduler` runs there, that the port is its own (8786, not the dashboard's 8787), "
            "and that no firewall stands between.",
            context={"address": address, "key": key},
        ) from error
    if config.monitoring.dashboard.dask:
        logger.info("backend=dask address=%s dashboard=%s", address, client.dashboard_link)
    return DaskBackend(client)


class _Handle:
    """What the backend knows of an attempt that is with Dask."""

    __slots__ = ("future", "kept", "started_at")

    def __init__(self) -> None:
        self.future: Any = None
        self.kept: Any = None
        self.started_at: float | None = None


class DaskBackend:
    """Tasks on a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
        Closed with the backend.
    cluster : distributed.LocalCluster, optional
        One that was started for this backend, and ends with it.
    most : int, optional
        Workers, of one thread each, that it may grow to: so many tasks are handed over, which makes it grow.
    """

    name = "dask"
    # Not more than there are threads: Dask knows nothing of the CPUs that a task asks for.
    capabilities = Capabilities(stops_running_tasks=False, queues=False)

    def __init__(self, client: Any, cluster: Any = None, most: int | None = None) -> None:
        import distributed

        self._client = client
        self._cluster = cluster
        self._most = most
        self.follows_scaling = most is not None
        self._killed = distributed.scheduler.KilledWorker
        self.codec = Codec(plain_pickler(), self.put, (distributed.Future,))
        self._topic = f"{TOPIC}-{secrets.token_hex(4)}"
        self._lock = threading.Lock()
        self._under_way: dict[str, Attempt] = {}
        self._stuck: dict[str, Any] = {}
        self._capacity: Capacity | None = None
        self._capacity_at = 0.0
        client.subscribe_topic(self._topic, self._begun)

    def capacity(self) -> Capacity:
        """Return the cluster's threads as CPUs, its memory, and the resource ``GPU`` of its workers."""
        now = time.monotonic()
        if self._capacity is None or now - self._capacity_at > _MEMORY:
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
            nodes = tuple(
                Limits(float(worker["nthreads"]), int(worker["memory_limit"]), worker["resources"].get("GPU", 0.0))
                for worker in workers
            )
            sums = [sum(values) for values in zip(*nodes, strict=True)] if nodes else [0, 0, 0]
            # Threads that are stuck count as gone.
            threads = max(0, max(int(sums[0]), self._most or 0) - len(self._stuck))
            self._capacity = Capacity(Limits(float(threads), int(sums[1]), float(sums[2])), nodes, threads)
            self._capacity_at = now
        return self._capacity

    def start(self, attempt: Attempt) -> None:
        """Submit the attempt to the scheduler."""
        call = attempt.payload
        handle = attempt.handle = _Handle()
        body: Any = call.body
        if len(body) > _SCATTER:
            # What is large goes to a worker by itself, not through the scheduler.
            body = handle.kept = self._scatter(body)
        with self._lock:
            self._under_way[attempt.key] = attempt
        handle.future = self._client.submit(
            _attempt,
            self._topic,
            attempt.key,
            attempt.timeout,
            body,
            call.buffered,
            *call.lifted,
            key=f"{attempt.label}-{attempt.key}",
            pure=False,
            retries=0,
            resources={"GPU": attempt.gpu} if attempt.gpu else None,
        )
        handle.future.add_done_callback(functools.partial(self._completed, attempt))

    def stop(self, attempt: Attempt, *, force: bool) -> None:  # noqa: ARG002  (Dask has one way)
        """Take the attempt back; one that runs already goes on, and its result is thrown away."""
        handle: _Handle | None = attempt.handle
        if handle is not None and handle.future is not None and self.alive():
            handle.future.cancel()
            self._report(attempt, Outcome(Ending.INTERRUPTED, None, handle.started_at))

    def started_at(self, attempt: Attempt) -> float | None:
        """Return when the worker said that it began."""
        return attempt.handle.started_at if attempt.handle is not None else None

    def fetch(self, payload: Any) -> Any:
        """Return the payload: outcomes are never held."""
        return payload

    def put(self, value: Any) -> Any:
        """Send a value to the workers; gives Dask's own future."""
        if isinstance(value, list) and value and hasattr(value[0], "raw"):
            # Buffers of a pickle: Dask knows bytes.
            value = [buffer.raw().tobytes() for buffer in value]
        return self._scatter(value)

    def wait(
        self,
        event: Callable[[float], bool],
        timeout: float | None,
        attempt: Attempt | None,  # noqa: ARG002
        under_way: Callable[[], Sequence[Attempt]],  # noqa: ARG002
    ) -> bool:
        """Wait for the event; in a Dask task, let others use its thread meanwhile."""
        import distributed

        worker: Any = distributed.worker
        if hasattr(worker.thread_state, "key"):
            worker.secede()
            try:
                return event(-1.0 if timeout is None else max(timeout, 0.0))
            finally:
                worker.rejoin()
        return event(-1.0 if timeout is None else max(timeout, 0.0))

    def on_change(self, listener: Callable[[], None]) -> None:
        """Nothing to tell: who uses the capacity looks again every two seconds."""

    def alive(self) -> bool:
        """Whether the client is connected."""
        return bool(self._client.status == "running")

    def close(self) -> None:
        """Disconnect, and end the cluster if it was started for this backend."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _scatter(self, value: Any) -> Any:
        # In a list: a list or a dict by itself would be scattered item by item.
        return self._client.scatter([value], hash=False)[0]

    def _begun(self, event: Any) -> None:
        """Take a worker's word that an attempt has begun; in the client's loop."""
        told = event[1]
        with self._lock:
            attempt = self._under_way.get(told["key"])
        if attempt is None:
            return
        attempt.handle.started_at = told["started_at"]
        if attempt.timeout is not None:
            self._client.loop.call_later(attempt.timeout + _GIVE_UP, self._give_up, attempt)

    def _give_up(self, attempt: Attempt) -> None:
        with self._lock:
            late = attempt.key in self._under_way
            if late:
                # Not cancelled: the scheduler would take its thread for free and send it work.
                self._stuck[attempt.key] = attempt.handle.future
        if late:
            logger.warning("attempt=%s event=given_up: it did not stop, and keeps its thread busy", attempt.key)
            self._report(attempt, Outcome(Ending.TIMED_OUT, None, attempt.handle.started_at, attempt.timeout))

    def _completed(self, attempt: Attempt, future: Any) -> None:
        """Fetch what came of an attempt; in the thread of the client's callbacks."""
        with self._lock:
            if self._stuck.pop(attempt.key, None) is not None:
                return
        if future.cancelled():
            self._report(attempt, Outcome(Ending.INTERRUPTED, None, attempt.handle.started_at))
            return
        error = future.exception()
        if isinstance(error, self._killed):
            reason = str(error).splitlines()[0]
            self._report(attempt, Outcome(Ending.LOST, reason, attempt.handle.started_at))
            return
        if error is not None:
            # Not from the function, whose exceptions come as replies: an argument was lost, or a module is missing.
            self._report(attempt, Outcome(Ending.ERROR, Reply(1, 0.0, 0.0, take_apart(error, plain_pickler().dumps))))
            return
        try:
            reply: Reply = future.result()
        except Exception as problem:  # noqa: BLE001  (lost between finishing and being fetched; whatever the way)
            self._report(attempt, Outcome(Ending.LOST, f"its result was lost ({type(problem).__name__}: {problem})"))
            return
        payload: Any = reply if reply.code < 2 else reply.body.decode()
        self._report(attempt, Outcome(_ENDINGS[reply.code], payload, reply.started_at, reply.seconds))

    def _report(self, attempt: Attempt, outcome: Outcome) -> None:
        with self._lock:
            if self._under_way.pop(attempt.key, None) is None:
                return
            attempt.handle.future = attempt.handle.kept = None
        attempt.report(attempt, outcome)


_attempt = attempt
