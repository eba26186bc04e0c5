"""The local backend: a pool of processes, any of which can be ended without harm to the others.

The pools at hand cannot do that: `concurrent.futures` breaks as a whole when one worker dies, and ends none that hangs.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from compute.autoscale import Autoscale
from compute.backend import Attempt, Capabilities, Capacity, Ending, Outcome
from compute.config import Scaling
from compute.local_worker import READY, REPORTS
from compute.pickling import Codec
from compute.resources import Limits
from compute.shared_memory import SharedDirectory, SharedValue, place
from compute.wire import ERROR, VALUE, plain_pickler, unpack

logger = logging.getLogger(__name__)

_TICK = 1.0
_ENDINGS = {VALUE: Ending.VALUE, ERROR: Ending.ERROR}


class _Worker:
    """One process: starting, idle (no attempt) or busy."""

    def __init__(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        self.process = process
        self.connection = connection
        self.ready = False
        self.attempt: Attempt | None = None
        self.started_at = 0.0
        self.deadline: float | None = None
        self.reports = b""
        self.verdict: Ending | None = None
        """Why it is being ended, when that is our doing."""
        self.idle_since = time.monotonic()


class LocalBackend:
    """Processes of this machine.

    Parameters
    ----------
    workers : int
        Processes at most (with ``scaling``: at first). They start when they are needed and stay.
    scaling : Scaling, optional
        Grow and shrink by the load instead.
    cpus, memory, gpus : optional
        What the machine counts for; by default its cores (or ``workers`` if that is more), its memory, no GPU.
    """

    name = "local"
    capabilities = Capabilities(stops_running_tasks=True, queues=False)

    def __init__(
        self,
        workers: int,
        scaling: Scaling | None = None,
        *,
        cpus: float | None = None,
        memory: int | None = None,
        gpus: float | None = None,
    ) -> None:
        pickler = plain_pickler()
        self._pickler = pickler
        self.codec = Codec(pickler, self.put, (SharedValue,))
        self._scale = None if scaling is None else Autoscale(scaling, workers)
        self._size = workers if self._scale is None else self._scale.size
        most = workers if scaling is None else max(scaling.max_workers, workers)
        total = Limits(cpus or float(max(os.cpu_count() or 1, most)), memory or _machine_memory(), gpus or 0.0)
        self._total = total
        self._shared = SharedDirectory()
        self._homes = self._shared.paths
        self._number = 0
        self._lock = threading.Lock()
        self._workers: dict[int, _Worker] = {}
        self._idle: list[_Worker] = []
        self._pending: deque[Attempt] = deque()
        self._asleep_until = 0.0
        self._closed = False
        self._listener: Callable[[], None] = lambda: None
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        # All processes are started by this thread: Linux sends the parent-death signal when the thread that made
        # a child ends, not when the process does.
        self._thread = threading.Thread(target=self._run, name="compute-local-pool", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def capacity(self) -> Capacity:
        """Return the machine, and as many slots as there are, or may be, workers."""
        return Capacity(self._total, (self._total,), max(self._size, 1))

    def start(self, attempt: Attempt) -> None:
        """Send the attempt to an idle worker, or have one started for it."""
        while True:
            with self._lock:
                if self._closed:
                    raise RuntimeError("the local backend is closed")
                if not self._idle:
                    self._pending.append(attempt)
                    break
                worker = self._idle.pop()
                self._assign(worker, attempt)
            if self._send(worker, attempt):
                return
        self._wake()

    def stop(self, attempt: Attempt, *, force: bool) -> None:  # noqa: ARG002  (a process is ended in one way)
        """End the attempt's process at once: another takes its place."""
        with self._lock:
            worker = attempt.handle
            waiting = worker is None and attempt in self._pending
            if waiting:
                self._pending.remove(attempt)
            elif worker is not None and worker.attempt is attempt:
                self._kill(worker, Ending.INTERRUPTED)
        if waiting:
            attempt.report(attempt, Outcome(Ending.INTERRUPTED))

    def started_at(self, attempt: Attempt) -> float | None:
        """Return when the attempt was sent to a worker, which is when it starts."""
        worker = attempt.handle
        return worker.started_at if worker is not None and worker.attempt is attempt else None

    def reports(self, attempt: Attempt) -> bytes:
        """Return what the worker has sent so far."""
        worker = attempt.handle
        return worker.reports if worker is not None and worker.attempt is attempt else b""

    def fetch(self, payload: Any) -> Any:
        """Return the payload: outcomes are never held."""
        return payload

    def put(self, value: Any) -> SharedValue:
        """Lay a value down in shared memory; it goes when the handle goes."""
        with self._lock:
            self._number += 1
            number = self._number
        size = getattr(value, "nbytes", None) or sys.getsizeof(value)
        path = place(self._homes, f"put-{number}", size if isinstance(size, int) else 0)
        return SharedValue.dump(path, value, self._pickler).own()

    def wait(
        self,
        event: Callable[[float], bool],
        timeout: float | None,
        attempt: Attempt | None,  # noqa: ARG002
        under_way: Callable[[], Sequence[Attempt]],  # noqa: ARG002
    ) -> bool:
        """Wait for the event; nothing else is to be done meanwhile."""
        return event(-1.0 if timeout is None else max(timeout, 0.0))

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have the listener called when there are more workers."""
        self._listener = listener

    def alive(self) -> bool:
        """Whether it is open and its thread lives."""
        return not self._closed and self._thread.is_alive()

    def close(self) -> None:
        """End all workers and remove what was put."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10)
        self._shared.close()

    # Any thread

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except (BlockingIOError, OSError):
            # Full: it is awake, or will be. Closed: it has ended.
            return

    def _assign(self, worker: _Worker, attempt: Attempt) -> None:
        worker.attempt = attempt
        worker.started_at = time.time()
        worker.reports = b""
        worker.deadline = None if attempt.timeout is None else time.monotonic() + attempt.timeout
        attempt.handle = worker

    def _send(self, worker: _Worker, attempt: Attempt) -> bool:
        """Send a call; False when the worker had died idle, which is not the attempt's fault."""
        call = attempt.payload
        message = pickle.dumps((call.body, call.lifted, call.nested, call.buffered, attempt.cpu), 5)
        try:
            worker.connection.send_bytes(message)
        except OSError:
            with self._lock:
                mine = worker.attempt is attempt
                worker.attempt = attempt.handle = None if mine else attempt.handle
            # When the pool's thread was quicker, it has reported the attempt already.
            return not mine
        if worker.deadline is not None and worker.deadline < self._asleep_until:
            self._wake()
        return True

    def _kill(self, worker: _Worker, verdict: Ending) -> None:
        worker.verdict = worker.verdict or verdict
        try:
            # The group: what the function started goes with it.
            os.killpg(worker.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    # The pool's thread

    def _run(self) -> None:
        while not self._closed:
            try:
                self._turn()
            except Exception:
                # Nothing above raises by itself; but without this thread every task would hang.
                logger.exception("backend=local event=turn_failed")
                time.sleep(_TICK)
        self._end()

    def _turn(self) -> None:
        self._spawn()
        now = time.monotonic()
        with self._lock:
            deadlines = [worker.deadline for worker in self._workers.values() if worker.deadline is not None]
            busy = any(worker.attempt is not None for worker in self._workers.values())
        wait = None if self._scale is None or (not busy and len(self._workers) <= self._size) else _TICK
        if self._scale is not None and self._scale.size > self._scale.least:
            wait = _TICK
        if deadlines:
            until = max(0.0, min(deadlines) - now)
            wait = until if wait is None else min(wait, until)
        self._asleep_until = float("inf") if wait is None else now + wait
        events = self._selector.select(wait)
        # Before the events are dealt with: a worker that has just finished was busy until now.
        self._rescale()
        for key, _ in events:
            if key.data is None:
                os.read(self._wake_read, 4096)
            else:
                self._read(key.data)
        self._stop_overdue()

    def _stop_overdue(self) -> None:
        now = time.monotonic()
        with self._lock:
            for worker in self._workers.values():
                if worker.deadline is not None and worker.deadline <= now:
                    worker.deadline = None
                    self._kill(worker, Ending.TIMED_OUT)

    def _rescale(self) -> None:
        if self._scale is None:
            return
        with self._lock:
            busy = sum(worker.attempt is not None for worker in self._workers.values())
            before = self._size
            # Work that waits in the manager waits because all slots are taken: counted as one more.
            waiting = len(self._pending) + (1 if busy >= before else 0)
            self._size = self._scale.observe(time.monotonic(), busy, waiting)
            surplus = len(self._workers) - max(self._size, 0)
            for worker in list(self._idle)[: max(0, surplus)]:
                self._idle.remove(worker)
                self._kill(worker, Ending.INTERRUPTED)
        if self._size > before:
            logger.info("backend=local event=scaled workers=%d before=%d", self._size, before)
            self._listener()

    def _spawn(self) -> None:
        with self._lock:
            starting = sum(not worker.ready for worker in self._workers.values())
            room = max(self._size, 1) - len(self._workers)
            warm = 0 if self._scale is None else self._scale.least - len(self._workers)
            count = min(room, max(len(self._pending) - starting, warm))
        for _ in range(max(0, count)):
            try:
                worker = self._popen()
            except OSError as error:
                self._blame(f"no worker process could be started ({error})")
                return
            with self._lock:
                self._workers[worker.process.pid] = worker
            self._selector.register(worker.connection.fileno(), selectors.EVENT_READ, worker)

    def _popen(self) -> _Worker:
        ours, theirs = socket.socketpair()
        try:
            code = (
                f"import sys; sys.path[:] = {sys.path!r}; "
                f"from compute.local_worker import main; main({theirs.fileno()}, {os.getpid()}, {self._homes!r})"
            )
            process = subprocess.Popen(
                [sys.executable, *_interpreter_options(), "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return _Worker(process, Connection(ours.detach()))

    def _read(self, worker: _Worker) -> None:
        try:
            message = worker.connection.recv_bytes()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if message == READY:
            worker.ready = True
            self._next(worker)
            return
        if message[0] == REPORTS:
            worker.reports = message[1:]
            return
        started_at = worker.started_at
        attempt = worker.attempt
        outcome = _outcome(message)
        with self._lock:
            worker.deadline = None
            # Killed after it had written its reply: the reply counts, the process is buried by and by.
            worker.attempt = None
        if worker.verdict is None:
            self._next(worker)
        if attempt is not None:
            attempt.report(attempt, outcome._replace(started_at=started_at))

    def _next(self, worker: _Worker) -> None:
        with self._lock:
            if not self._pending:
                worker.idle_since = time.monotonic()
                self._idle.append(worker)
                return
            attempt = self._pending.popleft()
            self._assign(worker, attempt)
        if not self._send(worker, attempt):
            with self._lock:
                self._pending.appendleft(attempt)

    def _bury(self, worker: _Worker) -> None:
        self._selector.unregister(worker.connection.fileno())
        worker.connection.close()
        self._kill(worker, Ending.LOST)
        code = worker.process.wait()
        with self._lock:
            del self._workers[worker.process.pid]
            if worker in self._idle:
                self._idle.remove(worker)
            attempt, worker.attempt, worker.deadline = worker.attempt, None, None
        reason = f"the worker process {worker.process.pid} {_how(code)}"
        if not worker.ready and attempt is None:
            self._blame(f"{reason} before it was ready")
        elif attempt is not None:
            verdict = worker.verdict or Ending.LOST
            seconds = time.time() - worker.started_at
            attempt.report(attempt, Outcome(verdict, reason, worker.started_at, seconds, reports=worker.reports))
        elif worker.verdict is Ending.LOST:
            logger.warning("backend=local event=idle_worker_lost reason=%r", reason)

    def _blame(self, reason: str) -> None:
        """Report a failure to start a process, to one of the attempts that wait for it."""
        with self._lock:
            attempt = self._pending.popleft() if self._pending else None
        if attempt is None:
            logger.error("backend=local event=start_failed reason=%r", reason)
        else:
            attempt.report(attempt, Outcome(Ending.LOST, reason))

    def _end(self) -> None:
        with self._lock:
            workers = list(self._workers.values())
            pending, self._pending = list(self._pending), deque()
            for worker in workers:
                self._kill(worker, Ending.INTERRUPTED)
        for worker in workers:
            self._bury(worker)
        for attempt in pending:
            attempt.report(attempt, Outcome(Ending.INTERRUPTED))
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def _outcome(message: bytes) -> Outcome:
    if message[0]:
        size = int.from_bytes(message[1:5], "little")
        buffers = pickle.loads(message[5 : 5 + size]).take()  # noqa: S301  (from our own worker)
        reply = unpack(message[5 + size :])._replace(buffers=buffers)
    else:
        reply = unpack(message[1:])
    if reply.code in _ENDINGS:
        return Outcome(_ENDINGS[reply.code], reply, reply.started_at, reply.seconds, reports=reply.reports)
    ending = (Ending.VALUE, Ending.ERROR, Ending.UNSENDABLE, Ending.TIMED_OUT, Ending.INTERRUPTED)[reply.code]
    return Outcome(ending, reply.body.decode(), reply.started_at, reply.seconds, reports=reply.reports)


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    memory = "; the kernel does this when memory runs out" if -code == signal.SIGKILL else ""
    return f"was ended by signal {-code} ({name}{memory})"


def _interpreter_options() -> list[str]:
    # As multiprocessing does: -W, -X and the like apply to the workers, too.
    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined,no-any-return]


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
