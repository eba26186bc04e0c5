"""Starts the processes that solve as forks of one that has imported the engines: in milliseconds instead of a second.

That is what `multiprocessing` calls a fork server. Its own is of no use here: what it starts imports the main module of
the process that asks, and that is Ray's worker, or a script without a guard.

Each process has one server, from its first solve on. It ends with that process, and takes along what it has started;
it ends as well when nothing was asked of it for a while.
"""

from __future__ import annotations

import atexit
import importlib
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from typing import NamedTuple

from solver.optimization import worker
from solver.optimization.engines import ENGINES, MODULES

_IDLE = 300.0
"""Seconds after which a server that nobody asks for anything gives its memory back."""
_QUIET = 2.0
"""Seconds without work after which it imports the engines that were used."""
_REAPING = 1.0
_NUMBER = struct.Struct("!i")
_REQUEST = 1
_FDS = 3
_TRIES = 3


class Child:
    """A process that solves."""

    def __init__(self, pid: int, life: socket.socket) -> None:
        self.pid = pid
        self._life = life
        self._code: int | None = None

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self.wait(0.0) is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float) -> int | None:
        """Return how it ended, as `subprocess.Popen.returncode` says it; None when it has not, or nobody knows."""
        if self._code is None:
            self._life.settimeout(timeout)
            with suppress(OSError):  # not yet
                self._code = _receive(self._life)
        return self._code

    def close(self) -> None:
        """End it, and let go of it."""
        self.kill()
        self.wait(_REAPING)
        self._life.close()


class _Server(NamedTuple):
    process: subprocess.Popen[bytes]
    control: socket.socket


_lock = threading.Lock()
_server: _Server | None = None


def start(engine: str, line: int, log: int) -> Child:
    """Start a process that solves one job.

    Parameters
    ----------
    engine : str
        Its name; the process is up sooner when it is not the first with this engine.
    line : int
        The file descriptor of the socket from which it takes its job.
    log : int
        That of the file to which the engine prints.

    Returns
    -------
    Child

    Raises
    ------
    OSError
        No process could be started.
    """
    with _lock:
        for _ in range(_TRIES):
            ours, theirs = socket.socketpair()
            with theirs, suppress(ConnectionError):  # the server has just ended
                socket.send_fds(_running().control, [bytes([ENGINES.index(engine)])], [line, log, theirs.fileno()])
            if (pid := _receive(ours)) is not None:
                return Child(pid, ours)
            ours.close()
            _end()
    raise OSError("the process that starts the engines ends before it has started one: see what it printed")


def _running() -> _Server:
    global _server
    if _server is None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # A signal to the group of who waits for it, such as Ctrl-C, is not for the engine.
                start_new_session=True,
            )
        _server = _Server(process, ours)
    return _server


def _end() -> None:
    global _server
    if _server is not None:
        _server.control.close()
        try:
            _server.process.wait(_REAPING)
        except subprocess.TimeoutExpired:  # it imports an engine
            _server.process.kill()
            _server.process.wait()
        _server = None


atexit.register(_end)


def _forget() -> None:
    """After a fork: the server belongs to the other process, and is to see when that one ends."""
    global _lock, _server
    _lock = threading.Lock()
    if _server is not None:
        _server.control.close()
        _server.process.returncode = 0  # not ours to wait for
        _server = None


os.register_at_fork(after_in_child=_forget)


def _receive(life: socket.socket) -> int | None:
    """Return the next number; None when there is none any more."""
    data = life.recv(_NUMBER.size)
    return _NUMBER.unpack(data)[0] if len(data) == _NUMBER.size else None


# What follows runs in the server


def _serve(control: socket.socket) -> int | None:
    """Start what is asked for. Returns in each process that it starts, with its line; and None when it is to end."""
    children: dict[int, socket.socket] = {}
    used = {ENGINES[0]}  # and not imported here
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler, nothing would be written there
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    with selectors.DefaultSelector() as events:
        events.register(control, selectors.EVENT_READ)
        events.register(ended, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in events.select(_QUIET if used and not children else _IDLE)]
            if not ready and not children:
                if not used:
                    return None
                # Nobody waits meanwhile: the next process with one of these is up at once.
                _import(used)
            if ended in ready:
                ended.recv(4096)
                _reap(children)
            if control in ready:
                request, fds, _, _ = socket.recv_fds(control, _REQUEST, _FDS)
                if not request:
                    for pid in children:
                        os.kill(pid, signal.SIGKILL)
                    return None
                if (engine := ENGINES[request[0]]) in used and not children:
                    # The process would have to import it anyway.
                    used.discard(engine)
                    _import({engine})
                line, log, life = fds[0], fds[1], socket.socket(fileno=fds[2])
                if (pid := os.fork()) == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.dup2(log, sys.stdout.fileno())
                    os.dup2(log, sys.stderr.fileno())
                    os.close(log)
                    for other in (control, ended, wake, life, *children.values()):
                        other.close()
                    return line
                os.close(line)
                os.close(log)
                children[pid] = life
                if MODULES[engine] not in sys.modules:
                    used.add(engine)
                with suppress(OSError):  # nobody waits for it: it finds that its line is closed
                    life.send(_NUMBER.pack(pid))


def _import(engines: set[str]) -> None:
    while engines:
        with suppress(ImportError):  # the process that wants it tells of that
            importlib.import_module(MODULES[engines.pop()])


def _reap(children: dict[int, socket.socket]) -> None:
    """Tell how those ended that did."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with children.pop(pid) as life, suppress(OSError):  # nobody wants to know
            life.send(_NUMBER.pack(os.waitstatus_to_exitcode(status)))


def main() -> None:
    """Serve, or, in a process that was started, solve."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        line = _serve(control)
    if line is not None:
        worker.solve(line)


if __name__ == "__main__":
    main()
