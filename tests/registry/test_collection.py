"""What is deleted can be restored for a while and is collected then; whatever is named stays readable throughout."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from compute import Config
from compute.errors import ArtifactCondemned, ModelNotFound, StorageError
from registry import CollectionReport, FileStore, ModelRegistry, ObjectStore, open_store
from registry.artifacts import ArtifactStore
from registry.catalog import ModelCatalog
from registry.collection import collect
from registry.maintenance import Maintenance
from registry.models import Draft, new_id
from registry.store import StoredObject
from tests.registry.test_registry import EXAMPLE, register

CONTENTS = [b"first", b"second one", b"the third"]
KEEP = timedelta(days=30)
NOTHING = timedelta(0)


def draft(name: str, data: bytes, artifacts: ArtifactStore, generation: int = 0, **fields: Any) -> Draft:
    artifact = artifacts.write(data, generation)
    return Draft(model_id=new_id(), name=name, model_type="t", format="xgboost-ubj", artifact=artifact, **fields)


class InterruptedStore:
    """A store that lets something happen before one of its changes, the loss of the process for one."""

    def __init__(self, store: ObjectStore, changes: int, interrupt: Callable[[], None]) -> None:
        self._store = store
        self._left = changes
        self._interrupt = interrupt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def scan(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        found = list(self._store.scan(prefix, after))
        self._count()  # what was found may not be what is there any more
        return iter(found)

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        self._count()
        self._store.put(key, data)

    def create(self, key: str, data: bytes) -> None:
        self._count()
        self._store.create(key, data)

    def delete(self, key: str) -> None:
        self._count()
        self._store.delete(key)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._interrupt()


class CollectionMachine(RuleBasedStateMachine):
    """Writers, deleters and collectors at one store; registrations stop between their steps, collectors anywhere."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__()
        self.store = store

    @initialize()
    def start(self) -> None:
        self.artifacts = ArtifactStore(self.store)
        self.catalogs = [ModelCatalog(self.store, snapshot_every=5, keep_deleted=KEEP) for _ in range(2)]
        self.written: list[tuple[Draft, bytes]] = []
        self.expected: dict[str, bytes] = {}
        self.deleted: set[str] = set()
        self.gone: set[str] = set()
        self.newest: dict[str, int] = {}

    def teardown(self) -> None:
        if not hasattr(self, "catalogs"):
            return
        self.finish_registrations()
        for model_id in set(self.expected) - self.deleted:
            self.catalogs[0].delete(model_id, None, new_id(), force=True)
        for _ in range(2):  # whatever was interrupted before, all is freed in the end
            collect(self.catalogs[0].journal, self.store, NOTHING, grace=0)
        assert list(self.store.list("blobs/")) == []
        for catalog in self.catalogs:
            catalog.journal.wait_for_snapshot()

    @rule(name=st.sampled_from("ab"), data=st.sampled_from(CONTENTS))
    def write(self, name: str, data: bytes) -> None:
        """The first step of a registration, in the generation that clients begin with."""
        self.written.append((draft(name, data, self.artifacts), data))

    @rule(count=st.integers(1, 3), writer=st.sampled_from([0, 1]))
    def finish_registrations(self, count: int = 1000, writer: int = 0) -> None:
        """The second step, as the client does it: bytes that were condemned meanwhile are written again."""
        for pending, data in self.written[:count]:
            while True:
                try:
                    record = self.catalogs[writer].register(pending)
                    break
                except ArtifactCondemned as condemned:
                    generation = condemned.context["generation"]
                    artifact = self.artifacts.write(data, generation)
                    pending = pending.model_copy(update={"artifact": artifact})
            assert record.version == self.newest.get(record.name, 0) + 1  # also after older ones were purged
            self.newest[record.name] = record.version
            self.expected[record.model_id] = data
        del self.written[:count]

    @rule(data=st.data(), writer=st.sampled_from([0, 1]))
    def delete(self, data: st.DataObject, writer: int) -> None:
        if alive := sorted(set(self.expected) - self.deleted):
            model_id = data.draw(st.sampled_from(alive))
            self.catalogs[writer].delete(model_id, None, new_id(), force=True)
            self.deleted.add(model_id)

    @rule(data=st.data(), writer=st.sampled_from([0, 1]))
    def restore(self, data: st.DataObject, writer: int) -> None:
        if known := sorted(self.deleted | self.gone):
            model_id = data.draw(st.sampled_from(known))
            if model_id in self.gone:
                with pytest.raises(ModelNotFound):
                    self.catalogs[writer].restore(model_id, new_id())
                return
            self.catalogs[writer].restore(model_id, new_id())
            self.deleted.remove(model_id)

    @rule(over=st.booleans(), writer=st.sampled_from([0, 1]))
    def collect(self, over: bool, writer: int) -> None:
        forecast = collect(self.catalogs[writer].journal, self.store, NOTHING if over else KEEP, dry_run=True, grace=0)
        report = collect(self.catalogs[writer].journal, self.store, NOTHING if over else KEEP, grace=0)
        assert report == forecast.model_copy(update={"dry_run": False})
        assert report.models == (len(self.deleted) if over else 0)
        if over:
            self.purged()
        needed = {data for model_id, data in self.expected.items()}
        blobs = sum(stored.size for stored in self.store.scan("blobs/"))
        assert blobs == sum(map(len, needed))  # each once, and nothing else

    @rule(changes=st.integers(1, 6), over=st.booleans())
    def collect_and_crash(self, changes: int, over: bool) -> None:
        def crash() -> None:
            raise StorageError("the process is gone")

        self.interrupted(changes, crash, over=over)

    @rule(changes=st.integers(1, 6), over=st.booleans(), count=st.integers(1, 3))
    def collect_while_others_register(self, changes: int, over: bool, count: int) -> None:
        self.interrupted(changes, lambda: self.finish_registrations(count, 1), over=over)

    @rule(changes=st.integers(1, 6), over=st.booleans())
    def collect_while_another_collects(self, changes: int, over: bool) -> None:
        self.interrupted(changes, lambda: void(collect(self.catalogs[1].journal, self.store, KEEP, grace=0)), over=over)

    def interrupted(self, changes: int, interrupt: Callable[[], None], *, over: bool) -> None:
        store: Any = InterruptedStore(self.store, changes, interrupt)
        with suppress(StorageError):
            collector = ModelCatalog(store, snapshot_every=1000)
            collect(collector.journal, store, NOTHING if over else KEEP, grace=0)
        if over:  # some were purged, perhaps all
            self.purged(besides={model.record.model_id for model in self.catalogs[0].list_deleted()})

    def purged(self, besides: Iterable[str] = ()) -> None:
        gone = self.deleted.difference(besides)
        self.deleted -= gone
        self.gone |= gone
        for model_id in gone:
            del self.expected[model_id]

    @invariant()
    def what_is_named_can_be_read(self) -> None:
        if not hasattr(self, "catalogs"):
            return
        for catalog in self.catalogs:
            alive = {record.model_id: record for record in catalog.list()}
            deleted = {model.record.model_id: model.record for model in catalog.list_deleted()}
            assert set(alive) == set(self.expected) - self.deleted
            assert set(deleted) == self.deleted
            for model_id, record in {**alive, **deleted}.items():
                assert self.artifacts.read(record.artifact) == self.expected[model_id]


