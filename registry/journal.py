"""An append-only log on an object store, and the state that it makes: many writers, no lock, no database.

Each entry is created under the next number with `ObjectStore.create`, which exactly one writer wins. Who loses reads
what won, decides again against the state as it now is, and tries the number after it. So all writers agree on one
order of events, and every decision was made against the state right before it: writes are linearizable, and reads
too, for they look for newer entries first. Commands that arrive while a write is under way share the next entry.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, Self, TypeVar

from compute.errors import ComputeError, Corrupt, KeyExists, KeyNotFound, StorageError
from registry.entry import Event, decode_entry, decode_snapshot, encode_entry, encode_json, encode_snapshot
from registry.store import ObjectStore, check_key

logger = logging.getLogger(__name__)

_MAX_BATCH = 512


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

    def __init__(self, store: ObjectStore, prefix: str, empty: Callable[[], S], *, snapshot_every: int = 1000) -> None:
        self._store = store
        self._prefix = check_key(prefix)
        self._snapshot_every = snapshot_every
        self._lock = threading.RLock()
        """Guards the state and its number; never held while writing."""
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
            Look for entries of other writers first: then the answer holds every write that any process was
            acknowledged before this call. Without, it holds those of this journal and may be behind others.
        """
        with self._lock:
            if fresh:
                self._catch_up()
            return query(self._state)

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
        lost = 0
        while True:
            with self._lock:
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
            try:
                self._store.create(self._log_key(sequence), encode_entry(sequence, encoded))
            except KeyExists:
                logger.debug("event=lost_race prefix=%s sequence=%d", self._prefix, sequence)
                lost = sequence
                continue  # what won is read by the next decision
            with self._lock:
                if self._sequence < sequence:  # a reader of ours may have found the entry before us
                    self._apply(sequence, events)
            break
        for ticket, outcome in zip(batch, outcomes, strict=True):
            ticket.settle(*outcome)
        self._maybe_snapshot()

    def _decide(self, batch: list[_Ticket]) -> tuple[list[Event], list[bytes], list[_Outcome]]:
        """Run the commands one after another on a fork of the newest state."""
        self._catch_up()
        fork = self._state.fork()
        events: list[Event] = []
        encoded: list[bytes] = []
        outcomes: list[_Outcome] = []
        for ticket in batch:
            try:
                decided, answer = ticket.command(fork)
                lines = [encode_json(event) for event in decided]
            except Exception as error:  # noqa: BLE001  (it is raised to whoever gave the command, and to no one else)
                outcomes.append((None, error))
                continue
            for event in decided:
                fork.apply(event)
            events.extend(decided)
            encoded.extend(lines)
            outcomes.append((answer, None))
        return events, encoded, outcomes

    def _catch_up(self) -> None:
        while True:
            sequence = self._sequence + 1
            key = self._log_key(sequence)
            try:
                data = self._store.get(key)
            except KeyNotFound:
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

    def _log_key(self, sequence: int) -> str:
        return f"{self._prefix}/log/{sequence:020d}.json"


_Outcome = tuple[Any, Exception | None]


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
