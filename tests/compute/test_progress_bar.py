"""The bar, as a terminal and as a pipe see it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

WORK = """
import sys, time
from compute import ComputeManager, distributed_map
from compute.local_backend import LocalBackend

def pause(seconds):
    time.sleep(seconds)
    return seconds

with ComputeManager(LocalBackend(2)) as manager:
    manager.gather_results([manager.submit_task(pause, 0.1) for _ in range(2)])  # the workers are up
    assert sum(distributed_map(pause, [float(sys.argv[1])] * 8, partition_size=1, manager=manager)) > 0
    if sys.argv[2:]:
        sys.stderr.write("--")
        distributed_map(pause, [0.0] * 8, manager=manager)
        sys.stderr.write("--")
        distributed_map(lambda n: time.sleep(3) or 1 // n, [1, 0], partition_size=1, manager=manager)
"""


def _start(stderr: int, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "70", **environment}
    return subprocess.Popen([sys.executable, "-c", WORK, *arguments], stderr=stderr, env=variables)


def _shown(terminal: int) -> str:
    """Read until the terminal's last writer has gone."""
    said = b""
    while True:
        try:
            piece = os.read(terminal, 65_536)
        except OSError:  # Linux says EIO at the end of a terminal
            return said.decode()
        if not piece:
            return said.decode()
        said += piece


def test_a_terminal_shows_work_of_more_than_two_seconds_and_nothing_else_does() -> None:
    ends = {name: pty.openpty() for name in ("long", "dumb", "failing")}
    running = {
        "long": _start(ends["long"][1], "0.8"),
        "dumb": _start(ends["dumb"][1], "0.8", TERM="dumb"),
        "failing": _start(ends["failing"][1], "0.01", "fail"),
        "piped": _start(subprocess.PIPE, "0.8"),
    }
    try:
        for _, end in ends.values():
            os.close(end)
        said = {name: _shown(terminal) for name, (terminal, _) in ends.items()}
        _, piped = running["piped"].communicate(timeout=60)
        codes = {name: process.wait(timeout=60) for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
        for terminal, _ in ends.values():
            os.close(terminal)
    assert codes == {"long": 0, "dumb": 0, "failing": 1, "piped": 0}
    drawn = said["long"].split("\r\x1b[K")
    bars = [re.fullmatch(r"pause  (\d) of 8 \[=* *\] (\d+) s(, \d+ s left)?", bar) for bar in drawn[1:-1]]
    assert all(bars), drawn
    counts = [int(bar[1]) for bar in bars if bar]
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= 8
    assert min(int(bar[2]) for bar in bars if bar) == 2
    assert drawn[0] == drawn[-1] == ""  # nothing before, and nothing left behind
    assert said["dumb"] == ""
    assert piped == b""
    assert said["failing"].split("--")[1] == ""  # work that is done in less
    # What goes wrong stands on a line of its own.
    assert "\r\x1b[KTraceback" in said["failing"]
