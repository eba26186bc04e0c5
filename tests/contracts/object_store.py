"""What every object store promises; a test class inherits this and says how a store is made."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compute.errors import InvalidField, KeyExists, KeyNotFound
from registry import ObjectStore

BAD_KEYS = [
    "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", ".tmp/x", "a/.hidden", "a\0b", "a b", "a\\b",
    "a\nb", "é", "a" * 201, "/".join(["a" * 100] * 10), "a/%2e%2e/b", "~/a", "C:a", "a\n",
]  # fmt: skip


class ObjectStoreContract:
    """Run over every implementation."""

    @pytest.fixture
    def store(self) -> ObjectStore:
        raise AssertionError("the class that inherits this makes a store")

    @pytest.fixture
    def again(self) -> ObjectStore:
        raise AssertionError("and another over the same place, as another process would")

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
    def test_what_is_put_comes_back(self, store: ObjectStore, again: ObjectStore, data: bytes) -> None:
        store.put("a/b-c_d.0", data)
        assert again.get("a/b-c_d.0") == data
        assert again.size("a/b-c_d.0") == len(data)
        with again.open("a/b-c_d.0") as file:
            assert file.read(3) == data[:3]
            assert file.read() == data[3:]

    def test_sizes_times_and_files(self, store: ObjectStore, again: ObjectStore, tmp_path: Path) -> None:
        before = time.time()
        for number, key in enumerate(("a/1", "a/2", "b")):
            store.put(key, b"x" * number)
        assert [(found.key, found.size) for found in again.scan()] == [("a/1", 0), ("a/2", 1), ("b", 2)]
        assert [found.key for found in again.scan("a/", after="a/1")] == ["a/2"]
        assert again.stat("b") == next(iter(again.scan("b")))
        # Whole seconds on S3, and a clock of its own.
        assert before - 2 <= again.stat("b").modified <= time.time() + 2
        again.download("b", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == b"xx"
        local = again.local_path("b")
        assert local is None or local.read_bytes() == b"xx"

    def test_put_replaces_and_create_does_not(self, store: ObjectStore, again: ObjectStore) -> None:
        store.put("key", b"one")
        store.put("key", b"two")
        with pytest.raises(KeyExists):
            again.create("key", b"three")
        assert store.get("key") == b"two"

    def test_created_after_it_was_deleted(self, store: ObjectStore) -> None:
        store.create("key", b"one")
        store.delete("key")
        with pytest.raises(KeyNotFound):
            store.get("key")
        store.create("key", b"two")
        assert store.get("key") == b"two"

    def test_a_key_that_is_not_there(self, store: ObjectStore, tmp_path: Path) -> None:
        store.put("a/b", b"")
        for key in ("a", "a/c", "b", "a/b/c"):
            with pytest.raises(KeyNotFound) as caught:
                store.get(key)
            assert caught.value.context == {"key": key}
            with pytest.raises(KeyNotFound):
                store.open(key)
            with pytest.raises(KeyNotFound):
                store.size(key)
            with pytest.raises(KeyNotFound):
                store.stat(key)
            with pytest.raises(KeyNotFound):
                store.download(key, tmp_path / "file")
            store.delete(key)
        assert list(store.list()) == ["a/b"]

    def test_an_empty_place_has_nothing(self, store: ObjectStore) -> None:
        assert list(store.list()) == []
        assert list(store.list("log/")) == []
        store.delete("nothing")

    def test_list_by_prefix_in_order(self, store: ObjectStore) -> None:
        keys = ["b", "a/1", "a/10", "a/2", "a/2-x/y", "a-b", "ab"]
        for key in keys:
            store.put(key, b"")
        assert list(store.list()) == sorted(keys)
        assert list(store.list("a/")) == ["a/1", "a/10", "a/2", "a/2-x/y"]
        assert list(store.list("a/1")) == ["a/1", "a/10"]
        assert list(store.list("a/", after="a/10")) == ["a/2", "a/2-x/y"]
        assert list(store.list("c")) == []

    @pytest.mark.parametrize("seed", range(3))
    def test_lists_are_in_the_order_of_code_points_wherever_they_start(
        self, store: ObjectStore, again: ObjectStore, seed: int
    ) -> None:
        chance = random.Random(seed)
        keys: set[str] = set()
        while len(keys) < 14:
            segments = [chance.choice("a_0b") + chance.choice(["", "-", ".", "a"]) for _ in range(chance.randint(1, 3))]
            key = "/".join(segments)
            # On a disk, a key cannot be the folder of another.
            if not any(other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in keys):
                keys.add(key)
        for key in keys:
            store.put(key, b"")
        for _ in range(40):
            known, place = chance.choice(sorted(keys)), chance.choice(sorted(keys))
            prefix = known[: chance.randint(0, len(known))]
            after = place[: chance.randint(0, len(place))]
            expected = sorted(key for key in keys if key.startswith(prefix) and key > after)
            assert list(again.list(prefix, after)) == expected, (prefix, after)

    def test_a_stream_that_breaks_leaves_nothing(self, store: ObjectStore) -> None:
        def chunks() -> Iterator[bytes]:
            yield b"x" * 100_000
            raise RuntimeError("the client went away")

        store.put("kept", b"old")
        for key in ("new", "kept"):
            with pytest.raises(RuntimeError, match="went away"):
                store.put(key, chunks())
        assert list(store.list()) == ["kept"]
        assert store.get("kept") == b"old"

    def test_a_stream_is_stored(self, store: ObjectStore) -> None:
        store.put("key", (bytes([number]) * 1000 for number in range(10)))
        assert store.get("key") == b"".join(bytes([number]) * 1000 for number in range(10))

    def test_one_of_many_creates_wins(self, store: ObjectStore, again: ObjectStore) -> None:
        wins: list[tuple[int, int]] = []

        def race(writer: int) -> None:
            place = store if writer % 2 else again
            for key in range(20):
                try:
                    place.create(f"race/{key}", str(writer).encode())
                except KeyExists:
                    continue
                wins.append((key, writer))

        threads = [threading.Thread(target=race, args=(writer,)) for writer in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(key for key, _ in wins) == list(range(20))
        assert all(store.get(f"race/{key}") == str(writer).encode() for key, writer in wins)

    def test_readers_see_one_value_or_the_other(self, store: ObjectStore, again: ObjectStore) -> None:
        values = {b"a" * 300_000, b"b" * 200_000}
        store.put("key", min(values))
        done = threading.Event()

        def write() -> None:
            for _ in range(15):
                for value in values:
                    store.put("key", value)
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not done.is_set():
            assert again.get("key") in values
        writer.join()

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_keys_that_no_store_takes(self, store: ObjectStore, key: str) -> None:
        for call in (
            store.get,
            store.open,
            store.size,
            store.stat,
            store.local_path,
            store.delete,
            lambda k: store.put(k, b""),
            lambda k: store.create(k, b""),
        ):
            with pytest.raises(InvalidField):
                call(key)
        assert list(store.list()) == []
