"""Several processes at one store, and an actor that is killed in the middle: nothing is lost, nothing given twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

import pytest

from compute import Config
from compute.errors import ComputeError
from registry import ModelRecord, ModelRegistry, get_model_registry, open_store
from registry.actor import NAMESPACE, ModelActor, RemoteCatalog, actor_name
from registry.catalog import ModelCatalog
from registry.models import Draft, new_id
from registry.records import Artifact
from tests.environment import environment

ARTIFACT = Artifact(digest="sha256:" + "0" * 64, size=1)


def draft(name: str = "line", **fields: Any) -> Draft:
    return Draft(model_id=new_id(), name=name, model_type="t", format="xgboost-ubj", artifact=ARTIFACT, **fields)


_WRITER = """
import sys
from compute import load_config
from registry import open_store
from registry.catalog import ModelCatalog
from tests.registry.test_registry_processes import draft
from registry.models import new_id
config = load_config()
catalog = ModelCatalog(open_store(config.storage.uri, config), snapshot_every=20)
shared = sys.argv[1]
for number in range(int(sys.argv[2])):
    record = catalog.register(draft(f"n{number % 2}"))
    catalog.update(record.model_id, {"status": "archived"}, record.revision, new_id())
    while True:  # a counter that all add to, by optimistic concurrency
        seen = catalog.get(shared)
        try:
            catalog.update(shared, {"count": seen.metadata.get("count", 0) + 1}, seen.revision, new_id())
            break
        except Exception as error:
            assert error.code == "revision-mismatch", error
    if number % 3 == 0:
        catalog.delete(record.model_id, None, new_id(), force=False)
    print(record.model_id, record.name, record.version, number % 3 == 0, flush=True)
"""


@pytest.mark.slow
def test_processes_share_a_store_without_losing_an_update(config: Config) -> None:
    catalog = ModelCatalog(open_store(config.storage.uri, config))
    shared = catalog.register(draft("shared")).model_id
    count, rounds = 4, 20
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _WRITER, shared, str(rounds)],
            env=environment(config),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    lines = [line.split() for process in processes for line in process.communicate(timeout=120)[0].splitlines()]
    assert [process.returncode for process in processes] == [0] * count
    assert len(lines) == count * rounds
    for name in ("n0", "n1"):
        versions = sorted(int(version) for _, its, version, _ in lines if its == name)
        assert versions == list(range(1, count * rounds // 2 + 1))
    assert catalog.get(shared).metadata == {"count": count * rounds}
    assert catalog.get(shared).revision == count * rounds + 1
    kept = {model_id for model_id, _, _, deleted in lines if deleted == "False"}
    for reader in (catalog, ModelCatalog(open_store(config.storage.uri, config))):
        records = reader.list()
        assert {record.model_id for record in records} == {*kept, shared}
        assert all(
            record.status == "archived" and record.revision == 2 for record in records if record.model_id != shared
        )
    assert [r.model_dump() for r in catalog.list()] == [r.model_dump() for r in reader.list()]


unpack = ModelRecord.model_validate_json


def actor_pid(catalog: RemoteCatalog) -> int:
    import ray

    pid: int = ray.get(catalog._find().pid.remote())
    return pid


@pytest.fixture
def remote(actor_registry: ModelRegistry, config: Config) -> RemoteCatalog:
    return RemoteCatalog(config)


def test_an_actor_that_is_killed_loses_nothing(remote: RemoteCatalog) -> None:
    """Every acknowledged write is there, once; every other one wholly or not at all; and the next call works."""
    shared = remote.register(draft("shared")).model_id
    acknowledged: list[tuple[str, int]] = []
    failures: list[ComputeError] = []
    stop = threading.Event()

    def write(writer: int) -> None:
        while not stop.is_set():
            try:
                record = remote.register(draft(f"n{writer % 2}", tags=(f"w{writer}",)))
                remote.update(shared, {f"w{writer}": record.version}, None, new_id())
            except ComputeError as error:
                failures.append(error)
                return
            acknowledged.append((record.model_id, record.version))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    killed = []
    for _ in range(3):
        before = len(acknowledged)
        while len(acknowledged) < before + 12 and not failures:
            time.sleep(0.01)
        killed.append(actor_pid(remote))
        os.kill(killed[-1], signal.SIGKILL)
        started = time.monotonic()
        assert remote.get(shared).model_id == shared
        assert time.monotonic() - started < 60
    stop.set()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    assert failures == []
    assert len(set(killed)) == 3
    found = {record.model_id: record for record in remote.list() if record.model_id != shared}
    assert len(found) == len(acknowledged)  # each call was answered in the end, so each is there, and none twice
    assert all(found[model_id].version == version for model_id, version in acknowledged)
    for name in ("n0", "n1"):
        versions = sorted(record.version for record in found.values() if record.name == name)
        assert versions == list(range(1, len(versions) + 1))
    assert Counter(record.tags for record in found.values()).total() == len(acknowledged)


@pytest.mark.slow
def test_an_actor_that_is_gone_for_good_is_replaced(remote: RemoteCatalog) -> None:
    import ray

    record = remote.register(draft())
    ray.kill(remote._find(), no_restart=True)
    assert remote.get(record.model_id) == record
    assert remote.register(draft()).version == 2


def test_two_actors_at_one_store_agree(remote: RemoteCatalog, config: Config) -> None:
    """As after a network split: neither is told of the other, and each sees what the other was acknowledged."""
    import ray

    other = ray.remote(ModelActor).options(num_cpus=0, max_concurrency=8).remote(config)
    versions = []
    for number in range(10):
        versions.append(remote.register(draft()).version)
        record = unpack(ray.get(other.register.remote(draft().model_dump_json().encode())))
        versions.append(record.version)
        assert remote.get(record.model_id) == record
        assert unpack(ray.get(other.update.remote(record.model_id, {"n": number}, 1, new_id()))) == remote.get(
            record.model_id
        )
    assert versions == list(range(1, 21))
    assert [r.model_dump(mode="json") for r in remote.list()] == json.loads(ray.get(other.list.remote()))
    ray.kill(other)


def test_the_actor_serves_tasks_and_other_namespaces(actor_registry: ModelRegistry, config: Config) -> None:
    import ray

    model_id = RemoteCatalog(config).register(draft()).model_id

    @ray.remote(num_cpus=0.1)
    def inside(registry: ModelRegistry) -> tuple[int, int]:
        registry.update_model_metadata(model_id, {"from": "a task"})
        return registry.get_model(model_id).revision, os.getpid()

    revision, pid = ray.get(inside.remote(get_model_registry(config)))
    assert revision == 2
    assert pid != os.getpid()
    handle = ray.get_actor(actor_name(config.storage.uri), namespace=NAMESPACE)
    assert unpack(ray.get(handle.get.remote(model_id))).metadata == {"from": "a task"}


def test_many_callers_at_once_share_entries(remote: RemoteCatalog, config: Config) -> None:
    threads = [threading.Thread(target=lambda: [remote.register(draft()) for _ in range(10)]) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(record.version for record in remote.list()) == list(range(1, 161))
