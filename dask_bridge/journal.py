"""What a worker notes of calls that it runs one after the other, for its nanny to tell when the process died meanwhile.

A note is in the kernel's hands as soon as it is written, so that it outlives the process. Only its nanny reads it, and
only when another process has taken the place of the one that wrote: what had not begun then never will.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from compute.wire import Reply

if TYPE_CHECKING:
    from distributed import Nanny, Worker


class _Head(NamedTuple):
    nanny: str
    pid: int


class Told(NamedTuple):
    """What is known of the calls of a bundle whose process has died."""

    begun: dict[str, float]
    """When those began that did, seconds since the epoch."""
    replies: dict[str, Reply]
    """Of those that ended."""


KEPT = 8
"""Bundles that have ended, whose notes a process keeps: their results may be lost on their way."""

_STALE = 60.0
_kept: deque[Path] = deque()


class Journal:
    """The notes on one bundle; kept for a while after it has ended.

    Parameters
    ----------
    worker : distributed.Worker
        Its nanny will look for them.
    name : str
        The bundle's.
    """

    def __init__(self, worker: Worker, name: str) -> None:
        # The worker's own directory goes with its process; the one above it is the nanny's.
        self._path = _path(Path(worker.local_directory).parent, name)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._note(_Head(str(worker.nanny), os.getpid()))

    def begun(self, key: str, at: float) -> None:
        """Note that a call begins."""
        self._note((key, at))

    def ended(self, key: str, reply: Reply) -> None:
        """Note what came of a call."""
        self._note((key, reply))

    def _note(self, what: object) -> None:
        os.write(self._file, pickle.dumps(what, 5))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)
        _kept.append(self._path)
        if len(_kept) > KEPT:
            forget(1)


def forget(count: int = KEPT) -> None:
    """Remove the oldest notes of this process."""
    for _ in range(min(count, len(_kept))):
        _kept.popleft().unlink(missing_ok=True)


def tell(name: str, dask_worker: Nanny) -> Told | None:
    """Return what a process that is gone noted of a bundle; None when another nanny knows, or this one not yet.

    Called by ``Client.run`` on nannies.

    Parameters
    ----------
    name : str
        The bundle's.
    dask_worker : distributed.Nanny
        So called because Dask fills in the argument of this name.
    """
    path = _path(Path(dask_worker.local_directory), name)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                # The folder may be one that all users share: what another has put there is not read.
                return None
            head = pickle.load(file)  # noqa: S301  (written by our own worker, as was checked)
            if head.nanny != dask_worker.address or head.pid == dask_worker.pid:
                return None
            told = Told({}, {})
            while (note := _next(file)) is not None:
                key, what = note
                (told.replies if isinstance(what, Reply) else told.begun)[key] = what
    except (FileNotFoundError, EOFError, pickle.UnpicklingError):
        return None
    path.unlink()
    _sweep(path.parent)
    return told


def _sweep(folder: Path) -> None:
    """Remove what dead processes left of which nobody asks any more."""
    for path in folder.glob("compute-*.notes"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _STALE:
                path.unlink()


def _next(file: Any) -> tuple[str, Any] | None:
    try:
        note: tuple[str, Any] = pickle.load(file)  # noqa: S301  (as above)
    except (EOFError, pickle.UnpicklingError):
        # The end, or a note that death cut short.
        return None
    return note


def _path(folder: Path, name: str) -> Path:
    return folder / f"compute-{hashlib.sha256(name.encode()).hexdigest()[:32]}.notes"
