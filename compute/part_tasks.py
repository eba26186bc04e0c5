"""What runs in a worker for each part of the data; imports little, since every new worker does so first."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from compute.groups import each_group
from compute.parts import Take


class OnPart:
    """A task, the function it is for, and how it gets at its rows, pickled together.

    Parameters
    ----------
    task : callable
        One of those below.
    function : callable
        The user's.
    take : callable
        Makes the part of the pieces that it lies in.
    """

    def __init__(self, task: Callable[..., Any], function: Callable[..., Any], take: Take) -> None:
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)
        self.task = task
        self.function = function
        self.take = take

    def __call__(self, start: int, stop: int, first: int, rows: int, *pieces: Any) -> Any:
        """Call ``task(function, part, first, rows)``: the part begins at row ``first`` of so many."""
        return self.task(self.function, self.take(start, stop, pieces), first, rows)


def apply_to_rows(function: Callable[[Any], Any], part: Any, first: int, rows: int) -> Any:
    """Call the function on the part."""
    try:
        return function(part)
    except Exception as error:
        error.add_note(f"In rows {first} to {first + len(part) - 1} of {rows}.")
        raise


def apply_to_groups(
    function: Callable[[Any], Any], part: Any, _first: int, _rows: int, *, by: Sequence[str]
) -> list[Any]:
    """Call the function on each group of the part."""
    return list(each_group(function, part, by))


def apply_to_items(function: Callable[[Any], Any], part: list[Any], first: int, rows: int) -> list[Any]:
    """Call the function on each item."""
    results = []
    for index, item in enumerate(part, start=first):
        try:
            results.append(function(item))
        except Exception as error:
            error.add_note(f"For item {index} of {rows}.")
            raise
    return results


def check_items(function: Callable[[Any], Any], part: list[Any], first: int, rows: int) -> list[bool]:
    """Return for each item whether the function is true."""
    return apply_to_items(lambda item: bool(function(item)), part, first, rows)


def reduce_items(function: Callable[[Any, Any], Any], part: list[Any], first: int, rows: int) -> Any:
    """Join the items into one."""
    try:
        return functools.reduce(function, part)
    except Exception as error:
        error.add_note(f"Among items {first} to {first + len(part) - 1} of {rows}.")
        raise
