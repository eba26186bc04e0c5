"""Commands that share a write: while one batch is being written, the next one gathers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from compute.errors import ComputeError, StorageError
from registry.entry import Event, encode_json
from registry.forking import survive_forks
from registry.recovery import State

_MAX_BATCH = 512
_MAX_BYTES = 8 << 20
_PATIENCE = 0.5
"""The part of a write's time that the next one waits for those who are about to come, at most."""
_LONGEST = 0.02

Decide = Callable[[Any], tuple[Sequence[Event], Any]]


class Ticket:
    """A command that waits for its turn, and how it ended."""

    def __init__(self, command: Decide) -> None:
        self.command = command
        self.done = False
        self.leads = False
        self.woken = threading.Lock()
        self.woken.acquire()
        self._answer: Any = None
        self._error: BaseException | None = None

    def settle(self, answer: Any, error: BaseException | None) -> None:
        """Say how it ended."""
        self._answer, self._error, self.done = answer, error, True

    def outcome(self) -> Any:
        """Return the answer, or raise the error."""
        if self._error is not None:
            raise self._error
        return self._answer


class GroupCommit:
    """Runs commands in batches, in the order in which they came, one batch at a time.

    The thread of the oldest command that waits writes for all of a batch, then wakes the next. It waits a little for
    those to come who were just answered.

    Parameters
    ----------
    commit : callable
        Settles every ticket of a batch.

    Examples
    --------
    >>> def commit(tickets):
    ...     for ticket in tickets:
    ...         ticket.settle(ticket.command(None)[1], None)
    >>> GroupCommit(commit).run(lambda state: ([], 7))
    7
    """

    def __init__(self, commit: Callable[[list[Ticket]], None]) -> None:
        self._commit = commit
        self._begin()
        survive_forks(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._queue: list[Ticket] = []
        self._busy = False
        self._full = threading.Condition(self._lock)
        self._expected = 1
        """How many commands are likely to come soon: those who were just answered give the next ones."""
        self._took = 0.0
        """Seconds of the newest write."""

    def run(self, command: Decide) -> Any:
        """Return the command's answer, or raise its error."""
        ticket = Ticket(command)
        try:
            with self._lock:
                self._queue.append(ticket)
                ticket.leads, self._busy = not self._busy, True
                if len(self._queue) == self._expected:
                    self._full.notify()
            if not ticket.leads:
                ticket.woken.acquire()
            if ticket.leads:
                self._lead(ticket)
        except BaseException:  # this thread was interrupted, wherever it was
            with self._lock:
                self._leave(ticket)
            raise
        return ticket.outcome()

    def before_fork(self) -> None:
        """See `registry.forking`."""

    def after_fork(self, *, in_child: bool) -> None:
        """See `registry.forking`: the threads that waited are not in the child."""
        if in_child:
            self._begin()

    def _lead(self, own: Ticket) -> None:
        batch = [own]
        started = time.monotonic()
        try:
            with self._full:
                # Else every other batch would be of those few alone that came while the rest were still being written.
                self._full.wait_for(lambda: len(self._queue) >= self._expected, self._took * _PATIENCE)
                batch, self._queue = self._queue[:_MAX_BATCH], self._queue[_MAX_BATCH:]
            started = time.monotonic()
            self._commit(batch)
        except BaseException as error:
            failure = error if isinstance(error, ComputeError) else _interrupted(error)
            for ticket in batch:
                if not ticket.done:
                    ticket.settle(None, failure)
            if not isinstance(error, ComputeError):
                raise
        finally:
            with self._lock:
                self._took = min(time.monotonic() - started, _LONGEST)
                self._expected = min(len(batch) + len(self._queue), _MAX_BATCH)
                self._leave(own)
            for ticket in batch[1:]:  # the first is this thread's own
                ticket.woken.release()

    def _leave(self, ticket: Ticket) -> None:
        """Take a command out that waits for nothing any more; if it led, the oldest that waits leads the next batch."""
        if ticket in self._queue:
            self._queue.remove(ticket)
        if ticket.leads:
            ticket.leads, self._busy = False, bool(self._queue)
            if self._queue:
                self._queue[0].leads = True
                self._queue[0].woken.release()


class Outcome(NamedTuple):
    """How one command was decided."""

    ticket: Ticket
    changes: bool
    """Whether it gave events."""
    answer: Any
    error: Exception | None


class Decision(NamedTuple):
    """How commands were decided, one after another: the first of those asked, as many as fit into an entry."""

    events: list[Event]
    encoded: list[bytes]
    outcomes: list[Outcome]


def decide(state: State, tickets: Sequence[Ticket]) -> Decision:
    """Run commands one after another on a fork of a state; what one raises concerns it alone."""
    failed: dict[Ticket, Exception] = {}
    while True:
        fork = state.fork()
        events: list[Event] = []
        encoded: list[bytes] = []
        outcomes: list[Outcome] = []
        size = 0
        for ticket in tickets:
            if size > _MAX_BYTES:
                break
            if ticket in failed:
                outcomes.append(Outcome(ticket, False, None, failed[ticket]))
                continue
            try:
                decided, answer = ticket.command(fork)
                lines = [encode_json(event) for event in decided]
            except Exception as error:  # noqa: BLE001  (it is raised to whoever gave the command, and to no one else)
                outcomes.append(Outcome(ticket, False, None, error))
                continue
            try:
                for event in decided:
                    fork.apply(event)
            except Exception as error:  # noqa: BLE001  (as above)
                failed[ticket] = error
                break  # the fork is spoilt: decide anew, without this one
            events.extend(decided)
            encoded.extend(lines)
            size += sum(map(len, lines))
            outcomes.append(Outcome(ticket, bool(decided), answer, None))
        else:
            return Decision(events, encoded, outcomes)
        if size > _MAX_BYTES:
            return Decision(events, encoded, outcomes)


def _interrupted(error: BaseException) -> StorageError:
    return StorageError(
        f"the write was interrupted by {type(error).__name__}: {error}",
        hint="Read to see whether it happened, then try again.",
    )
