"""Read much from a store at the same time, in bounded memory: on S3, each object takes a request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def read_ahead(read: Callable[[K], V], items: Iterable[K], *, threads: int = 16, ahead: int = 64) -> Iterator[V]:
    """Give ``read(item)`` for each item, in their order; up to so many are read before they are asked for.

    What a read raises is raised in its place; nothing is given after it.

    Examples
    --------
    >>> list(read_ahead(lambda number: number * 2, range(5)))
    [0, 2, 4, 6, 8]
    """
    pending: deque[Future[V]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="read-ahead") as pool:
        try:
            for item in items:
                pending.append(pool.submit(read, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