def void(_: object) -> None:
    """Let an expression be a statement."""


def test_what_is_named_can_always_be_read(config: Config) -> None:
    places = (f"{config.storage.uri}/{number}" for number in itertools.count())
    examples = 100 if config.storage.uri.startswith("file:") else 5
    run_state_machine_as_test(
        lambda: CollectionMachine(open_store(next(places), config)),
        settings=settings(max_examples=examples, stateful_step_count=20, deadline=None),
    )


def test_a_deleted_model_comes_back_as_it_was(registry: ModelRegistry) -> None:
    first, second = register(registry, idempotency_key="job-7", **EXAMPLE), register(registry)
    registry.set_alias("line", "champion", 1)
    before = registry.get_model(first)
    registry.delete_model(first, force=True)
    registry.delete_model(second)
    assert [model.record.model_id for model in registry.list_deleted()] == [second, first]
    assert registry.list_deleted("other") == []
    [_, deleted] = registry.list_deleted("line")
    assert deleted.restorable_until - deleted.deleted_at == KEEP
    assert registry.collect().models == 0  # its time is not over
    registry.set_alias("line", "challenger", None)

    restored = registry.restore_model(first)
    told = {"aliases", "updated_at", "revision"}
    assert restored.model_dump(exclude=told) == before.model_dump(exclude=told)
    assert restored.aliases == ()
    assert restored.revision == before.revision + 1
    assert registry.resolve("line:1") == registry.get_model(first) == restored
    assert registry.load_model(first).record == restored
    assert [record.model_id for record in registry.search_models('tags contains "fraud"').models] == [first]
    assert registry.restore_model(first) == restored  # a repetition changes nothing
    assert register(registry, idempotency_key="job-7", **EXAMPLE) == first  # the key is its own again
    assert [model.record.model_id for model in registry.list_deleted()] == [second]
    assert registry.get_model(register(registry)).version == 3
    with pytest.raises(ModelNotFound):
        registry.restore_model("m-" + "0" * 32)


def test_a_key_that_was_used_again_stays_with_the_new_model(local_registry: ModelRegistry) -> None:
    first = register(local_registry, idempotency_key="job-7")
    local_registry.delete_model(first)
    second = register(local_registry, idempotency_key="job-7")
    assert second != first
    local_registry.restore_model(first)
    assert register(local_registry, idempotency_key="job-7") == second
    local_registry.delete_model(second)
    third = register(local_registry, idempotency_key="job-7")
    assert third not in (first, second)


