"""Files that live as long as one request, and no longer than the process that serves it."""

from __future__ import annotations

import fcntl
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

_PREFIX = "tablework-upload-"
_YOUNG = 60.0
"""Seconds in which a file may be made and not yet locked."""


@contextmanager
def spooled_file() -> Iterator[IO[bytes]]:
    """Give a new file in the directory for temporary files (``TMPDIR``), which is removed at the end.

    It is locked while it is used. The system takes the lock away from a process that dies, which tells `sweep` whose
    files are left over.

    Examples
    --------
    >>> with spooled_file() as file:
    ...     _ = file.write(b"model")
    >>> Path(file.name).exists()
    False
    """
    sweep()
    with tempfile.NamedTemporaryFile(prefix=_PREFIX) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.file


def sweep() -> None:
    """Remove what processes left that were killed while they received."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if time.time() - path.stat().st_mtime < _YOUNG:
                continue
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        except (FileNotFoundError, PermissionError, BlockingIOError):
            continue  # somebody else removed it, or it is another user's, or in use
        logger.warning("event=left_over_upload_removed path=%s", path)
