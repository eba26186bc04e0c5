"""One line for each request, with the token's name and never the token.

What goes through `logging` one by one costs as much as scoring a row, so the lines of a tenth of a second go together.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from deployments.log import PREFIX

if TYPE_CHECKING:
    from deployments.tokens import Token

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""A request id that is taken from a client."""

_TOGETHER = 0.1


class _Line(NamedTuple):
    at: float
    method: str
    path: str
    status: int
    seconds: float
    token: Token | None
    request_id: str

    def __str__(self) -> str:
        token = f"{self.token.name}/{self.token.id}" if self.token else "-"
        return (
            f"event=request method={self.method} path={_quoted(self.path)} status={self.status} "
            f"ms={self.seconds * 1000:.1f} token={token} request_id={self.request_id}"
        )


class RequestLog:
    """Collects lines, and logs those of a tenth of a second in one record: each a line with a beginning of its own."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []

    def add(self, method: str, path: str, status: int, seconds: float, token: Token | None, request_id: str) -> None:
        """Take the line of a request that is answered."""
        if not self._lines:
            asyncio.get_running_loop().call_later(_TOGETHER, self._write)
        self._lines.append(_Line(time.time(), method, path, status, seconds, token, request_id))

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        if not logger.isEnabledFor(logging.INFO):
            return
        facts = {"levelname": "INFO", "name": logger.name}
        first, *rest = lines
        text = [str(first), *(PREFIX % {**facts, "asctime": _time(line.at)} + str(line) for line in rest)]
        record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, "%s", ("\n".join(text),), None)
        record.created, record.msecs = first.at, first.at % 1 * 1000
        logger.handle(record)


def log_request(method: str, path: str, status: int, seconds: float, token: Token | None, request_id: str) -> None:
    """Log the line of one request at once."""
    logger.info("%s", _Line(time.time(), method, path, status, seconds, token, request_id))


_quoted = lru_cache(maxsize=1024)(lambda path: quote(path, safe="/:@"))


def _time(at: float) -> str:
    """Return a time as `logging` writes it."""
    return f"{_second(int(at))},{int(at % 1 * 1000):03d}"


@lru_cache(maxsize=16)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
