"""The Dask backend: an attempt is a future on a Dask cluster; short ones that the manager bundles share one.

Dask is imported inside the functions: the entry point is loaded by processes that may not need it.

Dask runs tasks in threads, which cannot be ended. A running attempt is interrupted where it runs Python code; one that
does not heed it ends with its worker's process, which the nanny starts again. What else that process was doing is lost
and repeated by the manager, which counts it, as it does for every other lost worker: see `dask_bridge.plugins`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
import pickle
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from compute.backend import Attempt, Backend, Capabilities, Capacity, Ending, Outcome
from compute.bundle import Item
from compute.config import Config
from compute.errors import BackendUnavailable, WorkerLost
from compute.failures import take_apart
from compute.pickling import Codec
from compute.resources import Limits
from compute.wire import Reply, plain_pickler
from dask_bridge import bundle, journal, worker
from dask_bridge.link import Link
from dask_bridge.sent import Handle, Sent
from dask_bridge.versions import check_installed

logger = logging.getLogger(__name__)

LOCAL = "local"
_ANSWER = 6
_ENDINGS = (Ending.VALUE, Ending.ERROR, Ending.UNSENDABLE, Ending.TIMED_OUT, Ending.INTERRUPTED)
_MEMORY = 1.0
_SCATTER = 256 * 1024
# Seconds after which an attempt that outlived its timeout, and has no nanny to end it, is given up.
_GIVE_UP = 2.0
# Seconds between looks for what is on its way, and for a worker's next process at most.
_LOOK = 0.05
_RESTART = 15.0
# Seconds for which a waiting task cannot be interrupted.
_SLICE = 0.1
# What a killed process needs to be heard of: the kernel's timer ends an overdue one a moment after its timeout.
_OVERDUE = worker.KILL_AFTER


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
        Within ten seconds, when no Dask scheduler answers, or when the installed Dask is not one that the tests prove.
    """
    check_installed(("dask", "distributed"))
    if address is None:
        from dask_bridge.on_ray import connect_on_ray

        return connect_on_ray(config)
    import distributed

    make: Any = distributed.Client
    if address == LOCAL:
        from dask_bridge.local_cluster import start_cluster

        cluster = start_cluster(config)
        most = None if config.scaling is None else config.scaling.max_workers
        return DaskBackend(make(cluster), cluster, most)
    try:
        client = make(address, timeout=_ANSWER)
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


# Not more futures than there are threads: Dask knows nothing of the CPUs that a task asks for.
WITH_NANNIES = Capabilities(stops_running_tasks=True, holds_results=True, queues=False, bundles=True, keeps_notes=True)
WITHOUT_NANNIES = WITH_NANNIES._replace(stops_running_tasks=False, bundles=False, keeps_notes=False)
"""When workers have nobody to start them again, or are threads of this very process."""


