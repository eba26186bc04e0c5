"""A real Dask scheduler and real workers, each a process of its own on the loopback address."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

ANSWER = 90.0


class DaskServers:
    """A scheduler, and workers of one thread each below nannies.

    Parameters
    ----------
    folder : Path
        For the workers' files and everybody's log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.nannies: list[subprocess.Popen[bytes]] = []

    def start_scheduler(self) -> None:
        """Start it at the same port as before."""
        self.scheduler = self._start("scheduler", "--host=127.0.0.1", f"--port={self.port}", "--no-dashboard")
        until = time.monotonic() + ANSWER
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.scheduler.poll() is None, self.log()
            assert time.monotonic() < until, self.log()
            time.sleep(0.1)

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a nanny and its worker; gives the nanny."""
        options = ("--host=127.0.0.1", "--nthreads=1", "--no-dashboard", f"--local-directory={self.folder}")
        self.nannies.append(self._start("worker", self.address, *options))
        return self.nannies[-1]

    def kill_scheduler(self) -> None:
        """End the scheduler as a crash would."""
        assert self.scheduler is not None
        self.scheduler.kill()
        self.scheduler.wait()

    def stop(self) -> None:
        """End all that was started, with what it started itself: each has a group of its own."""
        for process in [*self.nannies, *([self.scheduler] if self.scheduler is not None else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self) -> str:
        """What they wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def _start(self, command: str, *options: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", command, *options], stdout=log, stderr=log, start_new_session=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
