"""How far a job is: shown as a bar on a terminal, written as lines of JSON where a program reads, or nowhere.

Whoever works calls `report`; who started the work has said by `shown` what becomes of it. Within a task of the compute
layer, it is the task's own progress as well.
"""

from __future__ import annotations

import contextvars
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from compute import report_progress
from compute.progress_bar import line

Show = Callable[[str, int, int | None], None]

_show: contextvars.ContextVar[Show | None] = contextvars.ContextVar("jobs_progress", default=None)
_BAR_EVERY = 0.2
_LINES_EVERY = 5.0


def report(step: str, done: int = 0, total: int | None = None) -> None:
    """Say how far the work is.

    Parameters
    ----------
    step : str
        What is being done: ``"score"``, ``"fit"``.
    done : int
        Rows, trials, rounds: so many are done.
    total : int, optional
        Of so many, where that is known.

    Examples
    --------
    >>> import io
    >>> text = io.StringIO()
    >>> with shown(text):
    ...     report("score", 500, 1000)
    >>> json.loads(text.getvalue())["done"]
    500
    """
    if total:
        report_progress(min(1.0, done / total), f"{step}: {done:,} of {total:,}")
    show = _show.get()
    if show is not None:
        show(step, done, total)


@contextmanager
def shown(stream: TextIO | None = None) -> Iterator[None]:
    """Show what is reported within the block: on a terminal as a bar, else as lines of JSON.

    A line is ``{"event": "progress", "step": ..., "done": ..., "total": ..., "seconds": ...}``; the first and the last
    of each step are written, and of the others one every five seconds.
    """
    stream = sys.stderr if stream is None else stream
    bar = stream.isatty() and os.environ.get("TERM") != "dumb"
    token = _show.set((_bar if bar else _lines)(stream))
    try:
        yield
    finally:
        _show.reset(token)
        if bar:
            stream.write("\r\x1b[K")
            stream.flush()


def _bar(stream: TextIO) -> Show:
    began, last = time.monotonic(), float("-inf")

    def show(step: str, done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _BAR_EVERY and done != total:
            return
        last, width = now, shutil.get_terminal_size().columns - 1
        text = line(step, done, total, now - began, width) if total else f"{step}  {done:,} {now - began:.0f} s"
        stream.write("\r\x1b[K" + text[:width])
        stream.flush()

    return show


def _lines(stream: TextIO) -> Show:
    began, last, current = time.monotonic(), float("-inf"), ""

    def show(step: str, done: int, total: int | None) -> None:
        nonlocal last, current
        now = time.monotonic()
        if step == current and now - last < _LINES_EVERY and done != total:
            return
        last, current = now, step
        said = {"event": "progress", "step": step, "done": done, "total": total, "seconds": round(now - began, 1)}
        stream.write(json.dumps(said) + "\n")
        stream.flush()

    return show
