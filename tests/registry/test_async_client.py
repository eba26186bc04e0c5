"""The registry from an event loop: the same as from a thread, and the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import subprocess
import sys
import time
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from compute import Config
from compute.errors import ModelNotFound, RevisionMismatch
from registry import AsyncModelRegistry, ModelRegistry, get_async_model_registry
from tests.registry.test_registry import EXAMPLE, FRAME, MODEL, register

T = TypeVar("T")

pytestmark = pytest.mark.parametrize("config", ["directory"], indirect=True)


async def ticking(work: Awaitable[T]) -> tuple[T, float]:
    """Await something; returns also the longest time that the loop stood still."""
    longest, before = 0.0, time.monotonic()
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.sleep(0.01)
        now = time.monotonic()
        longest, before = max(longest, now - before), now
    return await task, longest


def test_it_has_every_method_with_its_signature(config: Config) -> None:
    public = {name: method for name, method in vars(ModelRegistry).items() if not name.startswith("_")}
    assert len(public) >= 14
    for name, method in public.items():
        coroutine = getattr(AsyncModelRegistry, name)
        assert inspect.iscoroutinefunction(coroutine)
        assert inspect.signature(coroutine) == inspect.signature(method)
        assert coroutine.__doc__ == method.__doc__


def test_the_life_of_a_model(registry: ModelRegistry, config: Config) -> None:
    async def life(models: AsyncModelRegistry) -> None:
        ids = await asyncio.gather(
            *(models.register_model(MODEL, "linear", name="line", example=FRAME, **EXAMPLE) for _ in range(8))
        )
        records = await asyncio.gather(*map(models.get_model, ids))
        assert sorted(record.version for record in records) == list(range(1, 9))
        changed = await models.update_model_metadata(ids[0], {"status": "archived"}, revision=1)
        with pytest.raises(RevisionMismatch):
            await models.update_model_metadata(ids[0], {"status": "active"}, revision=1)
        assert (await models.search_models('status = "archived"')).models == [changed]
        champion = await models.set_alias("line", "champion", 3)
        assert (await models.load_model("line@champion")).record == champion == await models.resolve("line")
        assert len(await models.list_models(name="line", limit=5)) == 5
        await models.delete_model(ids[1], force=True)
        [deleted] = await models.list_deleted()
        assert (await models.restore_model(deleted.record.model_id)).model_id == ids[1]
        assert (await models.collect(dry_run=True)).models == 0
        with pytest.raises(ModelNotFound):
            await models.get_model("m-" + "0" * 32)

    asyncio.run(life(pickle.loads(pickle.dumps(get_async_model_registry(config)))))


def test_the_loop_goes_on_and_waits_can_be_cancelled(registry: ModelRegistry, config: Config) -> None:
    async def watch(models: AsyncModelRegistry) -> None:
        begin = (await models.changes()).position
        waiting = [asyncio.ensure_future(models.changes(begin, wait=20)) for _ in range(70)]
        await asyncio.sleep(0.2)
        # More wait than there are threads, and yet others are answered.
        model_id, stood_still = await ticking(models.register_model(MODEL, "linear", name="line", example=FRAME))
        assert stood_still < 1
        page = await asyncio.wait_for(waiting[0], 10)
        assert [(change.kind, change.model_id) for change in page.changes] == [("model.registered", model_id)]
        late = asyncio.ensure_future(models.changes(page.position, wait=5))
        await asyncio.sleep(0.05)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await models.update_model_metadata(model_id, {"x": 1})
        await models.update_model_metadata(model_id, {"y": 1})  # whatever became of the other
        assert (await models.get_model(model_id)).metadata in ({"y": 1}, {"x": 1, "y": 1})
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(watch(get_async_model_registry(config)))


_OTHER_APPLICATION = """
import asyncio, sys, ray
from compute import load_config
from registry import get_async_model_registry, get_model_registry
ray.init(address=sys.argv[1], namespace="another", log_to_driver=False)
config = load_config()
config = config.model_copy(update={"storage": config.storage.model_copy(update={"uri": sys.argv[2]})})
print(get_model_registry(config).resolve("line").model_id)
print(asyncio.run(get_async_model_registry(config).update_model_metadata(sys.argv[3], {"from": "another"})).revision)
"""


@pytest.mark.slow
def test_it_is_one_registry_from_everywhere(actor_registry: ModelRegistry, ray_cluster: str, config: Config) -> None:
    import ray

    model_id = register(actor_registry)

    @ray.remote(num_cpus=0)
    class Replica:
        """As Serve makes them: its methods share a loop."""

        def __init__(self, models: AsyncModelRegistry) -> None:
            self.models = models

        async def update(self, number: int) -> int:
            record = await self.models.update_model_metadata(model_id, {f"replica {number}": number})
            return record.revision

        async def standing_still(self) -> float:
            begin = (await self.models.changes()).position
            return (await ticking(self.models.changes(begin, wait=1)))[1]

    @ray.remote(num_cpus=0.1)
    def task(models: AsyncModelRegistry) -> int:
        return asyncio.run(models.update_model_metadata(model_id, {"from": "a task"})).revision

    models = get_async_model_registry(config)
    replica = Replica.remote(models)
    revisions = ray.get([replica.update.remote(number) for number in range(10)])
    assert sorted(revisions) == list(range(2, 12))
    assert ray.get(replica.standing_still.remote()) < 0.5
    assert ray.get(task.remote(models)) == 12
    arguments = [sys.executable, "-c", _OTHER_APPLICATION, ray_cluster, config.storage.uri, model_id]
    other = subprocess.run(arguments, capture_output=True, text=True, timeout=100)
    assert other.stdout.split() == [model_id, "13"], other.stderr
    assert actor_registry.get_model(model_id).revision == 13
    ray.kill(replica)
