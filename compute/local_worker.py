"""A worker process of the local backend: reads calls from a socket, runs them one after another, writes replies.

It is started as a new interpreter, not by forking or through `multiprocessing`: a fork of a process with threads may
hang, and both of multiprocessing's other ways import the user's main script again, which runs it twice when it has no
``if __name__ == "__main__"``. What a script defines comes by value (cloudpickle).
"""

from __future__ import annotations

import ctypes
import os
import pickle
import secrets
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from compute.attempt import run
from compute.shared_memory import SharedFile, SharedValue, place
from compute.wire import Reply, pack, plain_pickler

READY = b"ready"
REPORTS = 2
"""First byte of a message that tells how far the call is; of a reply it is 0 or 1."""

_THREADS = "OMP_NUM_THREADS"
_PR_SET_PDEATHSIG = 1


def main(file: int, parent: int, homes: list[str]) -> None:
    """Serve until the other end of the socket closes."""
    _die_with(parent)
    # Ctrl-C in a terminal reaches the whole foreground group: who is to stop is for the manager to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(file)
    pickler = plain_pickler()
    own_threads = _THREADS in os.environ

    def report(data: bytes) -> None:
        connection.send_bytes(bytes([REPORTS]) + data)

    connection.send_bytes(READY)
    while True:
        try:
            body, lifted, nested, buffered, cpus = pickle.loads(connection.recv_bytes())  # noqa: S301  (our manager)
        except (EOFError, ConnectionError):
            return
        if not own_threads:
            # As Ray does: numeric libraries use the CPUs that the task asked for, not all there are.
            os.environ[_THREADS] = str(max(1, int(cpus)))
        values = [value.load() if isinstance(value, SharedValue) else value for value in lifted]
        reply = run(body, values, nested, buffered, pickler, report)
        try:
            _send(connection, reply, homes)
        except (BrokenPipeError, ConnectionError):
            return
        # Not until the next call: an idle worker keeps no data alive.
        del body, lifted, values, reply


def _send(connection: Connection, reply: Reply, homes: list[str]) -> None:
    if not reply.buffers:
        connection.send_bytes(b"\0" + pack(reply))
        return
    views = [buffer.raw() for buffer in reply.buffers]
    path = place(homes, secrets.token_hex(8), sum(view.nbytes for view in views))
    file = pickle.dumps(SharedFile.write(path, views))
    connection.send_bytes(b"\1" + len(file).to_bytes(4, "little") + file + pack(reply._replace(buffers=())))


def _die_with(parent: int) -> None:
    """End this process when the manager's does, whatever the function is doing then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