def test_a_model_whose_time_is_over_is_gone_for_good(config: Config) -> None:
    store = open_store(config.storage.uri, config)
    artifacts, brief = ArtifactStore(store), timedelta(milliseconds=1)
    catalog = ModelCatalog(store, keep_deleted=brief)
    record = catalog.register(first := draft("a", b"x", artifacts, idempotency_key="k"))
    catalog.delete(record.model_id, None, new_id(), force=False)
    time.sleep(0.01)
    assert catalog.list_deleted() == []
    with pytest.raises(ModelNotFound, match="could be restored until"):
        catalog.restore(record.model_id, new_id())
    assert catalog.register(first).model_id == record.model_id  # a late repetition brings nothing back
    assert catalog.list() == []
    assert collect(catalog.journal, store, brief).models == 1
    assert len(list(store.list("blobs/"))) == 1  # written less than an hour ago: a registration may follow
    assert collect(catalog.journal, store, brief, grace=0) == CollectionReport(artifacts=1, bytes=1)
    with pytest.raises(ModelNotFound, match="there is no model"):
        catalog.restore(record.model_id, new_id())
    for reader in (catalog, ModelCatalog(store)):
        with pytest.raises(ArtifactCondemned) as caught:
            reader.register(draft("a", b"x", artifacts, idempotency_key="k"))
        assert caught.value.context["generation"] == 1
    again = catalog.register(draft("a", b"x", artifacts, 1, idempotency_key="k"))
    assert (again.version, again.artifact.generation) == (2, 1)
    assert artifacts.read(again.artifact) == b"x"


def test_a_repeated_call_after_a_restart_happens_once(config: Config) -> None:
    store = open_store(config.storage.uri, config)
    record = ModelCatalog(store).register(draft("a", b"x", ArtifactStore(store)))
    ModelCatalog(store).delete(record.model_id, None, new_id(), force=False)
    change = new_id()
    assert ModelCatalog(store).restore(record.model_id, change).revision == 2
    assert ModelCatalog(store).restore(record.model_id, change).revision == 2
    point = new_id()
    for _ in range(2):
        catalog = ModelCatalog(store)
        pointed = catalog.set_alias("a", "champion", 1, point, revision=2)
        assert pointed is not None
        assert (pointed.revision, pointed.aliases) == (3, ("champion",))


def collected(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "registry.collect", "--storage", str(place), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_command_says_what_it_freed(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    artifact = ArtifactStore(store).write(b"x" * 1500)
    two_hours_ago = time.time() - 7200
    os.utime(tmp_path / ArtifactStore(store).key(artifact), (two_hours_ago, two_hours_ago))
    would = collected(tmp_path, "--dry-run", "--json")
    assert (would.returncode, json.loads(would.stdout)) == (
        0, {"models": 0, "artifacts": 1, "checkpoints": 0, "bytes": 1500, "dry_run": True},
    )  # fmt: skip
    did = collected(tmp_path)
    assert (did.returncode, did.stdout) == (
        0, "freed 1,500 bytes: 0 deleted models, 1 artifacts that no model names, 0 checkpoints\n",
    )  # fmt: skip
    assert list(store.list("blobs/")) == []
    (tmp_path / "models" / "log" / f"{2:020d}.json").write_text("{}")
    failed = collected(tmp_path)
    assert failed.returncode == 2
    assert "models/log/00000000000000000002.json is damaged" in failed.stderr
    assert "Traceback" not in failed.stderr
    mistyped = collected(tmp_path / "typo", "--dry-run")
    assert (mistyped.returncode, mistyped.stdout) == (2, "")
    assert "holds no models, tasks or tokens. See storage.uri" in mistyped.stderr


def test_checkpoints_of_a_training_that_nobody_went_on_with_are_collected_after_a_week(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    catalog = ModelCatalog(store)
    for key, days in (("checkpoints/old/000000010", 8), ("checkpoints/new/000000010", 6)):
        store.put(key, b"model")
        then = time.time() - days * 86_400
        os.utime(tmp_path / key, (then, then))
    assert collect(catalog.journal, store, KEEP, dry_run=True).checkpoints == 1
    assert collect(catalog.journal, store, KEEP) == CollectionReport(checkpoints=1, bytes=5)
    assert list(store.list("checkpoints/")) == ["checkpoints/new/000000010"]


def test_maintenance_goes_on_after_the_store_was_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = FileStore(path := tmp_path / "state")
    catalog = ModelCatalog(store, keep_deleted=NOTHING)
    record = catalog.register(draft("a", b"x", ArtifactStore(store)))
    catalog.delete(record.model_id, None, new_id(), force=False)
    away = path.with_name("away")
    path.rename(away)
    path.write_text("not a directory")
    caplog.set_level("INFO", "registry.maintenance")
    maintenance = Maintenance(catalog, interval=0.02)
    wait_for(lambda: "event=maintenance_failed" in caplog.text)
    path.unlink()
    away.rename(path)
    wait_for(lambda: "event=collected models=1" in caplog.text)
    wait_for(lambda: "event=compacted" in caplog.text)
    maintenance.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
