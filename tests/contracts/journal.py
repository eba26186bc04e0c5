"""What the journal promises over any object store; a test class inherits this and says how a store is made."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from compute.errors import Conflict, Corrupt, InvalidField, PositionGone, StorageError
from registry import Event, Journal, ObjectStore, Overlay
from tests.interposed_store import InterposedStore


class Numbers:
    """A state for tests: counters, and the order in which all was added."""

    def __init__(self) -> None:
        self.counts: Any = {}
        self.history: Any = {}

    def apply(self, event: Event) -> None:
        self.counts[event["name"]] = self.counts.get(event["name"], 0) + event["add"]
        self.history[len(self.history)] = event["by"]

    def fork(self) -> Numbers:
        fork = Numbers()
        fork.counts, fork.history = Overlay(self.counts), Overlay(self.history)
        return fork

    def dump(self) -> Iterable[Any]:
        return [["count", *item] for item in self.counts.items()] + [["by", *item] for item in self.history.items()]

    def load(self, items: Iterable[Any]) -> None:
        for kind, key, value in items:
            (self.counts if kind == "count" else self.history)[key] = value


class Loose(Numbers):
    """Takes events that `Numbers` does not, as a newer release might."""

    def apply(self, event: Event) -> None:
        if event["add"] is not None:
            super().apply(event)

    def fork(self) -> Loose:
        fork = Loose()
        fork.counts, fork.history = Overlay(self.counts), Overlay(self.history)
        return fork


def add(name: str, by: str, most: int = 10**9) -> Callable[[Numbers], tuple[list[Event], int]]:
    """Make a command that adds one, up to a limit, and answers with the new value."""

    def command(numbers: Numbers) -> tuple[list[Event], int]:
        value = numbers.counts.get(name, 0)
        if value >= most:
            raise Conflict(f"{name} is at {value}")
        return [{"name": name, "add": 1, "by": by}], value + 1

    return command


class JournalContract:
    """Run over every object store."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        raise AssertionError("the class that inherits this makes a store")

    def test_what_was_executed_is_there_for_all(self, store: ObjectStore) -> None:
        one, two = Journal(store, "n", Numbers), Journal(store, "n", Numbers)
        assert [one.execute(add("a", "1")), two.execute(add("a", "2")), one.execute(add("a", "1"))] == [1, 2, 3]
        for journal in (one, two, Journal(store, "n", Numbers)):
            assert journal.read(lambda n: (dict(n.counts), list(n.history.values()))) == ({"a": 3}, ["1", "2", "1"])

    def test_prefixes_are_apart(self, store: ObjectStore) -> None:
        Journal(store, "n", Numbers).execute(add("a", "1"))
        assert Journal(store, "m", Numbers).read(lambda n: dict(n.counts)) == {}

    def test_a_command_that_raises_changes_nothing(self, store: ObjectStore) -> None:
        journal = Journal(store, "n", Numbers)
        journal.execute(add("a", "1", most=1))
        with pytest.raises(Conflict, match="a is at 1"):
            journal.execute(add("a", "1", most=1))
        with pytest.raises(ZeroDivisionError):
            journal.execute(lambda n: ([], 1 // 0))
        assert list(store.list("n/log/")) == ["n/log/00000000000000000001.json"]
        assert journal.execute(lambda n: ([], "no events")) == "no events"
        assert journal.sequence == 1

    def test_decided_against_the_newest_state_under_races(self, store: ObjectStore) -> None:
        """A limit holds whoever gets there first, and what each was answered is unique."""
        journals = [Journal(store, "n", Numbers, snapshot_every=7) for _ in range(3)]
        answers: list[int] = []
        refused: list[int] = []

        def work(number: int) -> None:
            for _ in range(15):
                try:
                    answers.append(journals[number % 3].execute(add("a", str(number), most=100)))
                except Conflict:
                    refused.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == list(range(1, 101))
        assert len(refused) == 35
        for journal in journals:
            journal.wait_for_snapshot()
        histories = [j.read(lambda n: list(n.history.values())) for j in [*journals, Journal(store, "n", Numbers)]]
        assert all(history == histories[0] for history in histories)
        assert sum(Counter(histories[0]).values()) == 100

    def test_commands_that_wait_share_an_entry(self, store: ObjectStore) -> None:
        journal = Journal(store, "n", Numbers)
        barrier = threading.Barrier(16)

        def work() -> None:
            barrier.wait()
            for _ in range(10):
                journal.execute(add("a", "1"))

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert journal.read(lambda n: n.counts["a"]) == 160
        assert journal.sequence < 120

    def test_snapshots_shorten_the_start_and_change_nothing(self, store: ObjectStore) -> None:
        journal = Journal(store, "n", Numbers, snapshot_every=5)
        for number in range(23):
            journal.execute(add(f"a{number % 3}", str(number)))
            journal.wait_for_snapshot()
        snapshots = list(store.list("n/snapshots/"))
        assert [key[-12:] for key in snapshots] == ["0005.json.zz", "0010.json.zz", "0015.json.zz", "0020.json.zz"]
        for number in range(1, 16):
            store.delete(f"n/log/{number:020d}.json")
        again = Journal(store, "n", Numbers)
        assert again.read(lambda n: list(n.history.values())) == [str(number) for number in range(23)]
        assert again.execute(add("a0", "23")) == 9

    def test_a_damaged_snapshot_is_passed_over(self, store: ObjectStore, caplog: pytest.LogCaptureFixture) -> None:
        journal = Journal(store, "n", Numbers, snapshot_every=2)
        for number in range(5):
            journal.execute(add("a", str(number)))
            journal.wait_for_snapshot()
        newest = list(store.list("n/snapshots/"))[-1]
        data = bytearray(store.get(newest))
        data[-3] ^= 1
        store.put(newest, bytes(data))
        assert Journal(store, "n", Numbers).read(lambda n: n.counts["a"]) == 5
        assert newest in caplog.text
        for key in store.list("n/log/"):
            store.delete(key)
        store.put("n/log/00000000000000000005.json", b"")
        with pytest.raises(Corrupt, match=r"log/00000000000000000003\.json is missing, and n/log/.*5\.json"):
            Journal(store, "n", Numbers)

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda data: data[:-1], "truncated or garbled"),
            (lambda data: data[: len(data) // 2], "truncated or garbled"),
            (lambda data: b"", "truncated or garbled"),
            (lambda data: data.replace(b'"add":1', b'"add":9'), "checksum"),
            (lambda data: data.replace(b'"sequence":2', b'"sequence":3'), "holds the entry 3"),
            (lambda data: data.replace(b'"format":1', b'"format":2'), "format 2; this release reads format 1"),
            (lambda data: b'{"format":7}', "format 7; this release reads format 1"),
            (lambda data: data + b" ", "truncated or garbled"),
        ],
    )
    def test_a_damaged_entry_is_named_and_nothing_is_served(
        self, store: ObjectStore, damage: Callable[[bytes], bytes], reason: str
    ) -> None:
        journal, reader = Journal(store, "n", Numbers), Journal(store, "n", Numbers)
        for number in range(3):
            journal.execute(add("a", str(number)))
        key = "n/log/00000000000000000002.json"
        sound = store.get(key)
        store.put(key, damage(sound))
        for attempt in (
            lambda: Journal(store, "n", Numbers),
            lambda: reader.read(dict),
            lambda: reader.execute(add("a", "x")),
        ):
            with pytest.raises(Corrupt, match=reason) as caught:
                attempt()
            assert caught.value.context["key"] == key
        store.put(key, sound)
        assert reader.execute(add("a", "4")) == 4  # it goes on when the entry was restored

    def test_a_missing_entry_is_named(self, store: ObjectStore) -> None:
        journal = Journal(store, "n", Numbers)
        for number in range(3):
            journal.execute(add("a", str(number)))
        store.delete("n/log/00000000000000000002.json")
        with pytest.raises(Corrupt, match=r"n/log/00000000000000000002\.json is missing"):
            Journal(store, "n", Numbers)

    def test_an_event_that_does_not_fit_is_named(self, store: ObjectStore) -> None:
        Journal(store, "n", Numbers).execute(add("a", "1"))

        class Others(Numbers):
            def apply(self, event: Event) -> None:
                raise KeyError(event["name"])

        with pytest.raises(Corrupt, match=r"00001\.json holds an event that does not fit"):
            Journal(store, "n", Others)

    def test_an_event_that_json_cannot_carry_fails_alone(self, store: ObjectStore) -> None:
        journal = Journal(store, "n", Numbers)
        with pytest.raises(InvalidField):
            journal.execute(lambda n: ([{"name": "a", "add": float("nan"), "by": ""}], None))
        assert journal.execute(add("a", "1")) == 1

    def test_entries_are_one_line_of_json(self, store: ObjectStore) -> None:
        Journal(store, "n", Numbers).execute(add("é\n", "1"))
        data = store.get("n/log/00000000000000000001.json")
        assert data.count(b"\n") == 1
        assert json.loads(data)["events"] == [{"name": "é\n", "add": 1, "by": "1"}]

    def test_a_write_asks_the_store_for_one_thing(self, store: ObjectStore) -> None:
        between = InterposedStore(store)
        journal = Journal(between, "n", Numbers)
        between.calls.clear()
        journal.execute(add("a", "1"))
        assert between.calls == [("create", "n/log/00000000000000000001.json")]

    def test_a_refusal_is_decided_on_the_newest_state(self, store: ObjectStore) -> None:
        one, two = Journal(store, "n", Numbers, read_staleness=60), Journal(store, "n", Numbers)
        two.execute(add("a", "2"))

        def need_one(numbers: Numbers) -> tuple[list[Event], int]:
            if "a" not in numbers.counts:
                raise Conflict("there is none")
            return [], numbers.counts["a"]

        assert one.execute(need_one) == 1

    def test_reads_may_be_as_old_as_allowed_and_hold_own_writes(self, store: ObjectStore) -> None:
        one, two = Journal(store, "n", Numbers, read_staleness=0.3), Journal(store, "n", Numbers)
        one.execute(add("a", "1"))
        two.execute(add("a", "2"))
        assert one.read(lambda n: n.counts["a"]) == 1
        assert one.execute(add("a", "1")) == 3
        two.execute(add("a", "2"))
        time.sleep(0.31)
        assert one.read(lambda n: n.counts["a"], fresh=False) == 3
        assert one.read(lambda n: n.counts["a"]) == 4

    def test_an_own_entry_that_a_reader_finds_first_counts_once(self, store: ObjectStore) -> None:
        between = InterposedStore(store)
        journal = Journal(between, "n", Numbers)

        def read(method: str, key: str) -> None:
            if method == "create":
                assert journal.read(lambda n: n.counts["a"]) == 1

        between.after = read
        assert journal.execute(add("a", "1")) == 1
        assert journal.read(lambda n: (n.counts["a"], journal.sequence)) == (1, 1)

    def test_what_is_wrong_with_a_command_concerns_it_alone(self, store: ObjectStore) -> None:
        """Whether it raises, or its event is no JSON or does not fit: others of the same batch are written."""
        journal = Journal(store, "n", Numbers)
        wrong: list[Callable[[Numbers], tuple[list[Event], None]]] = [
            lambda n: ([{"name": "a", "add": 1, "by": "x"}, {"unknown": 1}], None),
            lambda n: ([{"name": "a", "add": 1, "by": "x"}, {"name": "a", "add": float("nan"), "by": "x"}], None),
            lambda n: ([{"name": "a", "add": 1, "by": str(1 // 0)}], None),
        ]
        barrier = threading.Barrier(12)
        failed: list[Exception] = []
        answers: list[int] = []

        def work(number: int) -> None:
            barrier.wait()
            try:
                if number < len(wrong):
                    journal.execute(wrong[number])
                else:
                    answers.append(journal.execute(add("a", "1")))
            except (KeyError, InvalidField, ZeroDivisionError) as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {type(error) for error in failed} == {KeyError, InvalidField, ZeroDivisionError}
        assert sorted(answers) == list(range(1, 10))
        for each in (journal, Journal(store, "n", Numbers)):
            assert each.read(lambda n: set(n.history.values())) == {"1"}
            assert each.read(lambda n: n.counts["a"]) == 9

    def test_an_entry_that_does_not_fit_spoils_nothing_that_is_served(self, store: ObjectStore) -> None:
        journal = Journal(store, "n", Numbers)
        journal.execute(add("a", "1"))
        other = Journal(store, "n", Loose)
        other.execute(lambda n: ([{"name": "a", "add": 1, "by": "2"}, {"name": "a", "add": None, "by": "2"}], None))
        for _ in range(2):
            with pytest.raises(Corrupt, match=r"00002\.json holds an event that does not fit"):
                journal.read(dict)
        with pytest.raises(Corrupt, match="does not fit"):
            journal.read(dict, fresh=False)
        store.delete("n/log/00000000000000000002.json")
        assert journal.read(lambda n: n.counts["a"]) == 1

    def test_large_commands_are_spread_over_entries(self, store: ObjectStore) -> None:
        between = InterposedStore(store)
        journal = Journal(between, "n", Numbers)
        threads = [threading.Thread(target=journal.execute, args=(add("a", "x" * 5_000_000),)) for _ in range(4)]

        def gather(method: str, key: str) -> None:
            between.before = lambda method, key: None
            for thread in threads[1:]:
                thread.start()
            while len(journal._group._queue) < 3:
                time.sleep(0.001)

        between.before = gather
        threads[0].start()
        for thread in threads:
            thread.join()
        assert journal.read(lambda n: n.counts["a"]) == 4
        assert [len(events) for _, events in journal.entries(0)] == [1, 2, 1]

    def test_the_log_can_be_followed(self, store: ObjectStore) -> None:
        journal = Journal(store, "n", Numbers)
        for number in range(5):
            journal.execute(add("a", str(number)))
        for follower in (journal, Journal(store, "n", Numbers)):
            found = follower.entries(2)
            assert [(number, events[0]["by"]) for number, events in found] == [(3, "2"), (4, "3"), (5, "4")]
            assert follower.entries(0, limit=2) == follower.entries(0)[:2]
            assert follower.entries(5) == []
            for wrong in (6, -1):
                with pytest.raises(PositionGone):
                    follower.entries(wrong)

    def test_waiting_ends_with_the_next_entry_whoever_writes_it(self, store: ObjectStore) -> None:
        one, two = Journal(store, "n", Numbers), Journal(store, "n", Numbers)
        started = time.monotonic()
        assert one.wait(0, 0.05) == 0
        for writer in (one, two):
            timer = threading.Timer(0.05, writer.execute, [add("a", "1")])
            timer.start()
            assert one.wait(one.sequence, 10) == one.sequence > 0
            timer.join()
        assert one.wait(1, 10) == 2
        assert time.monotonic() - started < 5

    def test_compaction_keeps_what_two_snapshots_need(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("registry.journal.TRUST", 0.0)
        monkeypatch.setattr("registry.replica.TRUST", 0.0)
        journal, lagging = Journal(store, "n", Numbers, snapshot_every=5), Journal(store, "n", Numbers)
        for number in range(23):
            journal.execute(add("a", str(number)))
            journal.wait_for_snapshot()
        assert journal.compact(3600).entries == 0
        report = journal.compact(0)
        assert (report.entries, report.snapshots) == (15, 2)
        assert report.bytes > 15 * 100
        assert [key[-12:] for key in store.list("n/snapshots/")] == ["0015.json.zz", "0020.json.zz"]
        assert len(list(store.list("n/log/"))) == 8
        assert journal.compact(0).entries == 0
        for position in (0, 14):
            with pytest.raises(PositionGone):
                Journal(store, "n", Numbers).entries(position)
        assert len(Journal(store, "n", Numbers).entries(15)) == 8
        assert lagging.execute(add("a", "lagging")) == 24
        assert Journal(store, "n", Numbers).read(lambda n: list(n.history.values()))[-2:] == ["22", "lagging"]
        store.put("n/snapshots/00000000000000000020.json.zz", b"")
        assert Journal(store, "n", Numbers).read(lambda n: n.counts["a"]) == 24
        assert [key[-2:] for key in store.list("n/compacted/")] == ["15"]
        store.delete("n/snapshots/00000000000000000015.json.zz")
        with pytest.raises(Corrupt, match="up to 15 were compacted, and no sound snapshot"):
            Journal(store, "n", Numbers)

    def test_what_does_not_belong_there_is_passed_over(
        self, store: ObjectStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        Journal(store, "n", Numbers).execute(add("a", "1"))
        store.put("n/log/00000000000000000001.json.bak", b"")
        store.put("n/snapshots/notes", b"")
        assert Journal(store, "n", Numbers).execute(add("a", "1")) == 2
        assert "foreign_key key=n/log/00000000000000000001.json.bak" in caplog.text

    def test_those_who_wait_for_a_store_that_is_away_are_told_together(self, store: ObjectStore) -> None:
        between = InterposedStore(store)
        journal = Journal(between, "n", Numbers)

        def away(method: str, key: str) -> None:
            time.sleep(0.2)
            raise StorageError("away")

        between.before = away
        started = time.monotonic()
        failed: list[str] = []

        def read() -> None:
            with pytest.raises(StorageError) as caught:
                journal.read(dict)
            failed.append(str(caught.value))

        threads = [threading.Thread(target=read) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == ["away"] * 20
        assert time.monotonic() - started < 2
        assert journal.read(lambda n: n.counts, fresh=False) == {}
        between.before = lambda method, key: None
        assert journal.execute(add("a", "1")) == 1
