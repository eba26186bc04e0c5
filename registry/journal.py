"""An append-only log on an object store, and the state that it makes: many writers, no lock, no database.

Each entry is created under the next number with `ObjectStore.create`, which exactly one writer wins. Who loses reads
what won, decides again against the state as it now is, and tries the number after it. So all writers agree on one
order of events, and every decision was made against the state right before it. Commands that arrive while a write is
under way share the next entry.

What a caller may rely on:

- Writes are strictly serializable: there is one order of all events, that of the log, each write was decided against
  all events before it, and it lies between call and return of `Journal.execute`. So does a refusal.
- Reads with ``read_staleness`` 0 are linearizable: they hold every write that was acknowledged, by whichever process,
  before the read was called. With more, they may miss what others wrote in the last so many seconds.
- In any case, reads of one journal hold its own writes and never go back in time.
- A write that raised `StorageError` is in the log wholly or not at all, now or a little later.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, Self, TypeVar

from compute.errors import ComputeError, Corrupt, KeyExists, KeyNotFound, PositionGone, StorageError
from registry.entry import Event, decode_entry, decode_snapshot, encode_entry, encode_json, encode_snapshot
from registry.store import ObjectStore, check_key

logger = logging.getLogger(__name__)

_MAX_BATCH = 512
_POLL = 1.0
"""Seconds from one look for what others wrote to the next, while somebody waits for it."""


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
T = TypeVar("T")

Command = Callable[[S], tuple[Sequence[Event], T]]
"""Decides against a state: returns the events that are to happen and the answer, or raises a `ComputeError`.

