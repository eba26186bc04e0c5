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

Compaction removes old entries, so a number that is free is not always the end of the log: a writer that stood still for
very long could write into the past, and a reader find that there. A mark on the store says up to where entries were
removed, and is written before the first one goes. Who has not looked at the end of the log for `TRUST` seconds looks at
the mark before it believes what it found, or acknowledges what it wrote.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from compute.errors import ComputeError, KeyExists, KeyNotFound, PositionGone, StorageError
from registry.compaction import CompactionReport, compact
from registry.entry import Event, decode_entry, encode_json
from registry.log import Log
from registry.recovery import State, apply_events, collector_paused, replay
from registry.store import ObjectStore

logger = logging.getLogger(__name__)

GRACE = 24 * 3600.0
"""Seconds that entries stay after a snapshot made them superfluous, for those who follow the log."""
TRUST = 5.0
"""Seconds that a look at the end of the log is believed without a look at the mark; compaction leaves twice as much."""

_MAX_BATCH = 512
_MAX_BYTES = 8 << 20
_SNAPSHOT_BYTES = 64 << 20
_POLL = 1.0
"""Seconds from one look for what others wrote to the next, while somebody waits for it."""


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
        Entries from one snapshot to the next, unless 64 MiB come first; snapshots only shorten the start.
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
        self._log = Log(store, prefix)
        self._empty = empty
        self._snapshot_every = snapshot_every
        self._read_staleness = read_staleness
        self._lock = threading.RLock()
        """Guards the state and its number; never held while writing."""
        self._grown = threading.Condition(self._lock)
        self._looking = threading.Lock()
        """Held while the store is asked for newer entries, when the state can be read."""
        self._look_failed: tuple[float, StorageError] | None = None
        self._looked = _clock()
        """The state holds all that was in the log at this moment, at least."""
        self._turn = threading.Condition()
        self._queue: list[_Ticket] = []
        self._writing = False
        self._snapshotting: threading.Thread | None = None
        self._state, self._sequence = empty(), 0
        self._unsnapped = [0, 0]
        """Entries and bytes since the newest snapshot."""
        self._recover()

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
        if fresh:
            self._look(_clock() - self._read_staleness)
        with self._lock:
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
        self._look(_clock())
        newest = self._sequence
        if not 0 <= after <= newest:
            raise self._position_gone(after, newest)
        try:
            found = list(self._log.read_many(range(after + 1, min(newest, after + limit) + 1)))
        except KeyNotFound:
            raise self._position_gone(after, newest) from None
        if found and self._log.compacted() > after:
            raise self._position_gone(after, newest)
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
        deadline = _clock() + timeout
        self._look(_clock() - self._read_staleness)
        while True:
            with self._grown:
                left = deadline - _clock()
                if self._sequence > after or left <= 0:
                    return self._sequence
                told = self._grown.wait(min(left, _POLL))
            if not told:
                self._look(_clock())

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
        while True:
            with self._turn:
                while self._writing and not ticket.done:
                    self._turn.wait()
                if ticket.done:
                    return ticket.outcome()  # type: ignore[no-any-return]
                # Nobody writes: this thread does, for all that wait.
                self._writing = True
                batch, self._queue = self._queue[:_MAX_BATCH], self._queue[_MAX_BATCH:]
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

    def wait_for_snapshot(self) -> None:
        """Wait until the snapshot that is being written, if one is, lies on the store."""
        if thread := self._snapshotting:
            thread.join()

    def compact(self, grace: float = GRACE) -> CompactionReport:
        """Remove the entries and snapshots that nobody needs any more; safe while others write, read and begin.

        Parameters
        ----------
        grace : float
            Seconds for which entries stay that a snapshot made superfluous; at least twice `TRUST` beside other
            processes.

        Raises
        ------
        Corrupt
            When one of the two newest snapshots is damaged: then nothing is removed.
        """
        return compact(self._log, grace)

    def _commit(self, batch: list[_Ticket]) -> None:
        called, lost = _clock(), 0
        while True:
            with self._lock:
                confirmed, sequence = self._looked, self._sequence + 1
                events, encoded, outcomes = self._decide(batch)
            if confirmed < called and not all(changes for changes, _, _ in outcomes):
                # Somebody is refused, or told that all is done: not because of a state that was.
                self._look(called)
                continue
            if sequence == lost:
                raise StorageError(
                    f"{self._log.entry_key(lost)} exists and cannot be read",
                    hint="See what lies under this key of the store, and move it away.",
                    context={"key": self._log.entry_key(lost)},
                )
            if not events:
                break
            asked = _clock()
            try:
                size = self._log.append(sequence, encoded)
            except KeyExists:
                logger.debug("event=lost_race prefix=%s sequence=%d", self._log.prefix, sequence)
                lost = sequence
                self._look(_clock())
                continue
            if _clock() - confirmed > TRUST and self._log.compacted() >= sequence:
                self._log.remove(sequence)  # it lies where nobody reads
                self._look(_clock())
                continue
            with self._lock:
                if self._sequence < sequence:  # a reader of ours may have found the entry before us
                    self._apply(sequence, events, size)
                    self._looked = max(self._looked, asked)
            break
        for ticket, (_, answer, error) in zip(batch, outcomes, strict=False):
            ticket.settle(answer, error)
        if rest := batch[len(outcomes) :]:
            with self._turn:
                self._queue[:0] = rest
        self._maybe_snapshot()

    def _decide(self, batch: list[_Ticket]) -> tuple[list[Event], list[bytes], list[_Outcome]]:
        """Run the commands one after another on a fork of the state, as many as fit into an entry."""
        fork = self._state.fork()
        events: list[Event] = []
        encoded: list[bytes] = []
        outcomes: list[_Outcome] = []
        size = 0
        for ticket in batch:
            if size > _MAX_BYTES:
                break
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
            size += sum(map(len, lines))
            outcomes.append((len(decided), answer, None))
        return events, encoded, outcomes

    def _look(self, since: float) -> None:
        """Read what was added to the log, unless the state holds all that was there at this moment."""
        if self._looked >= since:
            return
        with self._looking:
            if self._looked >= since:  # who looked before us began late enough
                return
            if self._look_failed is not None and self._look_failed[0] >= since:
                raise self._look_failed[1]  # do not let all who wait find out one after another
            try:
                self._catch_up()
            except StorageError as error:
                self._look_failed = (_clock(), error)
                raise

    def _catch_up(self) -> None:
        confirmed = self._looked
        while True:
            looked, sequence = _clock(), self._sequence + 1
            try:
                data = self._log.store.get(self._log.entry_key(sequence))
            except KeyNotFound:
                data = None
            if _clock() - confirmed > TRUST:
                confirmed = _clock()
                if self._log.compacted() >= sequence:
                    logger.warning("event=compaction_overtook prefix=%s sequence=%d", self._log.prefix, sequence)
                    self._recover()
                    continue
            if data is None:
                self._looked = looked
                return
            events = decode_entry(data, sequence, self._log.entry_key(sequence))
            with self._lock:
                if self._sequence < sequence:  # we may have written it ourselves
                    self._apply(sequence, events, len(data))

    def _apply(self, sequence: int, events: list[Event], size: int) -> None:
        apply_events(self._log, self._state, sequence, events)
        self._sequence = sequence
        self._unsnapped[0] += 1
        self._unsnapped[1] += size
        self._grown.notify_all()

    def _recover(self) -> None:
        """Read everything anew."""
        started = _clock()
        with collector_paused():
            state, sequence, first = replay(self._log, self._empty)
        with self._lock:
            self._state, self._sequence = state, sequence
            self._unsnapped = [sequence - first, 0]
            self._grown.notify_all()
        logger.info(
            "event=recovered prefix=%s snapshot=%d sequence=%d seconds=%.3f",
            self._log.prefix, first, sequence, _clock() - started,
        )  # fmt: skip

    def _maybe_snapshot(self) -> None:
        with self._lock:
            running = self._snapshotting is not None and self._snapshotting.is_alive()
            entries, size = self._unsnapped
            if running or (entries < self._snapshot_every and size < _SNAPSHOT_BYTES):
                return
            sequence, items = self._sequence, self._state.dump()
            self._unsnapped = [0, 0]
            self._snapshotting = threading.Thread(
                target=self._write_snapshot, args=(sequence, items), name=f"snapshot-{self._log.prefix}", daemon=True
            )
            self._snapshotting.start()

    def _write_snapshot(self, sequence: int, items: Iterable[Any]) -> None:
        key = self._log.snapshot_key(sequence)
        try:
            self._log.write_snapshot(sequence, items)
        except StorageError:
            # The log has it all; the next snapshot is tried after as many entries again.
            logger.exception("event=snapshot_failed key=%s", key)
            return
        logger.info("event=snapshot_written key=%s", key)

    def _position_gone(self, after: int, newest: int) -> PositionGone:
        return PositionGone(
            f"the log of {self._log.prefix} cannot be followed from entry {after:,}; its newest is {newest:,}",
            hint="What came next was compacted, or it is of another store: read the present state, and go on from it.",
            context={"after": after, "newest": newest},
        )


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


def _interrupted(error: BaseException) -> StorageError:
    return StorageError(
        f"the write was interrupted by {type(error).__name__}: {error}",
        hint="Read to see whether it happened, then try again.",
    )


def _clock() -> float:
    """Return seconds that also go by while the machine sleeps, where the system knows how."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
