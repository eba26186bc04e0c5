"""Values kept for a moment."""

from __future__ import annotations

import asyncio
import time

import pytest

from compute.errors import ModelNotFound, StorageError
from deployments.freshness import Fresh


class Source:
    """Counts its readers, and fails on demand."""

    def __init__(self) -> None:
        self.reads = 0
        self.seconds = 0.0
        self.value: object = "first"

    async def read(self, key: str) -> str:
        self.reads += 1
        value = self.value
        await asyncio.sleep(self.seconds)
        if isinstance(value, Exception):
            raise value
        return f"{key}={value}"


def test_callers_at_once_share_one_read_and_later_ones_the_answer() -> None:
    async def main() -> None:
        source = Source()
        source.seconds = 0.05
        fresh: Fresh[str, str] = Fresh(source.read, ttl=10)
        assert await asyncio.gather(*(fresh.get("a") for _ in range(20))) == ["a=first"] * 20
        assert await fresh.get("a") == "a=first"
        assert source.reads == 1
        assert await fresh.get("b") == "b=first"
        assert source.reads == 2

    asyncio.run(main())


def test_no_answer_is_older_than_the_limit_and_a_busy_key_does_not_wait() -> None:
    async def main() -> None:
        source = Source()
        fresh: Fresh[str, str] = Fresh(source.read, ttl=0.2)
        await fresh.get("a")
        source.value = "second"
        source.seconds = 0.05
        changed = time.monotonic()
        slowest = 0.0
        while True:
            started = time.monotonic()
            value = await fresh.get("a")
            slowest = max(slowest, time.monotonic() - started)
            if value == "a=second":
                break
            assert started - changed < 0.2
            await asyncio.sleep(0.005)
        assert slowest < 0.04  # nobody waited for the 0.05 s of the read
        await asyncio.sleep(0.25)
        source.value = "third"
        assert await fresh.get("a") == "a=third"

    asyncio.run(main())


def test_that_there_is_none_is_remembered_and_a_failing_source_is_not() -> None:
    async def main() -> None:
        source = Source()
        fresh: Fresh[str, str] = Fresh(source.read, ttl=0.1)
        source.value = ModelNotFound("no model 'a'")
        for _ in range(3):
            with pytest.raises(ModelNotFound):
                await fresh.get("a")
        assert source.reads == 1
        source.value = StorageError("the disk is gone")
        for key in ("b", "b", "c"):
            with pytest.raises(StorageError):
                await fresh.get(key)
        assert source.reads == 4
        source.value = "here"
        assert await fresh.get("b") == "b=here"
        await asyncio.sleep(0.11)
        assert await fresh.get("a") == "a=here"

    asyncio.run(main())


def test_a_known_value_outlasts_its_source_for_the_grace_and_no_longer() -> None:
    async def main() -> None:
        for grace in (0.0, 0.3):
            source = Source()
            fresh: Fresh[str, str] = Fresh(source.read, ttl=0.05, grace=grace)
            assert await fresh.get("a") == "a=first"
            source.value = StorageError("away")
            await asyncio.sleep(0.06)
            if grace:
                assert await fresh.get("a") == "a=first"
                await asyncio.sleep(grace)
            with pytest.raises(StorageError):
                await fresh.get("a")
            source.value = "back"
            assert await fresh.get("a") == "a=back"

    asyncio.run(main())


def test_a_caller_that_goes_away_takes_the_answer_from_nobody() -> None:
    async def main() -> None:
        source = Source()
        source.seconds = 0.05
        fresh: Fresh[str, str] = Fresh(source.read, ttl=10)
        first = asyncio.create_task(fresh.get("a"))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(fresh.get("a"))
        first.cancel()
        assert await second == "a=first"
        assert source.reads == 1

    asyncio.run(main())


def test_what_is_forgotten_is_read_anew_even_while_a_read_is_under_way() -> None:
    async def main() -> None:
        source = Source()
        source.seconds = 0.05
        fresh: Fresh[str, str] = Fresh(source.read, ttl=10)
        early = asyncio.create_task(fresh.get("a"))
        await asyncio.sleep(0.01)
        source.value = "second"
        fresh.forget("a")
        assert await fresh.get("a") == "a=second"
        assert await early == "a=first"
        assert await fresh.get("a") == "a=second"

    asyncio.run(main())


def test_the_number_of_keys_is_bounded_and_the_one_unused_for_longest_goes() -> None:
    async def main() -> None:
        source = Source()
        fresh: Fresh[str, str] = Fresh(source.read, ttl=10, limit=2)
        for key in ("a", "b", "a", "c", "a", "c"):
            await fresh.get(key)
        assert source.reads == 3
        await fresh.get("b")
        assert source.reads == 4

    asyncio.run(main())
