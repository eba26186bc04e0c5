"""The table of models over its journal against the simplest model of it, whatever is done in whatever order.

Two catalogs share one store, as two processes would; commands go to either, some twice as after a lost answer, and now
and then one of them starts anew, from a snapshot or from the log alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from compute import Config
from compute.errors import Conflict, ModelNotFound, RevisionMismatch
from registry import ObjectStore, open_store
from registry.catalog import ModelCatalog
from registry.models import Draft, new_id
from registry.records import Artifact, ModelRecord

ARTIFACT = Artifact(digest="sha256:" + "0" * 64, size=1)
NAMES = st.sampled_from(["a", "b"])
ALIASES = st.sampled_from(["champion", "canary"])
WRITERS = st.sampled_from([0, 1])


@dataclass
class Expected:
    """One model, as it should be."""

    name: str
    version: int
    status: str = "active"
    metadata: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    revision: int = 1
    deleted: bool = False


class RegistryMachine(RuleBasedStateMachine):
    models = Bundle("models")

    def __init__(self, store: ObjectStore) -> None:
        super().__init__()
        self.store = store

    @initialize()
    def start(self) -> None:
        self.catalogs = [self.open(), self.open()]
        self.expected: dict[str, Expected] = {}
        self.aliases: dict[tuple[str, str], int] = {}
        self.keys: dict[str, tuple[str, Draft]] = {}

    def open(self) -> ModelCatalog:
        return ModelCatalog(self.store, snapshot_every=4)

    def teardown(self) -> None:
        if hasattr(self, "catalogs"):
            for catalog in self.catalogs:
                catalog.journal.wait_for_snapshot()

    @rule(target=models, writer=WRITERS, name=NAMES, twice=st.booleans(), tag=st.sampled_from(["x", "y"]))
    def register(self, writer: int, name: str, twice: bool, tag: str) -> str:
        draft = Draft(
            model_id=new_id(), name=name, model_type="t", format="xgboost-ubj", artifact=ARTIFACT, tags=(tag,)
        )
        record = self.catalogs[writer].register(draft)
        if twice:
            assert self.catalogs[1 - writer].register(draft) == record
        newest = max((model.version for model in self.expected.values() if model.name == name), default=0)
        assert record.version == newest + 1
        self.expected[record.model_id] = Expected(name, record.version, tags=(tag,))
        return record.model_id

    @rule(target=models, writer=WRITERS, key=st.sampled_from(["k1", "k2"]), name=NAMES)
    def register_with_a_key(self, writer: int, key: str, name: str) -> Any:
        draft = Draft(
            model_id=new_id(), name=name, model_type="t", format="xgboost-ubj", artifact=ARTIFACT, idempotency_key=key
        )
        known = self.keys.get(key)
        alive = known is not None and not self.expected[known[0]].deleted
        try:
            record = self.catalogs[writer].register(draft)
        except Conflict:
            assert alive
            assert known is not None
            assert known[1].name != name
            return multiple()
        if alive:
            assert known is not None
            assert record.model_id == known[0]
            return multiple()
        newest = max((model.version for model in self.expected.values() if model.name == name), default=0)
        assert record.version == newest + 1
        self.expected[record.model_id] = Expected(name, record.version)
        self.keys[key] = (record.model_id, draft)
        return record.model_id

    @rule(
        writer=WRITERS,
        model_id=models,
        twice=st.booleans(),
        status=st.none() | st.sampled_from(["active", "archived"]),
        tags=st.none() | st.lists(st.sampled_from(["x", "y", "z"]), max_size=3),
        metadata=st.dictionaries(st.sampled_from(["a", "b"]), st.none() | st.integers(0, 2), max_size=2),
        behind=st.none() | st.integers(0, 2),
    )
    def update(
        self, writer: int, model_id: str, twice: bool, status: Any, tags: Any, metadata: Any, behind: int | None
    ) -> None:
        before = self.expected[model_id]
        updates: dict[str, Any] = dict(metadata)
        after = replace(before, metadata=dict(before.metadata))
        for key, value in metadata.items():
            after.metadata.pop(key, None)
            if value is not None:
                after.metadata[key] = value
        if status is not None:
            updates["status"] = after.status = status
        if tags is not None:
            updates["tags"] = tags
            after.tags = tuple(dict.fromkeys(tags))
        revision = None if behind is None else before.revision - behind
        change = new_id()
        try:
            record = self.catalogs[writer].update(model_id, updates, revision, change)
        except ModelNotFound:
            assert before.deleted
            return
        except RevisionMismatch:
            assert behind
            return
        assert not before.deleted
        assert not behind
        if after != before:
            after.revision += 1
        self.expected[model_id] = after
        if twice and after != before:
            assert self.catalogs[1 - writer].update(model_id, updates, revision, change) == record
        self.compare(model_id, record)

    @rule(writer=WRITERS, name=NAMES, alias=ALIASES, version=st.none() | st.integers(0, 5))
    def set_alias(self, writer: int, name: str, alias: str, version: int | None) -> None:
        by_version = {
            model.version: model for model in self.expected.values() if model.name == name and not model.deleted
        }
        known = any(model.name == name for model in self.expected.values())
        current = self.aliases.get((name, alias))
        try:
            self.catalogs[writer].set_alias(name, alias, version, new_id())
        except ModelNotFound:
            assert not known or (version is not None and version not in by_version)
            return
        assert known
        assert version is None or version in by_version
        if version == current:
            return
        for number in {current, version} - {None}:
            by_version[number].revision += 1  # type: ignore[index]
        self.aliases.pop((name, alias), None)
        if version is not None:
            self.aliases[name, alias] = version

    @rule(writer=WRITERS, model_id=models, force=st.booleans(), twice=st.booleans())
    def delete(self, writer: int, model_id: str, force: bool, twice: bool) -> None:
        model, change = self.expected[model_id], new_id()
        pointing = [key for key, version in self.aliases.items() if key[0] == model.name and version == model.version]
        try:
            self.catalogs[writer].delete(model_id, None, change, force=force)
        except ModelNotFound:
            assert model.deleted
            return
        except Conflict:
            assert pointing
            assert not force
            return
        assert not model.deleted
        assert force or not pointing
        if twice:
            self.catalogs[1 - writer].delete(model_id, None, change, force=force)
        model.deleted = True
        for key in pointing:
            del self.aliases[key]

    @rule(writer=WRITERS, model_id=models, twice=st.booleans())
    def restore(self, writer: int, model_id: str, twice: bool) -> None:
        model, change = self.expected[model_id], new_id()
        if model.deleted:
            model.revision += 1
        model.deleted = False
        self.compare(model_id, self.catalogs[writer].restore(model_id, change))
        if twice:
            self.compare(model_id, self.catalogs[1 - writer].restore(model_id, change))

    @precondition(lambda self: len(self.expected) > 2)
    @rule(writer=WRITERS)
    def restart(self, writer: int) -> None:
        self.catalogs[writer].journal.wait_for_snapshot()
        self.catalogs[writer] = self.open()

    @rule(name=NAMES, reader=WRITERS)
    def resolve(self, name: str, reader: int) -> None:
        alive = {
            model.version: model_id
            for model_id, model in self.expected.items()
            if model.name == name and not model.deleted
        }
        champion = self.aliases.get((name, "champion"))
        active = [version for version, model_id in alive.items() if self.expected[model_id].status == "active"]
        version = champion or max(active, default=None)
        try:
            found = self.catalogs[reader].resolve(name)
        except ModelNotFound:
            assert version is None
            return
        assert version is not None
        assert found.model_id == alive[version]

    @rule(reader=WRITERS, tag=st.sampled_from(["x", "y", "z"]))
    def find(self, reader: int, tag: str) -> None:
        alive = [model_id for model_id, model in self.expected.items() if not model.deleted and tag in model.tags]
        assert [record.model_id for record in self.catalogs[reader].list(tags=[tag])] == alive[::-1]
        assert [record.model_id for record in self.catalogs[reader].search(f'tags contains "{tag}"').models] == alive[
            ::-1
        ]

    @invariant()
    def both_are_as_expected(self) -> None:
        if not hasattr(self, "catalogs"):
            return
        alive = [model_id for model_id, model in self.expected.items() if not model.deleted]
        for catalog in self.catalogs:
            records = catalog.list()
            assert [record.model_id for record in records] == alive[::-1]
            for record in records:
                self.compare(record.model_id, record)
            deleted = {model.record.model_id: model.record for model in catalog.list_deleted()}
            assert set(deleted) == set(self.expected).difference(alive)
            for model_id, record in deleted.items():
                self.compare(model_id, record)

    def compare(self, model_id: str, record: ModelRecord) -> None:
        model = self.expected[model_id]
        aliases = sorted(
            alias for (name, alias), version in self.aliases.items() if (name, version) == (model.name, model.version)
        )
        found = (record.name, record.version, record.status, record.metadata, record.tags, record.revision)
        assert found == (model.name, model.version, model.status, model.metadata, model.tags, model.revision)
        assert list(record.aliases) == aliases


def test_the_registry_is_as_expected_whatever_is_done(config: Config) -> None:
    places = (f"{config.storage.uri}/{number}" for number in itertools.count())
    examples = 150 if config.storage.uri.startswith("file:") else 10
    run_state_machine_as_test(
        lambda: RegistryMachine(open_store(next(places), config)),
        settings=settings(max_examples=examples, stateful_step_count=25, deadline=None),
    )
