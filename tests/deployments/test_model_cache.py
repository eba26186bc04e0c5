"""The models that a replica holds."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from types import ModuleType

import pytest

from compute import Config
from compute.errors import StorageError
from deployments.model_cache import ModelCache
from deployments.scoring import Scorer
from registry import LoadedModel, ModelRecord, ModelRegistry

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _record(number: int, size: int = 100, digest: int | None = None) -> ModelRecord:
    return ModelRecord.model_validate(
        {
            "model_id": f"m-{number}",
            "name": "n",
            "version": number + 1,
            "model_type": "linear",
            "format": "sklearn-skops",
            "artifact": {"digest": f"sha256:{digest if digest is not None else number:064x}", "size": size},
            "created_at": NOW,
            "updated_at": NOW,
        }
    )


class Loader:
    """Loads models, slowly where asked, and counts."""

    def __init__(self) -> None:
        self.loads: Counter[str] = Counter()
        self.gates: dict[str, threading.Event] = {}
        self.failures: Counter[str] = Counter()

    def __call__(self, record: ModelRecord) -> LoadedModel:
        from sklearn.linear_model import LinearRegression

        model_id = record.model_id
        self.loads[model_id] += 1
        if model_id in self.gates:
            assert self.gates[model_id].wait(10)
        if self.failures[model_id]:
            self.failures[model_id] -= 1
            raise StorageError("the disk is gone")
        return LoadedModel(LinearRegression(), record)


def test_a_model_is_loaded_once_however_many_ask_at_once() -> None:
    record = _record(1)
    loader = Loader()
    loader.gates["m-1"] = threading.Event()

    async def main() -> None:
        cache = ModelCache(loader, max_bytes=10**6, max_models=10)
        waiting = [asyncio.create_task(cache.get(record)) for _ in range(50)]
        await asyncio.sleep(0.05)
        waiting[0].cancel()  # the one that began the load goes away
        loader.gates["m-1"].set()
        models = await asyncio.gather(*waiting[1:])
        assert len({id(model) for model in models}) == 1
        assert await cache.get(record) is models[0]
        assert loader.loads == {"m-1": 1}

    asyncio.run(main())


def test_a_slow_load_holds_up_nobody_else() -> None:
    slow, quick = _record(1), _record(2)
    loader = Loader()
    loader.gates["m-1"] = threading.Event()

    async def main() -> None:
        cache = ModelCache(loader, max_bytes=10**6, max_models=10)
        waiting = asyncio.create_task(cache.get(slow))
        await asyncio.sleep(0.02)
        started = time.monotonic()
        await asyncio.wait_for(cache.get(quick), 5)
        await asyncio.wait_for(cache.get(quick), 5)
        assert time.monotonic() - started < 5
        assert not waiting.done()
        loader.gates["m-1"].set()
        assert (await waiting).record == slow

    asyncio.run(main())


def test_full_garbage_collections_pass_over_libraries_that_a_load_imported() -> None:
    async def main() -> None:
        cache = ModelCache(Loader(), max_bytes=10**6, max_models=10)
        await cache.get(_record(1))
        frozen = gc.get_freeze_count()
        assert frozen > 10_000
        await cache.get(_record(2))  # nothing new
        assert gc.get_freeze_count() <= frozen
        sys.modules["imported_by_a_load"] = ModuleType("imported_by_a_load")
        kept = [[number] for number in range(1_000)]
        try:
            await cache.get(_record(3))
        finally:
            del sys.modules["imported_by_a_load"]
        assert gc.get_freeze_count() > frozen
        assert len(kept) == 1_000

    try:
        asyncio.run(main())
    finally:
        gc.unfreeze()


def test_a_failed_load_is_told_to_all_who_wait_and_tried_again_by_the_next() -> None:
    record = _record(1)
    loader = Loader()
    loader.failures["m-1"] = 1

    async def main() -> None:
        cache = ModelCache(loader, max_bytes=10**6, max_models=10)
        outcomes = await asyncio.gather(*(cache.get(record) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageError] * 3
        assert (await cache.get(record)).record == record
        assert loader.loads == {"m-1": 2}

    asyncio.run(main())


@pytest.mark.parametrize(("max_bytes", "max_models"), [(250, 10), (10**6, 2)])
def test_the_model_unused_for_longest_goes_first(max_bytes: int, max_models: int) -> None:
    records = [_record(number) for number in range(3)]
    loader = Loader()

    async def main() -> None:
        cache = ModelCache(loader, max_bytes=max_bytes, max_models=max_models)
        for number in (0, 1, 0, 2, 0, 2):
            await cache.get(records[number])
            assert len(cache) <= 2
        assert loader.loads == {"m-0": 1, "m-1": 1, "m-2": 1}
        await cache.get(records[1])
        assert loader.loads["m-1"] == 2
        await cache.get(records[0])
        assert loader.loads["m-0"] == 2

    asyncio.run(main())


def test_a_pinned_model_stays_whatever_else_is_asked() -> None:
    records = [_record(number) for number in range(4)]
    loader = Loader()

    async def main() -> None:
        cache = ModelCache(loader, max_bytes=250, max_models=10)
        await cache.get(records[0])
        cache.pinned = frozenset({"m-0"})
        for number in (1, 2, 3, 0, 1, 2):
            await cache.get(records[number])
            assert len(cache) <= 2
        assert loader.loads["m-0"] == 1
        cache.pinned = frozenset({"m-0", "m-2"})
        await cache.get(records[3])  # more is pinned than fits: the one that is asked for comes on top
        assert len(cache) == 3
        cache.pinned = frozenset()
        await cache.get(records[1])
        assert len(cache) == 2

    asyncio.run(main())


def test_what_is_pinned_by_name_is_loaded_at_once_and_follows_its_alias(config: Config) -> None:
    from sklearn.linear_model import LinearRegression

    registry = ModelRegistry(config)
    model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    ids = [registry.register_model(model, "linear", name="line") for _ in range(2)]
    registry.set_alias("line", "champion", 1)
    scorer = Scorer(registry, max_models=1, ttl=0.05)

    async def main() -> None:
        holding = asyncio.create_task(scorer.hold(["never-made", "line"]))

        async def pinned(model_id: str) -> None:
            while scorer.models.pinned != {model_id}:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(pinned(ids[0]), 10)
        assert len(scorer.models) == 1
        registry.set_alias("line", "champion", 2)
        await asyncio.wait_for(pinned(ids[1]), 10)
        holding.cancel()

    asyncio.run(main())


def test_a_model_larger_than_the_budget_is_held_alone() -> None:
    records = [_record(0), _record(1, size=10**9)]
    loader = Loader()

    async def main() -> None:
        cache = ModelCache(loader, max_bytes=1000, max_models=10)
        for number in (0, 1, 1):
            await cache.get(records[number])
        assert (len(cache), loader.loads["m-1"]) == (1, 1)
        await cache.get(records[0])
        assert len(cache) == 1

    asyncio.run(main())


def test_two_models_never_share_what_is_loaded_even_with_the_same_bytes() -> None:
    records = [_record(0, digest=7), _record(1, digest=7)]
    loader = Loader()

    async def main() -> None:
        cache = ModelCache(loader, max_bytes=10**6, max_models=10)
        assert [(await cache.get(record)).record for record in records] == records

    asyncio.run(main())


def test_answers_get_the_interpreter_back_soon_while_models_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.model_cache._LINGER", 0.05)
    usual = sys.getswitchinterval()

    async def main() -> None:
        loader = Loader()
        loader.gates = {"m-0": threading.Event(), "m-1": threading.Event()}
        loader.failures["m-1"] = 1
        cache = ModelCache(loader, max_bytes=10**6, max_models=10)
        loads = [asyncio.create_task(cache.get(_record(number))) for number in range(2)]
        await asyncio.sleep(0.1)
        assert sys.getswitchinterval() < usual
        loader.gates["m-0"].set()
        await loads[0]
        await asyncio.sleep(0.1)
        assert sys.getswitchinterval() < usual
        loader.gates["m-1"].set()
        with pytest.raises(StorageError):
            await loads[1]
        await asyncio.sleep(0.2)
        assert sys.getswitchinterval() == pytest.approx(usual)

    asyncio.run(main())
    assert sys.getswitchinterval() == pytest.approx(usual)
