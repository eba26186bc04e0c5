"""Results of many tasks, with a bar on the terminal while they are waited for.

Nothing among what we depend on draws one, and the few lines here do not outweigh a dependency.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, TextIO

from compute.errors import ResultTimeout
from compute.manager import ComputeManager

_PATIENCE = 2.0
"""Seconds after which work is worth a bar."""
_EVERY = 0.2
_MOST = 40

_terminal = threading.Lock()
"""Held by the thread whose bar is shown: there is room for one."""


def gather_with_bar(
    manager: ComputeManager,
    task_ids: Sequence[str],
    label: str,
    since: float | None = None,
    *,
    return_exceptions: bool = False,
) -> list[Any]:
    """Return what `ComputeManager.gather_results` returns; on a terminal, show from the third second how far it is.

    Parameters
    ----------
    manager : ComputeManager
        Knows the tasks.
    task_ids : sequence of str
        Whose results are wanted.
    label : str
        Stands before the bar: the function's name.
    since : float, optional
        When the work began, by `time.monotonic`; by default now.
    return_exceptions : bool
        As for `ComputeManager.gather_results`.
    """
    since = time.monotonic() if since is None else since
    stream = sys.stderr
    if not _shows(stream) or not _terminal.acquire(blocking=False):
        return manager.gather_results(task_ids, return_exceptions=return_exceptions)
    drawn = False
    known = set(task_ids)
    try:
        pause = max(0.0, since + _PATIENCE - time.monotonic())
        while True:
            try:
                return manager.gather_results(task_ids, timeout=pause, return_exceptions=return_exceptions)
            except ResultTimeout as late:
                if late.context.get("task_id") not in known:
                    raise  # a task's own
                done = len(task_ids) - int(late.context["pending"])
            width = shutil.get_terminal_size().columns - 1
            stream.write("\r\x1b[K" + line(label, done, len(task_ids), time.monotonic() - since, width))
            stream.flush()
            drawn, pause = True, _EVERY
    finally:
        if drawn:
            stream.write("\r\x1b[K")
            stream.flush()
        _terminal.release()


def line(label: str, done: int, total: int, seconds: float, width: int) -> str:
    """Return the bar, at most so many characters wide.

    Examples
    --------
    >>> line("fit", 3, 12, 9.0, 60)
    'fit  3 of 12 [=====               ] 9 s, 27 s left'
    >>> line("fit", 0, 12, 9.0, 40)
    'fit  0 of 12 [             ] 9 s'
    """
    left = f", {seconds * (total - done) / done:.0f} s left" if done else ""
    counts = f"  {done} of {total} "
    times = f" {seconds:.0f} s{left}"
    room = min(width // 3, _MOST)
    bar = f"[{'=' * (room * done // total):<{room}}]"
    return (label[: max(0, width - len(counts + bar + times))] + counts + bar + times)[:width]


def _shows(stream: TextIO | None) -> bool:
    """Whether lines on the stream can be overwritten, for a person to see."""
    return stream is not None and not stream.closed and stream.isatty() and os.environ.get("TERM") != "dumb"