It may run more than once, when other writers came first, and must not keep or change the state it is given.
"""


class Journal(Generic[S]):
    """State that survives: what `execute` has returned is on the store.

    Safe under any number of threads, processes and machines that use the same store and prefix.

    Parameters
    ----------
    store : ObjectStore
        Where the log lies.
    prefix : str
        Keys start with it: ``<prefix>/log/<20 digits>.json`` and ``<prefix>/snapshots/<20 digits>.json.zz``.
    empty : callable
        Makes the empty state, ``S``.
    snapshot_every : int
        Entries from one snapshot to the next; snapshots only shorten the start.
    read_staleness : float
        Seconds; see `read`. A look costs 10 us in a directory, and a request on S3.

    Examples
    --------
    >>> import tempfile
    >>> from registry.file_store import FileStore
    >>> class Total:
    ...     def __init__(self, value=0): self.value = value
    ...     def apply(self, event): self.value += event["add"]
    ...     def fork(self): return Total(self.value)
    ...     def dump(self): return [self.value]
    ...     def load(self, items): [self.value] = items
    >>> store = FileStore(tempfile.mkdtemp())
    >>> journal = Journal(store, "total", Total)
    >>> journal.execute(lambda total: ([{"add": 5}], total.value + 5))
    5
    >>> Journal(store, "total", Total).read(lambda total: total.value)
    5
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        empty: Callable[[], S],
        *,
        snapshot_every: int = 1000,
        read_staleness: float = 0.0,
    ) -> None:
        self._store = store
        self._prefix = check_key(prefix)
        self._snapshot_every = snapshot_every
        self._read_staleness = read_staleness
        self._lock = threading.RLock()
        """Guards the state and its number; never held while writing."""
        self._grown = threading.Condition(self._lock)
        self._looked = time.monotonic()
        """The state holds all that was in the log at this moment, at least."""
        self._turn = threading.Condition()
        self._queue: list[_Ticket] = []
        self._writing = False
        self._snapshotting: threading.Thread | None = None
        self._state, self._sequence, self._snapshot = self._recover(empty)

    @property
    def sequence(self) -> int:
        """The number of the newest entry that the state holds; 0 when there is none."""
        return self._sequence

    def read(self, query: Callable[[S], T], *, fresh: bool = True) -> T:
        """Answer a question from the state.

        Parameters
        ----------
        query : callable
            Takes the state, which it must not change or keep.
        fresh : bool
            Look for entries of other writers first, unless somebody did at most ``read_staleness`` seconds before this
            call. Without, the state may be behind others for any time.
        """
        called = time.monotonic()
        with self._lock:
            if fresh:
                self._look(called - self._read_staleness)
            return query(self._state)

    def entries(self, after: int, limit: int = 1000) -> list[tuple[int, list[Event]]]:
        """Return what was written down after an entry, the oldest first.

        Parameters
        ----------
        after : int
            The number of an entry; 0 is before the first.
        limit : int
            So many at most.

        Raises
        ------
        PositionGone
            When the log does not go back so far, or not yet so far ahead.
        """
        called = time.monotonic()
        with self._lock:
            self._look(called)
            newest = self._sequence
        if not 0 <= after <= newest:
            raise self._position_gone(after, newest)
        found = []
        for sequence in range(after + 1, min(newest, after + limit) + 1):
            key = self._log_key(sequence)
            try:
                found.append((sequence, decode_entry(self._store.get(key), sequence, key)))
            except KeyNotFound:
                raise self._position_gone(after, newest) from None
        return found

    def wait(self, after: int, timeout: float) -> int:
        """Wait until there is an entry after another, and return the number of the newest.

        Own entries are seen at once, those of others within a second.

        Parameters
        ----------
        after : int
            The number of an entry.
        timeout : float
            Seconds; then the present number is returned.
        """
        deadline = time.monotonic() + timeout
        with self._grown:
            self._look(time.monotonic() - self._read_staleness)
            while self._sequence <= after and (left := deadline - time.monotonic()) > 0:
                if not self._grown.wait(min(left, _POLL)):
                    self._look(time.monotonic())
            return self._sequence

    def execute(self, command: Command[S, T]) -> T:
        """Decide, write down, make it so; returns the command's answer when its events are on the store.

        Raises
        ------
        ComputeError
            What the command raised against the newest state; nothing was written then.
        StorageError
            The store failed: the events are either wholly in the log or not at all, as the next read will tell.
        """
        ticket = _Ticket(command)
        with self._turn:
            self._queue.append(ticket)
            while self._writing and not ticket.done:
                self._turn.wait()
            if ticket.done:
                return ticket.outcome()  # type: ignore[no-any-return]
            # Nobody writes: this thread does, for all that wait.
            self._writing = True
            batch = self._take(ticket)
        try:
            self._commit(batch)
        except BaseException as error:
            for waiting in batch:
                if not waiting.done:
                    waiting.fail(error if isinstance(error, ComputeError) else _interrupted(error))
            if not isinstance(error, ComputeError):
                raise
        finally:
            with self._turn:
                self._writing = False
                self._turn.notify_all()
        return ticket.outcome()  # type: ignore[no-any-return]

    def wait_for_snapshot(self) -> None:
        """Wait until the snapshot that is being written, if one is, lies on the store."""
        if thread := self._snapshotting:
            thread.join()

    def _take(self, own: _Ticket) -> list[_Ticket]:
        """Take the oldest of the queue, our own in any case."""
        batch, self._queue = self._queue[:_MAX_BATCH], self._queue[_MAX_BATCH:]
        if own in self._queue:
            self._queue.remove(own)
            batch.append(own)
        return batch

    def _commit(self, batch: list[_Ticket]) -> None:
        called, lost = time.monotonic(), 0
        while True:
            with self._lock:
                events, encoded, outcomes = self._decide(batch)
                if self._looked < called and not all(changes for changes, _, _ in outcomes):
                    # Somebody is refused, or told that all is done: not because of a state that was.
                    self._look(called)
                    events, encoded, outcomes = self._decide(batch)
                sequence = self._sequence + 1
            if sequence == lost:
                raise StorageError(
                    f"{self._log_key(lost)} exists and cannot be read",
                    hint="See what lies under this key of the store, and move it away.",
                    context={"key": self._log_key(lost)},
                )
            if not events:
                break
            asked = time.monotonic()
            try:
                self._store.create(self._log_key(sequence), encode_entry(sequence, encoded))
            except KeyExists:
                logger.debug("event=lost_race prefix=%s sequence=%d", self._prefix, sequence)
                lost = sequence
                with self._lock:
                    self._look(time.monotonic())
                continue
            with self._lock:
                if self._sequence < sequence:  # a reader of ours may have found the entry before us
                    self._apply(sequence, events)
                    self._looked = max(self._looked, asked)
            break
        for ticket, (_, answer, error) in zip(batch, outcomes, strict=True):
            ticket.settle(answer, error)
        self._maybe_snapshot()

    def _decide(self, batch: list[_Ticket]) -> tuple[list[Event], list[bytes], list[_Outcome]]:
        """Run the commands one after another on a fork of the state."""
        fork = self._state.fork()
        events: list[Event] = []
        encoded: list[bytes] = []
        outcomes: list[_Outcome] = []
        for ticket in batch:
            try:
                decided, answer = ticket.command(fork)
                lines = [encode_json(event) for event in decided]
            except Exception as error:  # noqa: BLE001  (it is raised to whoever gave the command, and to no one else)
                outcomes.append((0, None, error))
                continue
            for event in decided:
                fork.apply(event)
            events.extend(decided)
            encoded.extend(lines)
            outcomes.append((len(decided), answer, None))
        return events, encoded, outcomes

    def _look(self, since: float) -> None:
        """Read what was added to the log, unless the state holds all that was there at this moment."""
        if self._looked >= since:
            return
        while True:
            looked = time.monotonic()
            sequence = self._sequence + 1
            key = self._log_key(sequence)
            try:
                data = self._store.get(key)
            except KeyNotFound:
                self._looked = looked
                return
            self._apply(sequence, decode_entry(data, sequence, key))

    def _apply(self, sequence: int, events: list[Event]) -> None:
        for event in events:
            try:
                self._state.apply(event)
            except (LookupError, TypeError, ValueError, ComputeError) as error:
                key = self._log_key(sequence)
                raise Corrupt(
                    f"{key} holds an event that does not fit the state before it: {error}",
                    hint="It was written by a newer release, or entries before it were replaced: restore the store.",
                    context={"key": key},
                ) from error
        self._sequence = sequence
        with self._grown:
            self._grown.notify_all()

    def _recover(self, empty: Callable[[], S]) -> tuple[S, int, int]:
        """Return the newest state, its number, and the number of the snapshot that it was read from."""
        with _collector_paused():
            return self._replay(empty)

    def _replay(self, empty: Callable[[], S]) -> tuple[S, int, int]:
        started = time.monotonic()
        state, sequence = empty(), 0
        for key in sorted(self._store.list(f"{self._prefix}/snapshots/"), reverse=True):
            number = _number(key)
            try:
                items = decode_snapshot(self._store.get(key), number, key)
            except Corrupt:
                # No event is lost: the log has them all. A gap in it is found below.
                logger.exception("event=snapshot_damaged key=%s action=replay_from_an_older_one", key)
                continue
            state.load(items)
            sequence = number
            break
        first = sequence
        self._state, self._sequence = state, sequence
        for key in self._store.list(f"{self._prefix}/log/", after=self._log_key(sequence)):
            if _number(key) != self._sequence + 1:
                missing = self._log_key(self._sequence + 1)
                raise Corrupt(
                    f"{missing} is missing, and {key} comes after it",
                    hint="An entry was removed: restore it from a backup of the store.",
                    context={"key": missing},
                )
            self._apply(_number(key), decode_entry(self._store.get(key), _number(key), key))
        seconds = time.monotonic() - started
        logger.info(
            "event=recovered prefix=%s snapshot=%d sequence=%d seconds=%.3f",
            self._prefix, first, self._sequence, seconds,
        )  # fmt: skip
        return self._state, self._sequence, first

    def _maybe_snapshot(self) -> None:
        with self._lock:
            running = self._snapshotting is not None and self._snapshotting.is_alive()
            if running or self._sequence - self._snapshot < self._snapshot_every:
                return
            sequence, items = self._sequence, self._state.dump()
            self._snapshot = sequence
            self._snapshotting = threading.Thread(
                target=self._write_snapshot, args=(sequence, items), name=f"snapshot-{self._prefix}", daemon=True
            )
            self._snapshotting.start()

    def _write_snapshot(self, sequence: int, items: Iterable[Any]) -> None:
        key = f"{self._prefix}/snapshots/{sequence:020d}.json.zz"
        try:
            self._store.put(key, encode_snapshot(sequence, items))
        except StorageError:
            # The log has it all; the next snapshot is tried after as many entries again.
            logger.exception("event=snapshot_failed key=%s", key)
            return
        logger.info("event=snapshot_written key=%s", key)

    def _position_gone(self, after: int, newest: int) -> PositionGone:
        return PositionGone(
            f"the log of {self._prefix} cannot be followed from entry {after:,}; its newest is {newest:,}",
            hint="What came next was compacted, or it is of another store: read the present state, and go on from it.",
            context={"after": after, "newest": newest},
        )

    def _log_key(self, sequence: int) -> str:
        return f"{self._prefix}/log/{sequence:020d}.json"


_Outcome = tuple[int, Any, Exception | None]
"""How many events a command gave, and its answer or its error."""


class _Ticket:
    """A command that waits for its turn, and how it ended."""

    def __init__(self, command: Callable[[Any], tuple[Sequence[Event], Any]]) -> None:
        self.command = command
        self.done = False
        self._answer: Any = None
        self._error: Exception | None = None

    def settle(self, answer: Any, error: Exception | None) -> None:
        self._answer, self._error, self.done = answer, error, True

    def fail(self, error: ComputeError) -> None:
        self.settle(None, error)

    def outcome(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._answer


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from looking through all that is read, again and again: two thirds of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _interrupted(error: BaseException) -> StorageError:
    return StorageError(
        f"the write was interrupted by {type(error).__name__}: {error}",
        hint="Read to see whether it happened, then try again.",
    )


def _number(key: str) -> int:
    name = key.rpartition("/")[2].partition(".")[0]
    if len(name) == 20 and name.isdecimal():
        return int(name)
    raise Corrupt(f"{key} has no business in the journal", hint="Move it away.", context={"key": key})