class DaskBackend:
    """Tasks on a Dask cluster; while it is open, `compute()` of a Dask collection in this process runs there, too.

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
    capabilities = WITH_NANNIES

    def __init__(self, client: Any, cluster: Any = None, most: int | None = None) -> None:
        import distributed

        self._client = client
        self._cluster = cluster
        self._most = most
        self.follows_scaling = most is not None
        self._killed = distributed.scheduler.KilledWorker
        self.codec = Codec(plain_pickler(), self.put, (distributed.Future,))
        self._topic = f"{worker.TOPIC}-{secrets.token_hex(4)}"
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._under_way: dict[str, Attempt] = {}
        self._bundles: dict[str, Sent] = {}
        self._stuck: set[str] = set()
        self._finished: list[Sent] = []
        self._capacity: Capacity | None = None
        self._capacity_at = 0.0
        self._listener: Callable[[], None] = lambda: None
        self._link = Link(client, self._topic, self._told)
        nannies = [one["nanny"] for one in self._workers()]
        if not all(nannies):
            self.capabilities = WITHOUT_NANNIES

    @property
    def client(self) -> Any:
        """The client, for what Dask computes by itself."""
        return self._client

    def capacity(self) -> Capacity:
        """Return the cluster's threads as CPUs, its memory, and the resource ``GPU`` of its workers."""
        now = time.monotonic()
        known = self._capacity
        if known is not None and (now - self._capacity_at <= _MEMORY or not self._link.up):
            return known
        nodes = tuple(
            Limits(float(one["nthreads"]), int(one["memory_limit"]), one["resources"].get("GPU", 0.0))
            for one in self._workers()
        )
        sums = [sum(values) for values in zip(*nodes, strict=True)] if nodes else [0, 0, 0]
        # Threads that are stuck count as gone.
        threads = max(0, max(int(sums[0]), self._most or 0) - len(self._stuck))
        self._capacity = Capacity(Limits(float(threads), int(sums[1]), float(sums[2])), nodes, threads)
        self._capacity_at = now
        return self._capacity

    def start(self, attempt: Attempt) -> None:
        """Submit the attempt to the scheduler; while that is away, keep it until it is back."""
        attempts = [attempt, *attempt.followers]
        for one in attempts:
            # Not the manager's key alone: an attempt that was given back comes again.
            one.handle = Handle(f"{worker.MARK}{one.label}-{one.key}-{next(self._numbers)}")
        sent = Sent(attempts, next(self._numbers))
        for one in attempts:
            one.handle.sent = sent
        with self._lock:
            self._under_way.update(sent.left)
            if sent.bundled:
                self._bundles[sent.name] = sent
        self._link.when_up(functools.partial(self._submit, sent), functools.partial(self._lose, sent))

    def stop(self, attempt: Attempt, *, force: bool) -> None:
        """Interrupt the attempt, or with ``force`` end its worker's process; one that has not begun never will."""
        handle: Handle | None = attempt.handle
        if handle is None or not self.alive():
            return
        handle.stopping = True
        sent = handle.sent
        if sent is None or sent.future is None:
            self._report(attempt, Outcome(Ending.INTERRUPTED))
        elif self.capabilities.stops_running_tasks:
            self._in_loop(self._stop(attempt, sent, force=force))
        else:
            sent.future.cancel()
            self._report(attempt, Outcome(Ending.INTERRUPTED, None, handle.started_at))

    def started_at(self, attempt: Attempt) -> float | None:
        """Return when the worker said that it began."""
        return attempt.handle.started_at if attempt.handle is not None else None

    def reports(self, attempt: Attempt) -> bytes:
        """Return what the worker has told so far."""
        return attempt.handle.reports if attempt.handle is not None else b""

    def fetch(self, payload: Any) -> Any:
        """Get a large result from the worker that holds it."""
        from concurrent.futures import CancelledError

        try:
            return payload.result()
        except (OSError, RuntimeError, CancelledError) as error:
            raise WorkerLost(
                f"the result was lost with the worker that kept it ({type(error).__name__}: {error})",
                hint="Submit the task again.",
            ) from error

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

        module: Any = distributed.worker
        if hasattr(module.thread_state, "key"):
            until = math.inf if timeout is None else time.monotonic() + timeout
            module.secede()
            # In slices: an interruption is raised between them.
            while not (there := event(max(0.0, min(until - time.monotonic(), _SLICE)))) and time.monotonic() < until:
                pass
            # Not after an interruption: it would wait for a thread that what was submitted may keep.
            module.rejoin()
            return there
        return event(-1.0 if timeout is None else max(timeout, 0.0))

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have the listener called when a worker was lost; all else is seen within two seconds."""
        self._listener = listener

    def alive(self) -> bool:
        """Whether the client is connected, or tries to be again."""
        return not self._link.gone

    def close(self) -> None:
        """Disconnect, and end the cluster if it was started for this backend."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _workers(self) -> list[dict[str, Any]]:
        return list(self._client.scheduler_info(n_workers=-1)["workers"].values())

    def _scatter(self, value: Any) -> Any:
        # In a list: a list or a dict by itself would be scattered item by item.
        return self._client.scatter([value], hash=False)[0]

    def _submit(self, sent: Sent) -> None:
        attempts = [attempt for attempt in sent.left.values() if not attempt.handle.stopping]
        if not attempts:
            return
        first = attempts[0]
        function: Any
        if sent.bundled:
            items = [Item(one.handle.name, one.timeout, one.payload.body) for one in attempts]
            function, arguments = bundle.run, (self._topic, sent.name, pickle.dumps(items, 5))
        else:
            call = first.payload
            body: Any = call.body
            if len(body) > _SCATTER:
                # What is large goes to a worker by itself, not through the scheduler.
                body = sent.kept = self._scatter(body)
            function = worker.attempt
            arguments = (self._topic, sent.name, first.timeout, body, call.buffered, *call.lifted)
        sent.at = time.time()
        sent.future = self._client.submit(
            function,
            *arguments,
            key=sent.name,
            pure=False,
            retries=0,
            resources={"GPU": first.gpu} if first.gpu else None,
        )
        sent.future.add_done_callback(functools.partial(self._completed, sent))

    def _in_loop(self, work: Coroutine[Any, Any, None]) -> None:
        self._client.loop.add_callback(lambda: work)

    async def _stop(self, attempt: Attempt, sent: Sent, *, force: bool) -> None:
        """Find out who has the attempt, and have it interrupted there; or ask the nanny to end the process."""
        name = attempt.handle.name
        where = None
        try:
            while name in self._under_way and where is None:
                processing = await self._client.processing()
                where = next((address for address, names in processing.items() if sent.name in names), None)
                if where is None and not sent.bundled:
                    if sent.future is not None and sent.future.status == "pending":
                        await sent.future.cancel(asynchronous=True)
                    return
                if where is None:
                    # Not to be cancelled for the sake of one of them; they will be on a worker soon, or over.
                    await asyncio.sleep(_LOOK)
            if where is None:
                return
            if not force:
                await self._client.run(worker.interrupt, name, workers=[where])
            elif not sent.ending:
                sent.ending = True
                await self._client.run(worker.end_process, workers=[where], nanny=True)
        except OSError:
            # The worker is going away by itself, and with it what was to be stopped.
            logger.info("attempt=%s event=stop_unheard worker=%s", attempt.key, where, exc_info=True)

    def _told(self, event: Any) -> None:
        """Take a worker's word that an attempt has begun, or how far it is; in the client's loop."""
        told = event[1]
        if "bundle" in told:
            with self._lock:
                sent = self._bundles.get(told["bundle"])
            if sent is not None:
                self._take(sent, {key: Reply(*reply) for key, reply in told["replies"]}, told["returned"])
        with self._lock:
            attempt = self._under_way.get(told["key"])
        if attempt is None:
            return
        if "reports" in told:
            attempt.handle.reports = told["reports"]
            return
        attempt.handle.started_at, attempt.handle.where = told["started_at"], told["worker"]
        if attempt.timeout is not None and not self.capabilities.stops_running_tasks:
            self._client.loop.call_later(attempt.timeout + _GIVE_UP, self._give_up, attempt)

    def _give_up(self, attempt: Attempt) -> None:
        with self._lock:
            late = attempt.handle.name in self._under_way
            if late:
                # Not cancelled: the scheduler would take its thread for free and send it work.
                self._stuck.add(attempt.handle.name)
        if late:
            logger.warning("attempt=%s event=given_up: it did not stop, and keeps its thread busy", attempt.key)
            self._report(attempt, Outcome(Ending.TIMED_OUT, None, attempt.handle.started_at, attempt.timeout))

    def _completed(self, sent: Sent, future: Any) -> None:
        """Take what came of a future; in the thread of the client's callbacks."""
        with self._lock:
            if sent.name in self._stuck:
                self._stuck.discard(sent.name)
                return
        if future.status != "finished":
            self._failed(sent, future)
        elif future.type is worker.Held:
            for attempt in list(sent.left.values()):
                self._report(attempt, Outcome(Ending.VALUE, future, attempt.handle.started_at, held=True))
        else:
            with self._lock:
                self._finished.append(sent)
                first = len(self._finished) == 1
            if first:
                self._in_loop(self._collect())

    async def _collect(self) -> None:
        """Fetch the small results that are there, all at once."""
        with self._lock:
            finished, self._finished = self._finished, []
        futures = {sent.name: sent.future for sent in finished}
        try:
            results: dict[str, Any] = await self._client.gather(futures, errors="skip", asynchronous=True)
        except Exception as error:  # noqa: BLE001  (whatever keeps them from coming, each has to be told of)
            for sent in finished:
                self._lose(sent, f"its result did not come ({type(error).__name__}: {error})")
            return
        for sent in finished:
            result = results[sent.name]
            if result is None and sent.bundled:
                self._in_loop(self._inquire(sent, time.time()))
            elif result is None:
                self._lose(sent, "its result was lost with its worker")
            elif sent.bundled:
                self._take(sent, *result)
            else:
                self._take(sent, dict.fromkeys(sent.left, result), ())

    def _take(self, sent: Sent, replies: dict[str, Reply], returned: Iterable[str]) -> None:
        """Report what has ended of what was sent, and what has not begun and never will."""
        for name, reply in replies.items():
            attempt = sent.left.get(name)
            if attempt is not None:
                payload: Any = reply if reply.code < 2 else reply.body.decode()
                outcome = Outcome(_ENDINGS[reply.code], payload, reply.started_at, reply.seconds, reports=reply.reports)
                self._report(attempt, outcome)
        for name in returned:
            attempt = sent.left.get(name)
            if attempt is not None:
                self._report(attempt, Outcome(Ending.RETURNED))

    def _failed(self, sent: Sent, future: Any) -> None:
        # Or what is handed over meanwhile queues up behind the next one that may end its process.
        self._capacity_at = 0.0
        self._listener()
        error = future.exception() if future.status == "error" else None
        if error is not None and not isinstance(error, self._killed):
            # Not from the function, whose exceptions come as replies: an argument was lost, or a module is missing.
            reply = Reply(1, 0.0, 0.0, take_apart(error, plain_pickler().dumps))
            for attempt in list(sent.left.values()):
                self._report(attempt, Outcome(Ending.ERROR, reply))
        elif not self._link.up:
            self._lose(sent, "the connection to the Dask scheduler was lost")
        elif sent.bundled:
            self._in_loop(self._inquire(sent, time.time()))
        else:
            where = "".join(attempt.handle.where for attempt in list(sent.left.values()))
            self._lose(sent, f"the worker {where or 'that it was given to'} was lost")

    async def _inquire(self, sent: Sent, ended: float) -> None:
        """Ask the nannies which attempts of a bundle had ended when its worker died, and which had begun."""
        told: journal.Told | None = None
        # The nanny is asked through the scheduler, which knows it again when the worker's next process is up.
        while told is None and self._link.up and time.time() - ended < _RESTART:
            try:
                answers = await self._client.run(journal.tell, sent.name, nanny=True, on_error="ignore")
            except Exception:  # (whatever keeps them from answering: who waits has to be told in the end)
                logger.warning("bundle=%s event=nannies_unheard", sent.name, exc_info=True)
                answers = {}
            told = next((answer for answer in answers.values() if answer is not None), None)
            if told is None:
                await asyncio.sleep(_LOOK)
        if told is None:
            self._lose(sent, "the worker that it was given to was lost, and its nanny, too", ended)
            return
        for name, at in told.begun.items():
            if (attempt := sent.left.get(name)) is not None:
                attempt.handle.started_at = at
        self._take(sent, told.replies, [name for name in sent.left if name not in told.begun])
        self._lose(sent, "the worker that it was given to was lost", ended)

    def _lose(self, sent: Sent, reason: str, ended: float | None = None) -> None:
        """Report what is left as lost; or as late, when its process was ended for that."""
        for attempt in list(sent.left.values()):
            handle: Handle = attempt.handle
            began = handle.started_at or (None if sent.bundled else sent.at)
            ran = (ended or time.time()) - (began or time.time())
            ending = Ending.LOST
            if handle.stopping:
                ending = Ending.INTERRUPTED
            elif attempt.timeout is not None and ran >= attempt.timeout + _OVERDUE and self._link.up:
                ending = Ending.TIMED_OUT
            self._report(attempt, Outcome(ending, reason, handle.started_at, ran if handle.started_at else None))

    def _report(self, attempt: Attempt, outcome: Outcome) -> None:
        handle: Handle = attempt.handle
        with self._lock:
            if self._under_way.pop(handle.name, None) is None:
                return
            sent, handle.sent = handle.sent, None
            if sent is not None:
                del sent.left[handle.name]
                if not sent.left:
                    self._bundles.pop(sent.name, None)
                    # Dask keeps a result for as long as somebody holds the future.
                    sent.future = sent.kept = None
        # A large reply is not here yet, and a lost one never will be: what was told before it counts.
        attempt.report(attempt, outcome._replace(reports=outcome.reports or handle.reports))
