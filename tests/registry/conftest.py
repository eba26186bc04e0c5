"""A registry with Ray and without: the same tests run over both."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from compute import Config
from registry import ModelRegistry, ObjectStore, get_model_registry, open_store
from registry.actor import NAMESPACE, actor_name
from tests.seaweed import SeaweedServer

_OVER_S3 = ("test_registry_processes.py",)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs an actor over one store in `make test`: S3 where processes share it, else a directory.

    What an actor adds to the registry in this process does not depend on the store, and what S3 adds is seen without.
    `make test-slow` has the rest.
    """
    for item in items:
        values = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        on_ray = "ray_cluster" in getattr(item, "fixturenames", ()) or values.get("registry") == "actor"
        left_out = "directory" if item.path.name in _OVER_S3 else "s3"
        if on_ray and values.get("config") == left_out:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["directory", "s3"])
def config(request: pytest.FixtureRequest, config: Config) -> Config:
    """The shared configuration, its state in a directory and on S3: what takes it runs over both stores."""
    if request.param == "directory":
        return config
    server: SeaweedServer = request.getfixturevalue("s3_server")
    on_s3 = server.config(config, f"t-{uuid.uuid4().hex}")
    # The tests of several processes ask at once for what another was just told.
    return on_s3.model_copy(update={"storage": on_s3.storage.model_copy(update={"read_staleness": 0.0})})


@pytest.fixture
def store(config: Config) -> ObjectStore:
    """The store of the configuration."""
    return open_store(config.storage.uri, config)


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
def registry(request: pytest.FixtureRequest, config: Config) -> ModelRegistry:
    """Both ways to the registry, one after the other, each over both stores."""
    made: ModelRegistry = request.getfixturevalue(
        "local_registry" if request.param == "in-process" else "actor_registry"
    )
    return made
