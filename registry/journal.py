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
removed, and is written before the first one goes. Whose last look at the end of the log is older than `TRUST` looks at
the mark after it read or wrote an entry, and before it believes or acknowledges that: compaction removes only what is
older than three times as much, by the clock of the store. No two clocks have to agree; they only have to go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from compute.errors import KeyExists, StorageError
from registry.compaction import GRACE, TRUST, CompactionReport, compact
from registry.entry import Event
from registry.group_commit import Decision, GroupCommit, Ticket, decide
from registry.log import Log, clock
from registry.recovery import State
from registry.replica import Replica
from registry.snapshots import Snapshots
from registry.store import ObjectStore

logger = logging.getLogger(__name__)

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
        self._read_staleness = read_staleness
        self._snapshots = Snapshots(self._log, snapshot_every)
        self._replica = Replica(self._log, empty, self._snapshots)
        self._group = GroupCommit(self._commit)

    @property
    def sequence(self) -> int:
        """The number of the newest entry that the state holds; 0 when there is none."""
        return self._replica.sequence

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
            self._replica.look(clock() - self._read_staleness)
        return self._replica.with_view(lambda view: query(view.state))

    def entries(self, after: int, limit: int = 1000) -> list[tuple[int, list[Event]]]:
        """Return what was written down after an entry, the oldest first; as new as what `read` tells.

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
        self._replica.look(clock() - self._read_staleness)
        return self._replica.entries(after, limit)

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
        deadline = clock() + timeout
        self._replica.look(clock() - self._read_staleness)
        return self._replica.wait(after, deadline)

    def execute(self, command: Command[S, T]) -> T:
        """Decide, write down, make it so; returns the command's answer when its events are on the store.

        Raises
        ------
        ComputeError
            What the command raised against the newest state; nothing was written then.
        StorageError
            The store failed: the events are either wholly in the log or not at all, as the next read will tell.
        """
        answer: T = self._group.run(command)
        return answer

    def wait_for_snapshot(self) -> None:
        """Wait until the snapshot that is being written, if one is, lies on the store."""
        self._snapshots.wait()

    def compact(self, grace: float = GRACE) -> CompactionReport:
        """Remove the entries and snapshots that nobody needs any more; safe while others write, read and begin.

        Parameters
        ----------
        grace : float
            Seconds for which what a snapshot made superfluous stays, for those who follow the log; at least 3 when
            other processes may write.
        """
        return compact(self._log, grace)

    def _commit(self, batch: list[Ticket]) -> None:
        """Write for a batch, in as many entries as it takes."""
        called = clock()
        if called - self._replica.looked > TRUST:
            self._replica.look(called)
        while batch:
            decision = self._write(batch, called)
            for outcome in decision.outcomes:
                outcome.ticket.settle(outcome.answer, outcome.error)
            batch = batch[len(decision.outcomes) :]
        self._replica.with_view(lambda view: self._snapshots.write_if_due(view.sequence, view.state.dump))

    def _write(self, batch: Sequence[Ticket], called: float) -> Decision:
        """Decide as many commands as fit into an entry against the newest state, and write that down."""
        lost = 0
        while True:
            view, decision = self._replica.with_view(lambda view: (view, decide(view.state, batch)))
            if view.looked < called and not all(outcome.changes for outcome in decision.outcomes):
                # Somebody is refused, or told that all is done: not because of a state that was.
                self._replica.look(called)
                continue
            if not decision.events:
                return decision
            number = view.sequence + 1
            if number == lost:
                raise StorageError(
                    f"{self._log.entry_key(lost)} exists and cannot be read",
                    hint="See what lies under this key of the store, and move it away.",
                    context={"key": self._log.entry_key(lost)},
                )
            asked = clock()
            try:
                data = self._log.append(number, decision.encoded)
            except KeyExists:
                logger.debug("event=lost_race prefix=%s sequence=%d", self._log.prefix, number)
                lost = number
                self._replica.look(clock())
                continue
            if clock() - view.looked > TRUST and self._log.compacted() >= number:
                self._log.remove(number)  # nobody reads there
                raise self._stood_still(number)
            self._replica.add(number, decision.events, data, asked)
            return decision

    def _stood_still(self, number: int) -> StorageError:
        # Not decided anew: it may have been written before others went on and compacted it, and is to happen once.
        return StorageError(
            f"this process stood still while it wrote {self._log.entry_key(number)}, which was compacted since",
            hint="Read to see whether it happened, then try again.",
            context={"key": self._log.entry_key(number)},
        )
