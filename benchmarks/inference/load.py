"""Requests at a rate that does not wait for answers, over many connections; from one process, in one loop."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.inference.servers import Server

_PATIENCE = 30.0


@dataclass
class Outcome:
    """What became of the requests: times in milliseconds, of answers by the request's number; and how many failed."""

    answered: dict[int, float] = field(default_factory=dict)
    refused: list[float] = field(default_factory=list)
    failed: int = 0


def p99(times: Iterable[float]) -> float:
    """Return the 99th percentile; NaN of nothing."""
    ordered = sorted(times)
    return ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)] if ordered else float("nan")


def offer(server: Server, per_second: float, seconds: float, path: Callable[[int], str] | None = None) -> Outcome:
    """Send that many requests a second for so long, answered or not; each takes an idle connection, or a new one.

    Parameters
    ----------
    server : Server
        Whom to ask.
    per_second, seconds : float
        The rate, and for how long.
    path : callable, optional
        From the number of the request to its path; by default the server's.
    """
    return asyncio.run(_offer(server, per_second, seconds, path))


async def _offer(server: Server, per_second: float, seconds: float, path: Callable[[int], str] | None) -> Outcome:
    where = urlsplit(server.url)
    assert isinstance(server.body, str)
    lines = "".join(f"{name}: {value}\r\n" for name, value in server.headers.items())
    rest = f" HTTP/1.1\r\nHost: {where.netloc}\r\n{lines}Content-Length: {len(server.body)}\r\n\r\n{server.body}"
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    outcome, running = Outcome(), set()

    async def one(number: int) -> None:
        began = time.perf_counter()
        try:
            reader, writer = idle.pop() if idle else await asyncio.open_connection(where.hostname, where.port)
            writer.write(f"POST {path(number) if path else where.path}{rest}".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            outcome.failed += 1
            return
        took = (time.perf_counter() - began) * 1000
        status = head[9:12]
        if status == b"200":
            outcome.answered[number] = took
        elif status in (b"429", b"503"):
            outcome.refused.append(took)
        else:
            outcome.failed += 1
        idle.append((reader, writer))

    began = time.perf_counter()
    for number in itertools.count():
        due = began + number / per_second
        if due > began + seconds:
            break
        if due > time.perf_counter():
            await asyncio.sleep(due - time.perf_counter())
        elif number % 64 == 0:
            await asyncio.sleep(0)  # late: let the answers in
        task = asyncio.create_task(one(number))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running, timeout=_PATIENCE)
    outcome.failed += len(running)
    for _, writer in idle:
        writer.close()
    return outcome
