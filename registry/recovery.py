"""The state that a journal keeps, and how it is read back from the store."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from compute.errors import ComputeError, Corrupt, KeyNotFound
from registry.entry import Event
from registry.log import Log, clock

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


class Recovered(NamedTuple, Generic[S]):
    """A state as it was read from the store."""

    state: S
    sequence: int
    """The number of the newest entry in it."""
    looked: float
    """It holds all that was in the log at this moment of `registry.log.clock`."""
    entries: int
    """How many came after the snapshot that was read."""
    size: int
    """Their bytes."""


class _Overtaken(Exception):
    """A compaction removed what was about to be read."""


def recover(log: Log, empty: Callable[[], S]) -> Recovered[S]:
    """Read the newest state: the newest sound snapshot, and the entries after it.

    Others may write and compact meanwhile.

    Raises
    ------
    Corrupt
        Naming what is damaged or missing. A snapshot that is damaged is passed over when nothing is lost by it.
    """
    for _ in range(_ATTEMPTS):
        try:
            with collector_paused():
                found = _read(log, empty)
        except _Overtaken as overtaken:
            logger.info("event=compaction_overtook prefix=%s missing=%s action=begin_again", log.prefix, overtaken)
            continue
        logger.info(
            "event=recovered prefix=%s sequence=%d entries=%d seconds=%.3f",
            log.prefix, found.sequence, found.entries, clock() - found.looked,
        )  # fmt: skip
        return found
    compacted = log.compacted()
    raise Corrupt(
        f"the entries of {log.prefix} up to {compacted:,} were compacted, and no sound snapshot holds them",
        hint=f"Restore {log.prefix}/snapshots/ from a backup of the store.",
        context={"key": log.snapshot_key(compacted)},
    )


def _read(log: Log, empty: Callable[[], S]) -> Recovered[S]:
    looked = clock()
    state = empty()
    first = _load_newest(log, state)
    # Not the numbers that the listing shows: while others write, it may miss one and show the next.
    newest = max((entry.number for entry in log.entries(after=first)), default=first)
    number, size = first, 0
    try:
        for number, data in enumerate(log.read_many(range(first + 1, newest + 1)), start=first + 1):
            apply_events(log, state, number, log.decode(number, data))
            size += len(data)
    except KeyNotFound as error:
        missing = log.entry_key(number + 1)
        if log.compacted() > first:
            raise _Overtaken(missing) from error
        raise Corrupt(
            f"{missing} is missing, and {log.entry_key(newest)} comes after it",
            hint="An entry was removed: restore it from a backup of the store.",
            context={"key": missing},
        ) from error
    if log.compacted() > first:
        # Or what was read may have been written into the past by somebody who stood still, see `registry.journal`.
        raise _Overtaken(log.entry_key(first + 1))
    return Recovered(state, newest, looked, newest - first, size)


def _load_newest(log: Log, state: State) -> int:
    """Load the newest sound snapshot, and return its number; 0 when there is none."""
    for number, stored in log.snapshots():
        try:
            items = log.read_snapshot(number)
        except Corrupt:
            # No event is lost: compaction leaves the entries after the snapshot before this one.
            logger.exception("event=snapshot_damaged key=%s action=replay_from_an_older_one", stored.key)
            continue
        except KeyNotFound as error:
            raise _Overtaken(stored.key) from error
        try:
            state.load(items)
        except (LookupError, TypeError, ValueError, ComputeError) as error:
            raise Corrupt(
                f"{stored.key} holds an item that this release does not know: {error}",
                hint="It was written by a newer release: run that one, or restore the store.",
                context={"key": stored.key},
            ) from error
        return number
    return 0


def apply_events(log: Log, state: State, number: int, events: Iterable[Event]) -> None:
    """Apply the events of an entry.

    Raises
    ------
    Corrupt
        When one does not fit the state before it; the state is of no use then.
    """
    for event in events:
        try:
            state.apply(event)
        except (LookupError, TypeError, ValueError, ComputeError) as error:
            key = log.entry_key(number)
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
