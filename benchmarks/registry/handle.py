"""A record by its id through a Ray handle, beside a call of an actor that does nothing."""

from __future__ import annotations

from benchmarks.registry.population import draft
from benchmarks.table import Row, in_turns
from compute import Config
from registry import get_model_registry
from registry.actor import NAMESPACE, RemoteCatalog, actor_name

_CALLS = 1_000
_TARGET = 1.3


class Nothing:
    """An actor without work."""

    def nothing(self) -> None:
        """Do nothing."""


def through_actor(config: Config, *, quick: bool) -> list[Row]:
    """Measure with Ray connected."""
    import ray

    model_id = RemoteCatalog(config).register(draft(0)).model_id
    kept = ray.get_actor(actor_name(config.storage.uri), namespace=NAMESPACE)
    empty = ray.remote(Nothing).options(num_cpus=0).remote()
    threaded = ray.remote(Nothing).options(num_cpus=0, max_concurrency=64).remote()
    registry = get_model_registry(config)
    seconds = in_turns(
        {
            "empty": lambda: ray.get(empty.nothing.remote()),
            "threaded": lambda: ray.get(threaded.nothing.remote()),
            "get": lambda: ray.get(kept.get.remote(model_id)),
            "client": lambda: registry.get_model(model_id),
        },
        100 if quick else _CALLS,
    )
    for actor in (empty, threaded):
        ray.kill(actor)
    names = {
        "empty": "a call of an empty actor",
        "threaded": "a call of an empty actor with threads",
        "get": "get by id through the handle",
        "client": "registry.get_model: that, and the record made of it",
    }
    return [
        Row(
            name,
            seconds[key] * 1e6,
            "us",
            None if key == "empty" else seconds[key] / seconds["empty"],
            _TARGET if key == "get" else None,
        )
        for key, name in names.items()
    ]
