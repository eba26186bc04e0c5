"""The copy of a journal's state in this process, which follows the log; `registry.journal` says what it promises."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from compute.errors import Corrupt, KeyNotFound, PositionGone, StorageError
from registry.compaction import TRUST
from registry.entry import Event
from registry.forking import survive_forks
from registry.log import Log, clock
from registry.recent import RecentEntries
from registry.recovery import Recovered, State, apply_events, recover
from registry.snapshots import Snapshots

logger = logging.getLogger(__name__)

_POLL = 0.5
"""Seconds from one look for what others wrote to the next, while somebody waits for it."""

S = TypeVar("S", bound=State)
T = TypeVar("T")


class View(NamedTuple, Generic[S]):
    """What a decision is made on."""

    state: S
    sequence: int
    """The number of the newest entry in it."""
    looked: float
    """It holds all that was in the log at this moment, at least."""


class Replica(Generic[S]):
    """A state and the number of the newest entry in it.

    Parameters
    ----------
    log : Log
        What it follows.
    empty : callable
        Makes the empty state.
    snapshots : Snapshots
        Is told of every entry.
    """

    def __init__(self, log: Log, empty: Callable[[], S], snapshots: Snapshots) -> None:
        self._log = log
        self._empty = empty
        self._snapshots = snapshots
        self._lock = threading.RLock()
        """Guards all below; never held while the store is asked."""
        self._grown = threading.Condition(self._lock)
        self._looking = threading.Lock()
        """Held while the store is asked for newer entries; the state can be read then."""
        self._look_failed: tuple[float, StorageError] | None = None
        self._state: S
        self._sequence: int
        self._looked: float
        self._recent: RecentEntries
        self._spoilt: Corrupt | None
        """Why the state is of no use: an event did not fit."""
        self._set(recover(log, empty))
        survive_forks(self)

    @property
    def sequence(self) -> int:
        """The number of the newest entry in the state; 0 when there is none."""
        return self._sequence

    @property
    def looked(self) -> float:
        """The state holds all that was in the log at this moment of `registry.log.clock`, at least."""
        return self._looked

    def with_view(self, use: Callable[[View[S]], T]) -> T:
        """Call a function with the state, which nobody changes meanwhile."""
        with self._lock:
            if self._spoilt is not None:
                raise self._spoilt
            return use(View(self._state, self._sequence, self._looked))

    def look(self, since: float) -> None:
        """Read what was added to the log, unless the state holds all that was there at this moment."""
        if self._looked >= since:
            return
        with self._looking:
            if self._looked >= since:  # who looked before us began late enough
                return
            if self._look_failed is not None and self._look_failed[0] >= since:
                raise self._look_failed[1]  # do not let all who wait find out one after another
            started = clock()
            try:
                while not self._catch_up():
                    pass
            except StorageError as error:
                self._look_failed = (started, error)
                raise

    def wait(self, after: int, deadline: float) -> int:
        """Wait for an entry after another, at most until this moment; returns the number of the newest."""
        while True:
            with self._grown:
                left = deadline - clock()
                if self._sequence > after or left <= 0:
                    return self._sequence
                told = self._grown.wait(min(left, _POLL))
            if not told:
                self.look(clock() - _POLL)  # one look serves all who wait

    def entries(self, after: int, limit: int) -> list[tuple[int, list[Event]]]:
        """Return entries after another, from memory or from the store; raises `PositionGone`."""
        with self._lock:
            newest, found = self._sequence, self._recent.after(after, limit)
        if not 0 <= after <= newest:
            raise self._position_gone(after)
        if found is None:
            try:
                found = list(self._log.read_many(range(after + 1, min(newest, after + limit) + 1)))
            except KeyNotFound:
                raise self._position_gone(after) from None
            if self._log.compacted() > after:
                raise self._position_gone(after)
        return [(number, self._log.decode(number, data)) for number, data in enumerate(found, start=after + 1)]

    def add(self, number: int, events: Sequence[Event], data: bytes, looked: float) -> None:
        """Take in the entry after the newest, which was not there at that moment, unless it was found already."""
        with self._lock:
            if self._sequence < number:
                self._apply(number, events, data)
                self._looked = max(self._looked, looked)

    def _catch_up(self) -> bool:
        """Read some of what was added, and return whether that was all."""
        if self._spoilt is not None:
            self._set(recover(self._log, self._empty))
        # In this order: the state holds at least what was there at `confirmed`.
        confirmed, after, asked = self._looked, self._sequence, clock()
        found, all_of_it = self._log.following(after)
        if clock() - confirmed > TRUST and self._log.compacted() > after:
            logger.warning("event=compaction_overtook prefix=%s sequence=%d action=begin_anew", self._log.prefix, after)
            self._set(recover(self._log, self._empty))
            return False
        for number, data in enumerate(found, start=after + 1):
            self.add(number, self._log.decode(number, data), data, confirmed)
        if all_of_it:
            with self._lock:
                self._looked = max(self._looked, asked)
        return all_of_it

    def _apply(self, number: int, events: Sequence[Event], data: bytes) -> None:
        try:
            apply_events(self._log, self._state, number, events)
        except Corrupt as error:
            self._spoilt = error
            raise
        self._sequence = number
        self._recent.append(data)
        self._snapshots.grow(len(data))
        self._grown.notify_all()

    def _set(self, found: Recovered[S]) -> None:
        with self._lock:
            self._state, self._sequence, self._looked = found.state, found.sequence, found.looked
            self._recent = RecentEntries(found.sequence)
            self._spoilt = None
            self._snapshots.reset(found.entries, found.size)
            self._grown.notify_all()

    def _position_gone(self, after: int) -> PositionGone:
        return PositionGone(
            f"the log of {self._log.prefix} cannot be followed from entry {after:,}; its newest is {self._sequence:,}",
            hint="What came next was compacted, or it is of another store: read the present state, and go on from it.",
            context={"after": after, "newest": self._sequence},
        )

    def before_fork(self) -> None:
        """See `registry.forking`."""
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        """See `registry.forking`."""
        self._lock.release()
        if in_child:
            self._grown = threading.Condition(self._lock)
            self._looking = threading.Lock()
