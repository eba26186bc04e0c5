"""What the Dask backend knows of attempts that are with Dask."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from compute.backend import Attempt


class Handle:
    """What the backend knows of an attempt that is with Dask."""

    __slots__ = ("name", "reports", "sent", "started_at", "stopping", "where")

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: Sent | None = None
        self.started_at: float | None = None
        self.where = ""
        self.reports = b""
        self.stopping = False


class Sent:
    """What went to Dask as one future: an attempt, or several that run one after the other."""

    __slots__ = ("at", "bundled", "ending", "future", "kept", "left", "name")

    def __init__(self, attempts: Sequence[Attempt], number: int) -> None:
        self.bundled = len(attempts) > 1
        self.name: str = attempts[0].handle.name + (f"+{number}" if self.bundled else "")
        self.left = {attempt.handle.name: attempt for attempt in attempts}
        """Those of which nothing was reported yet."""
        self.future: Any = None
        self.kept: Any = None
        self.at = time.time()
        self.ending = False
        """Whether its process is being ended."""
