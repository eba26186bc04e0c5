"""What references stand for: a change by anyone is noticed in time, and one question serves all that are in use."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from sklearn.linear_model import LinearRegression

from compute import Config
from compute.errors import ModelNotFound, StorageError
from deployments.resolving import Resolving
from registry import ModelRegistry

TTL = 0.4


class Watched(ModelRegistry):
    """Counts what it is asked, and fails on demand."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.asked: Counter[str] = Counter()
        self.away: set[str] = set()

    def _called(self, method: str) -> None:
        self.asked[method] += 1
        if method in self.away:
            raise StorageError("the store is away")

    def resolve(self, reference: str) -> Any:
        self._called("resolve")
        return super().resolve(reference)

    def changes(self, after: str | None = None, limit: int = 100, wait: float = 0.0) -> Any:
        self._called("changes")
        return super().changes(after, limit, wait)


@pytest.fixture
def registry(config: Config) -> Watched:
    return Watched(config)


def _register(registry: ModelRegistry, name: str) -> str:
    return registry.register_model(LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]), "linear", name=name)


async def _use(resolving: Resolving, references: list[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for reference in references:
            await resolving.get(reference)
        await asyncio.sleep(0.01)


async def _until(resolving: Resolving, reference: str, wanted: str | type[Exception]) -> float:
    """Ask until the answer is this one, and return how long that took."""
    began = time.monotonic()
    while time.monotonic() - began < 10:
        try:
            found: str | type[Exception] = (await resolving.get(reference)).model_id
        except ModelNotFound as error:
            found = type(error)
        if found == wanted:
            return time.monotonic() - began
        await asyncio.sleep(0.005)
    raise AssertionError(f"{reference} is still {found}")


def test_many_names_in_use_are_resolved_once_and_one_question_follows_them_all(registry: Watched) -> None:
    names = [f"line-{number}" for number in range(20)]
    for name in names:
        _register(registry, name)

    async def main() -> None:
        resolving = Resolving(registry, ttl=TTL, grace=0)
        await _use(resolving, names, 1.0)  # those that came before the first position are read a second time
        registry.asked.clear()
        await _use(resolving, names, 5 * TTL)
        assert registry.asked["resolve"] == 0
        assert 5 <= registry.asked["changes"] <= 30

    asyncio.run(main())


def test_a_change_by_another_process_is_noticed_in_time(registry: Watched, config: Config) -> None:
    other = ModelRegistry(config)
    first, second = _register(other, "line"), _register(other, "line")
    _register(other, "liner")

    async def main() -> None:
        resolving = Resolving(registry, ttl=TTL, grace=0)
        await _until(resolving, "line@best", ModelNotFound)
        await _use(resolving, ["line", "line:1", "liner"], 3 * TTL)
        registry.asked.clear()
        other.set_alias("line", "champion", 1)
        assert await _until(resolving, "line", first) < TTL + 0.1
        other.set_alias("line", "best", 2)
        assert await _until(resolving, "line@best", second) < TTL + 0.1
        other.delete_model(first, force=True)
        assert await _until(resolving, "line:1", ModelNotFound) < TTL + 0.1
        await resolving.get("liner")
        assert registry.asked["resolve"] == 3  # the references that changed, and no other

    asyncio.run(main())


def test_where_changes_cannot_be_asked_for_each_reference_is_asked_for_in_time(
    registry: Watched, config: Config
) -> None:
    first, second = _register(registry, "line"), _register(registry, "line")

    async def main() -> None:
        resolving = Resolving(registry, ttl=TTL, grace=0)
        await _until(resolving, "line", second)
        registry.away.add("changes")
        await _use(resolving, ["line"], 2 * TTL)
        ModelRegistry(config).set_alias("line", "champion", 1)
        assert await _until(resolving, "line", first) < TTL + 0.1
        registry.away.clear()
        await _use(resolving, ["line"], 2 * TTL)  # it is followed again
        ModelRegistry(config).set_alias("line", "champion", 2)
        assert await _until(resolving, "line", second) < TTL + 0.1

    asyncio.run(main())


def test_what_was_confirmed_lately_is_answered_for_while_the_registry_is_away(registry: Watched) -> None:
    known = _register(registry, "line")

    async def main() -> None:
        resolving = Resolving(registry, ttl=0.2, grace=1.0)
        await _use(resolving, ["line"], 2.0)  # longer than the grace: it is the last confirmation that counts
        registry.away |= {"changes", "resolve"}
        await asyncio.sleep(0.3)
        assert (await resolving.get("line")).model_id == known
        await asyncio.sleep(1.0)
        with pytest.raises(StorageError):
            await resolving.get("line")

    asyncio.run(main())


def test_nobody_asks_for_changes_once_requests_have_ended(registry: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.resolving._IDLE", 0.3)
    first, second = _register(registry, "line"), _register(registry, "line")

    async def main() -> None:
        resolving = Resolving(registry, ttl=TTL, grace=0)
        await _use(resolving, ["line"], 2 * TTL)
        await asyncio.sleep(0.3 + 2 * TTL)
        registry.asked.clear()
        await asyncio.sleep(2 * TTL)
        assert not registry.asked
        registry.set_alias("line", "champion", 1)  # what happens meanwhile is not missed
        assert (await resolving.get("line")).model_id == first
        assert second != first

    asyncio.run(main())
