"""Calls that block, made in threads: the loop of a replica has other requests."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Args = ParamSpec("Args")
Result = TypeVar("Result")


class Threads:
    """A few threads for one purpose, so that those who use them up hold up nobody else.

    Parameters
    ----------
    count : int
        Calls at once; others wait.
    name : str
        Of the threads.

    Examples
    --------
    >>> asyncio.run(Threads(1, "example").call(sum, [1, 2], start=3))
    6
    """

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=count, thread_name_prefix=name)

    async def call(self, function: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
        """Return what the function returns."""
        call = functools.partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
