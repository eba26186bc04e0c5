"""Check a journal on its store: every entry, every snapshot, and whether they tell the same story."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from typing import Generic, TypeVar

from compute.errors import ComputeError, Corrupt, KeyNotFound
from registry.entry import Event
from registry.findings import Progress, Report
from registry.log import Log
from registry.parallel import read_ahead
from registry.recovery import State, apply_events, collector_paused, recover

S = TypeVar("S", bound=State)

_NAMES = {
    "log": re.compile(r"(\d{20})\.json"),
    "snapshots": re.compile(r"(\d{20})\.json\.zz"),
    "compacted": re.compile(r"(\d{20})"),
}
_COMPARED = 2
"""So many of the newest snapshots are compared with the entries before them: recovery reads no others."""
_SMALL_GAP = 10_000
_END = 10**20
"""A number after all entries."""
_COMPACTION = "the next compaction removes it (python -m registry.compact)"


class JournalCheck(Generic[S]):
    """Checks one journal; others may write to it and compact it meanwhile.

    Parameters
    ----------
    log : Log
        Of the journal.
    empty : callable
        Makes the empty state.
    report : Report
        Takes what is found.
    progress : Progress
        Is told how far it is.
    """

    def __init__(self, log: Log, empty: Callable[[], S], report: Report, progress: Progress) -> None:
        self._log = log
        self._empty = empty
        self._report = report
        self._progress = progress
        # The log last: all that a snapshot holds is in it, or was compacted.
        self._snapshots = self._numbers("snapshots")
        self._floor = log.compacted()
        self._entries = self._numbers("log")
        self._sound: list[int] = []
        self._state: S | None = None
        self._at = 0

    def run(self) -> None:
        """Check it."""
        for number in [number for number in self._entries if number <= self._floor]:
            problem = "was compacted, and is still or again there"
            self._report.note(self._log.entry_key(number), problem, _COMPACTION)
        self._entries = [number for number in self._entries if number > self._floor]
        self._check_snapshots()
        self._check_gaps()
        with collector_paused():
            self._replay()

    def newest(self) -> S | None:
        """Return the state as it is now, or None when it cannot be told; call it after `run`."""
        try:
            while self._state is not None:
                events = self._log.read(self._at + 1)
                apply_events(self._log, self._state, self._at + 1, events)
                self._at += 1
        except KeyNotFound:
            if self._log.compacted() > self._at:
                self._state, self._at, *_ = recover(self._log, self._empty)
        except Corrupt:
            self._state = None
        return self._state

    def _numbers(self, kind: str) -> list[int]:
        numbers = []
        for key in self._log.store.list(f"{self._log.prefix}/{kind}/"):
            match = _NAMES[kind].fullmatch(key.removeprefix(f"{self._log.prefix}/{kind}/"))
            if match:
                numbers.append(int(match[1]))
            else:
                self._report.note(key, "has no business in a journal", "move it away")
        return numbers

    def _check_snapshots(self) -> None:
        damaged: list[tuple[str, str]] = []
        for number in self._snapshots:
            key = self._log.snapshot_key(number)
            try:
                self._log.read_snapshot(number)
            except KeyNotFound:
                continue  # a compaction removed it after it was listed
            except Corrupt as error:
                damaged.append((key, _reason(error, key)))
            else:
                self._sound.append(number)
            self._report.count("snapshots")
        covered = self._floor == 0 or any(number >= self._floor for number in self._sound)
        for key, reason in damaged:
            instead = "nothing is lost: the rest of the journal holds it all, so delete it"
            only = "what was compacted into it is nowhere else: restore it from a backup of the store"
            self._report.damage(key, reason, instead if covered else only)
        if not covered and not damaged:
            key = self._log.snapshot_key(self._floor)
            action = "restore it, or a later one, from a backup of the store"
            self._report.damage(key, f"is missing, and the entries up to {self._floor} were compacted into it", action)

    def _check_gaps(self) -> None:
        """Report the numbers for which there is no entry."""
        newest = max([self._floor, *self._sound])
        ends = [self._floor, *self._entries]
        if ends[-1] < newest:
            ends.append(newest + 1)  # entries that a snapshot holds, and that were not compacted
        for before, after in pairwise(ends):
            missing = range(before + 1, after)
            if not missing or missing[-1] <= self._log.compacted():
                continue
            if len(missing) <= _SMALL_GAP and all(self._is_there(number) for number in missing):
                self._entries = sorted({*self._entries, *missing})  # it was written while the others were listed
                continue
            many = f" and {len(missing) - 1:,} after it" if len(missing) > 1 else ""
            held = any(number >= missing[-1] for number in self._sound)
            what = "a later snapshot holds the state" if held else "without it the journal does not open"
            action = f"restore it from a backup of the store; {what}"
            self._report.damage(self._log.entry_key(missing[0]), f"is missing{many}", action)

    def _is_there(self, number: int) -> bool:
        try:
            self._log.store.size(self._log.entry_key(number))
        except KeyNotFound:
            return False
        return True

    def _replay(self) -> None:
        """Read every entry, and apply those that follow on each other, from one snapshot to the next."""
        snapshots = list(reversed(self._sound))
        self._state = self._empty() if self._floor == 0 else None
        for number, events in chain(self._read_all(), [(_END, None)]):
            # Snapshots from here to the entry: each is a check of what was replayed, or else a place to begin at.
            while snapshots and snapshots[-1] < number:
                self._pass_snapshot(snapshots.pop())
            if number == _END or self._state is None:
                continue
            if events is None or self._at != number - 1:
                self._state = None
                continue
            try:
                apply_events(self._log, self._state, number, events)
                self._at = number
            except Corrupt as error:
                key = self._log.entry_key(number)
                self._report.damage(key, _reason(error, key), error.hint)
                self._state = None

    def _pass_snapshot(self, number: int) -> None:
        if self._state is None or self._at != number:
            self._state, self._at = self._load(number), number
        elif number in self._sound[-_COMPARED:]:
            self._compare(number, self._state)

    def _read_all(self) -> Iterator[tuple[int, list[Event] | None]]:
        total = len(self._entries)
        entries = map(self._read, self._entries) if self._log.local else read_ahead(self._read, self._entries)
        for done, (number, found) in enumerate(entries, start=1):
            self._progress(f"{self._log.prefix}, entries", done, total)
            self._report.count("entries")
            if isinstance(found, KeyNotFound):
                if number > self._log.compacted():
                    key = self._log.entry_key(number)
                    self._report.damage(key, "vanished while it was checked", "see who deletes from the store")
                    yield number, None
            elif isinstance(found, ComputeError):
                key = self._log.entry_key(number)
                self._report.damage(key, _reason(found, key), found.hint)
                yield number, None
            else:
                yield number, found

    def _read(self, number: int) -> tuple[int, list[Event] | ComputeError]:
        try:
            return number, self._log.read(number)
        except (Corrupt, KeyNotFound) as error:
            return number, error

    def _load(self, number: int) -> S | None:
        state = self._empty()
        try:
            state.load(self._log.read_snapshot(number))
        except KeyNotFound:
            return None  # compacted meanwhile
        except (LookupError, TypeError, ValueError, ComputeError) as error:
            action = "it was written by a newer release: run that one, or restore the object"
            self._report.damage(self._log.snapshot_key(number), f"does not fit this release: {error}", action)
            return None
        return state

    def _compare(self, number: int, state: S) -> None:
        loaded = self._load(number)
        if loaded is None:
            return
        theirs, ours = _lines(loaded), _lines(state)
        if differing := (theirs - ours) + (ours - theirs):
            self._report.damage(
                self._log.snapshot_key(number),
                f"is not what the entries before it add up to: {differing.total():,} items differ",
                "delete it: the entries hold it all",
            )


def _lines(state: State) -> Counter[bytes]:
    """Return a digest of each item of a state."""
    return Counter(
        hashlib.blake2b(json.dumps(item, sort_keys=True).encode(), digest_size=16).digest() for item in state.dump()
    )


def _reason(error: ComputeError, key: str) -> str:
    """Return what is wrong, without the key, which has a column of its own."""
    return error.detail.removeprefix(key).removeprefix(" is damaged:").strip()
