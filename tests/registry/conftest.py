"""A registry with Ray and without: the same tests run over both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compute import Config
from registry import ModelRegistry, get_model_registry
from registry.actor import NAMESPACE, actor_name


@pytest.fixture
def actor_registry(ray_cluster: str, config: Config) -> Iterator[ModelRegistry]:
    """The registry through its detached actor, which ends with the test."""
    import ray

    yield get_model_registry(config)
    try:
        handle = ray.get_actor(actor_name(config.storage.uri), namespace=NAMESPACE)
    except ValueError:  # the test did not get as far as to start it
        return
    ray.kill(handle)


@pytest.fixture
def local_registry(config: Config, monkeypatch: pytest.MonkeyPatch) -> ModelRegistry:
    """The registry without Ray, to which other tests of this session may have connected this process."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return get_model_registry(config)


@pytest.fixture(params=["in-process", "actor"])
def registry(request: pytest.FixtureRequest) -> ModelRegistry:
    """Both ways to the registry, one after the other."""
    made: ModelRegistry = request.getfixturevalue(
        "local_registry" if request.param == "in-process" else "actor_registry"
    )
    return made
