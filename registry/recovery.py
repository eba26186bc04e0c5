"""The state that a journal keeps, and how it is read back from the store."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, TypeVar

from compute.errors import ComputeError, Corrupt, KeyNotFound
from registry.entry import Event
from registry.log import Log

logger = logging.getLogger(__name__)

_ATTEMPTS = 5


class State(Protocol):
    """What a journal keeps: built by events alone, the same from the same events in every process.

    Values that its maps hold are never changed in place, only replaced: `fork` and `dump` rely on it.
    """

    def apply(self, event: Event) -> None:
        """Make the change that an event says; it was decided on this very state, so it cannot fail."""

    def fork(self) -> Self:
        """Return a copy to try events on that leaves this one alone; cheap, see `registry.overlay.Overlay`."""

    def dump(self) -> Iterable[Any]:
        """Return the state as JSON values, a list of many small ones; called under a lock, encoded later outside it."""

    def load(self, items: Iterable[Any]) -> None:
        """Take the state from what `dump` returned; called on an empty state only."""


S = TypeVar("S", bound=State)


def replay(log: Log, empty: Callable[[], S]) -> tuple[S, int, int]:
    """Return the newest state, its number, and the number of the snapshot that it was read from.

    Raises
    ------
    Corrupt
        Naming what is damaged or missing. A snapshot that is damaged is passed over.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            first, items, entries = log.replay()
            state, sequence = empty(), first
            if first:
                state.load(items)
            for sequence, events in entries:
                apply_events(log, state, sequence, events)
        except KeyNotFound as error:
            # Others may compact while this reads; they leave what the newest snapshots need.
            if attempt == _ATTEMPTS:
                raise
            logger.info("event=compaction_overtook prefix=%s reason=%s action=begin_again", log.prefix, error)
        else:
            return state, sequence, first
    raise AssertionError("the loop returns or raises")  # for the type checker


def apply_events(log: Log, state: State, sequence: int, events: Iterable[Event]) -> None:
    """Apply the events of an entry.

    Raises
    ------
    Corrupt
        When one does not fit the state before it.
    """
    for event in events:
        try:
            state.apply(event)
        except (LookupError, TypeError, ValueError, ComputeError) as error:
            key = log.entry_key(sequence)
            raise Corrupt(
                f"{key} holds an event that does not fit the state before it: {error}",
                hint="It was written by a newer release, or entries before it were replaced: restore the store.",
                context={"key": key},
            ) from error


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector from looking through all that is read, again and again: two thirds of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
