"""How long somebody waits for an answer: work that nobody waits for any more is dropped.

``X-Request-Timeout`` has the seconds that a client waits. They count from when the request reached the ingress, if that
says when it was (``X-Request-Start: t=<milliseconds since 1970>``, as `deployments.ingress` has HAProxy say it).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect

from compute.errors import BadRequest, ResultTimeout

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Receive

Answer = TypeVar("Answer")

_LONGEST = 86_400.0


SMALL = 256 * 1024
"""Bytes of a body beyond which it is read in a thread, and its client watched: more would hold up other requests."""


def end_of_wait(timeout: str | None, started: str | None) -> float | None:
    """Return until when the client waits, by `time.monotonic`; None when it does not say.

    Parameters
    ----------
    timeout, started : str or None
        The headers ``X-Request-Timeout`` and ``X-Request-Start``.

    Raises
    ------
    BadRequest
        When the first is not a number of seconds.
    ResultTimeout
        When that time is over.

    Examples
    --------
    >>> end = end_of_wait("2.5", None)
    >>> end is not None and 2 < end - time.monotonic() <= 2.5
    True
    >>> end_of_wait("2.5", "t=1700000000000")
    Traceback (most recent call last):
    ...
    compute.errors.ResultTimeout: the 2.5 s of X-Request-Timeout were over before the request was looked at...
    """
    if timeout is None:
        return None
    try:
        seconds = float(timeout)
    except ValueError:
        seconds = -1
    if not 0 < seconds <= _LONGEST:
        raise BadRequest(
            f"the header X-Request-Timeout is {timeout[:40]!r}", hint="It is a number of seconds, up to a day."
        )
    if started is None or not started.startswith("t=") or not started[2:].isdecimal() or len(started) > 20:
        return time.monotonic() + seconds
    left = seconds - max(0.0, time.time() - int(started[2:]) / 1000)
    if left <= 0:
        raise ResultTimeout(
            f"the {seconds:g} s of X-Request-Timeout were over before the request was looked at",
            hint="Allow more, or send less.",
        )
    return time.monotonic() + left


async def while_wanted(work: Coroutine[Any, Any, Answer], receive: Receive, end: float | None) -> Answer:
    """Return what the work gives; drop it when the client leaves, or waits no longer.

    Parameters
    ----------
    work : coroutine
        Is cancelled.
    receive : callable
        Of the request, whose body has been read.
    end : float or None
        From `end_of_wait`.

    Raises
    ------
    ClientDisconnect, ResultTimeout
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_leave(receive))
    seconds = None if end is None else max(0.0, end - time.monotonic())
    try:
        done, _ = await asyncio.wait({working, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working in done:
            return working.result()
        if leaving in done:
            raise ClientDisconnect
        raise ResultTimeout("there was no answer within X-Request-Timeout", hint="Allow more, or send less.")
    finally:
        working.cancel()
        leaving.cancel()


async def read_all(receive: Receive) -> bytes:
    """Return the body of a request."""
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
