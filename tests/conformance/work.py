"""Functions that the promises are tested with; workers import this."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any


class Precise(Exception):
    """Takes other arguments than it hands on: a plain pickle of it cannot be read."""

    def __init__(self, code: int, where: str, detail: dict[str, int]) -> None:
        super().__init__(f"{code} at {where}")
        self.code = code
        self.where = where
        self.detail = detail


class Unsendable(Exception):
    """Holds something that cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def note(path: Path) -> int:
    """Append a line and return how many there are."""
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return len(path.read_text().splitlines())


def count(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(path: Path, seconds: float = 20.0) -> None:
    """Sleep until the file is there."""
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.01)


def begin_and_wait(begun: Path, go: Path, value: Any = None) -> Any:
    begun.touch()
    wait_for(go)
    return value


def nap(seconds: float) -> None:
    """Sleep a little at a time, so that engines which interrupt Python code only can."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)


def begin_and_sleep(begun: Path, seconds: float) -> None:
    begun.touch()
    nap(seconds)


def interval(path: Path, seconds: float) -> tuple[float, float]:
    begun = time.time()
    time.sleep(seconds)
    return begun, time.time()


def append(path: Path, name: str) -> None:
    with path.open("a") as file:
        file.write(f"{name}\n")


def raise_precise() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        precise = Precise(7, "here", {"row": 3})
        precise.add_note("a note of its own")
        raise precise from error


def raise_unsendable() -> None:
    raise Unsendable("it holds a lock")


def raise_from_unsendable() -> None:
    try:
        raise_unsendable()
    except Unsendable as error:
        raise Precise(8, "there", {}) from error


def return_generator() -> Any:
    return (number for number in range(3))


def die(path: Path) -> None:
    note(path)
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path: Path) -> str:
    if note(path) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"


def crash_one_in_twenty(directory: Path, number: int) -> int:
    """Every twentieth ends its process, the first time that it runs."""
    mark = directory / str(number)
    if number % 20 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail_twice(path: Path) -> str:
    if note(path) < 3:
        raise ConnectionError("not yet")
    return "third"


def fail(path: Path) -> None:
    note(path)
    raise ValueError("always")


def exit_quietly() -> None:
    raise SystemExit(3)


def ignore_everything() -> None:
    """Python code that catches what it is interrupted with and ignores signals."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(BaseException):
            time.sleep(0.05)


def hold_the_interpreter() -> int:
    """Native code that never looks at a signal and never lets go of the interpreter's lock."""
    return sum(range(10**13))


def spin(seconds: float) -> None:
    """Python code that is never in a system call."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
