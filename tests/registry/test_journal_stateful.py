"""Two journals over one store against a plain list, with faults, races, damage and compaction at any moment."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from compute.errors import Conflict, Corrupt, KeyExists, PositionGone, StorageError
from registry import FileStore, Journal
from registry.findings import Progress, Report
from registry.fsck_journal import JournalCheck
from registry.log import Log
from tests.contracts.journal import Numbers, add
from tests.interposed_store import InterposedStore

WRITERS = st.sampled_from([0, 1])


def history(numbers: Numbers) -> list[str]:
    return list(numbers.history.values())


class JournalMachine(RuleBasedStateMachine):
    """What was acknowledged is `self.told`, in order; an event of a write that failed may be there or not."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        # In memory where there is such a place: what the disk does with a flush is not the question here.
        self.directory = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.stores = [InterposedStore(FileStore(self.directory.name)) for _ in range(2)]
        self.log = Log(self.stores[0].store, "n")
        self.told: list[str] = []
        self.doubtful: set[str] = set()
        self.damaged: set[str] = set()
        self.under_way: list[tuple[str, bytes]] = []
        self.tokens = 0
        self.journals = [self._open(0), self._open(1)]

    def teardown(self) -> None:
        for journal in self.journals:
            journal.wait_for_snapshot()
        self.directory.cleanup()

    def _open(self, writer: int) -> Journal[Numbers]:
        return Journal(self.stores[writer], "n", Numbers, snapshot_every=3)

    def _token(self) -> str:
        self.tokens += 1
        return f"t{self.tokens}"

    def _truth(self) -> list[str]:
        """Read what is in the log; all that was told must be there, in order, and nothing that was never written."""
        truth = Journal(self.log.store, "n", Numbers).read(history)
        assert len(set(truth)) == len(truth)
        assert [token for token in truth if token not in self.doubtful] == self.told
        return truth

    def _settle(self) -> None:
        """From now on, what is there is there."""
        truth = self._truth()
        self.told = truth
        self.doubtful -= set(truth)

    @rule(writer=WRITERS)
    def write(self, writer: int) -> None:
        token = self._token()
        assert self.journals[writer].execute(add("a", token)) == len(self.told) + 1
        self.told.append(token)

    @rule(writer=WRITERS, commands=st.integers(2, 4))
    def write_in_a_race(self, writer: int, commands: int) -> None:
        """The other comes first, right before the entry is created."""
        token, store = self._token(), self.stores[writer]

        def other(method: str, key: str) -> None:
            if method == "create":
                store.before = lambda method, key: None
                for _ in range(commands):
                    self.write(1 - writer)

        store.before = other
        expected = len(self.told) + commands + 1
        assert self.journals[writer].execute(add("a", token)) == expected
        self.told.append(token)

    @rule(writer=WRITERS, landed=st.sampled_from(["never", "at once", "later"]))
    def write_with_a_lost_answer(self, writer: int, landed: str) -> None:
        token, store = self._token(), self.stores[writer]

        def fault(method: str, key: str) -> None:
            if method == "create":
                store.before = store.after = lambda method, key: None
                raise StorageError("the line broke")

        if landed == "at once":
            store.after = fault
        else:
            store.before = fault
        with pytest.raises(StorageError, match="the line broke"):
            self.journals[writer].execute(add("a", token))
        if landed == "later":
            self.under_way.append(store.created)
        self.doubtful.add(token)
        self._settle()

    @precondition(lambda self: self.under_way)
    @rule()
    def land(self) -> None:
        """A request arrives that nobody waits for any more."""
        key, data = self.under_way.pop(0)
        try:
            self.log.store.create(key, data)
        except KeyExists:
            return
        self._settle()

    @rule(writer=WRITERS)
    def write_after_standing_still(self, writer: int) -> None:
        """While the entry is about to be created, the others go on for long, and compact."""
        token, store = self._token(), self.stores[writer]
        at = self.journals[writer].sequence

        def others(method: str, key: str) -> None:
            if method == "create":
                store.before = lambda method, key: None
                for _ in range(9):
                    self.write(1 - writer)
                    self.journals[1 - writer].wait_for_snapshot()
                self.journals[1 - writer].compact(0)

        store.before = others
        with pytest.raises(StorageError, match="stood still"):
            self.journals[writer].execute(add("a", token))
        assert self.log.compacted() > at

    @rule(writer=WRITERS)
    def refuse(self, writer: int) -> None:
        """A limit that only the newest state knows to be reached."""
        with pytest.raises(Conflict):
            self.journals[writer].execute(add("a", self._token(), most=len(self.told)))

    @rule(writer=WRITERS)
    def read_fails_and_then_not(self, writer: int) -> None:
        def fault(method: str, key: str) -> None:
            raise StorageError("the line broke")

        self.stores[writer].before = fault
        with pytest.raises(StorageError, match="the line broke"):
            self.journals[writer].read(history)
        self.stores[writer].before = lambda method, key: None

    @rule(writer=WRITERS)
    def crash(self, writer: int) -> None:
        self.journals[writer].wait_for_snapshot()
        self.journals[writer] = self._open(writer)

    @rule(writer=WRITERS)
    def crash_and_recover_while_others_compact(self, writer: int) -> None:
        """The entries that are about to be read are gone when they are; or a stray one lies there instead."""
        self.journals[writer].wait_for_snapshot()
        store = self.stores[writer]

        def others(method: str, key: str) -> None:
            if (method, key) == ("scan", "n/log/"):
                store.before = lambda method, key: None
                for _ in range(9):
                    self.write(1 - writer)
                    self.journals[1 - writer].wait_for_snapshot()
                self.journals[1 - writer].compact(0)
                self._stray()

        store.before = others
        self.journals[writer] = self._open(writer)

    @rule(writer=WRITERS)
    def compact(self, writer: int) -> None:
        removed = self.journals[writer].compact(0)
        if removed.entries:
            self._stray()
        if mark := self.log.compacted():
            sound = [found.number for found in self.log.snapshots() if self._is_sound(found.number)]
            assert sum(number >= mark for number in sound) >= (2 if removed.entries else 1)

    @rule()
    def damage_the_newest_snapshot(self) -> None:
        for journal in self.journals:
            journal.wait_for_snapshot()
        sound = [found.number for found in self.log.snapshots() if self._is_sound(found.number)]
        if len(sound) >= 2 or (sound and not self.log.compacted()):
            key = self.log.snapshot_key(sound[0])
            data = bytearray(self.log.store.get(key))
            data[len(data) // 2] ^= 4
            self.log.store.put(key, bytes(data))
            self.damaged.add(key)

    def _stray(self) -> None:
        """Let entries appear in the past, as by writers that stood still and were killed before they could look."""
        for number in range(1, self.log.compacted() + 1):
            with suppress(KeyExists):
                self.log.append(number, [b'{"name":"a","add":1,"by":"stray"}'])

    def _is_sound(self, number: int) -> bool:
        try:
            self.log.read_snapshot(number)
        except Corrupt:
            return False
        return True

    @rule(writer=WRITERS, back=st.integers(0, 12))
    def follow(self, writer: int, back: int) -> None:
        journal = self.journals[writer]
        after = max(journal.wait(0, 0.0) - back, 0)
        try:
            found = journal.entries(after)
        except PositionGone:
            assert self.log.compacted() > after
            return
        events = [event["by"] for _, events in found for event in events]
        assert events == self.told[len(self.told) - len(events) :]
        assert [number for number, _ in found] == list(range(after + 1, journal.sequence + 1))

    @rule()
    def check(self) -> None:
        for journal in self.journals:
            journal.wait_for_snapshot()
        report = Report(uri="")
        JournalCheck(self.log, Numbers, report, Progress()).run()
        wrong = {finding.key for finding in report.findings if finding.severity == "damage"}
        assert wrong == self.damaged & set(self.log.store.list("n/snapshots/"))

    @rule(writer=WRITERS)
    def read(self, writer: int) -> None:
        assert self.journals[writer].read(history) == self.told

    @invariant()
    def nothing_told_is_lost(self) -> None:
        self._truth()


def test_journals_do_what_a_list_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing here takes as long as a second: without trust in a look, compaction needs no grace.
    monkeypatch.setattr("registry.journal.TRUST", 0.0)
    monkeypatch.setattr("registry.replica.TRUST", 0.0)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        JournalMachine, settings=settings(max_examples=60, stateful_step_count=25, deadline=None)
    )
