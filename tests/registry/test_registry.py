"""What a user of the registry may rely on, with Ray and without."""

from __future__ import annotations

import pickle
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from compute import Config
from compute.errors import ComputeError, Conflict, Corrupt, InvalidField, ModelNotFound, RevisionMismatch, StorageError
from registry import Artifact, Column, ModelRecord, ModelRegistry, ObjectStore, Signature, get_model_registry
from registry.actor import RemoteCatalog
from registry.models import Draft, new_id
from tests.fault_proxy import proxy
from tests.seaweed import SeaweedServer

FRAME = pd.DataFrame({"x": [0.0, 1.0, 2.0]})
MODEL = LinearRegression().fit(FRAME.to_numpy(), [1.0, 3.0, 5.0])
EXAMPLE: dict[str, Any] = {
    "metadata": {"description": "Fraud detection", "version": "1.0.0"}, "tags": ["fraud", "production"],
    "metrics": {"rmse": 1, "baseline": {"rmse": 2.0}}, "lineage": {"data": "file:///flights.parquet"},
}  # fmt: skip


def register(registry: ModelRegistry, name: str = "line", **fields: Any) -> str:
    return registry.register_model(MODEL, fields.pop("model_type", "linear"), name=name, example=FRAME, **fields)


def test_the_life_of_a_model(registry: ModelRegistry) -> None:
    model_id = register(registry, **EXAMPLE)
    record = registry.get_model(model_id)
    assert (record.name, record.version, record.model_type, record.status, record.revision) == (
        "line",
        1,
        "linear",
        "active",
        1,
    )
    assert record.metadata == EXAMPLE["metadata"]
    assert record.tags == ("fraud", "production")
    assert record.metrics == EXAMPLE["metrics"]
    assert record.lineage == EXAMPLE["lineage"]
    assert record.created_at == record.updated_at
    assert ModelRecord.model_validate(record.model_dump(mode="json")) == record

    changed = registry.update_model_metadata(
        model_id, {"status": "deprecated", "metrics": {"accuracy": 0.95}, "owner": "ops"}
    )
    assert (changed.status, changed.revision) == ("deprecated", 2)
    assert changed.metrics == {**EXAMPLE["metrics"], "accuracy": 0.95}
    assert changed.metadata == {**EXAMPLE["metadata"], "owner": "ops"}
    assert changed.updated_at > changed.created_at == record.created_at
    assert registry.get_model(model_id) == changed
    assert registry.update_model_metadata(model_id, {"status": "deprecated"}) == changed  # nothing new, no revision
    removed = registry.update_model_metadata(
        model_id, {"metadata": {"owner": None, "version": "2"}, "tags": ["b", "a", "b"]}
    )
    assert removed.metadata == {"description": "Fraud detection", "version": "2"}
    assert removed.tags == ("b", "a")

    loaded = registry.load_model(model_id)
    np.testing.assert_allclose(loaded.predict(FRAME), [1, 3, 5])
    registry.delete_model(model_id)
    for call in (
        registry.get_model,
        registry.resolve,
        registry.load_model,
        registry.delete_model,
        lambda m: registry.update_model_metadata(m, {}),
    ):
        with pytest.raises(ModelNotFound) as caught:
            call(model_id)
        assert type(caught.value) is ModelNotFound
        assert caught.value.context == {"model_id": model_id}
    assert registry.list_models() == []
    assert registry.get_model(register(registry)).version == 2  # a version is never given twice


def test_references(registry: ModelRegistry) -> None:
    ids = [register(registry) for _ in range(3)]
    other = register(registry, name="other")

    def found(reference: str) -> str:
        return registry.resolve(reference).model_id

    assert [found(reference) for reference in ("line", "line:1", "line:3", ids[1], "other")] == [
        ids[2],
        ids[0],
        ids[2],
        ids[1],
        other,
    ]
    registry.update_model_metadata(ids[2], {"status": "archived"})
    assert found("line") == ids[1]
    champion = registry.set_alias("line", "champion", 1)
    assert champion is not None
    assert (champion.model_id, champion.aliases, champion.revision) == (ids[0], ("champion",), 2)
    assert registry.get_model(ids[0]) == champion
    assert [found("line"), found("line@champion")] == [ids[0]] * 2
    registry.set_alias("line", "canary", 1)
    assert registry.get_model(ids[0]).aliases == ("canary", "champion")
    registry.set_alias("line", "champion", 2)
    assert [registry.get_model(model_id).aliases for model_id in ids] == [("canary",), ("champion",), ()]
    assert [record.aliases for record in registry.list_models(name="line")] == [(), ("champion",), ("canary",)]
    assert [record.model_id for record in registry.search_models('aliases contains "canary"').models] == [ids[0]]
    assert registry.set_alias("line", "champion", None) is None
    assert found("line") == ids[1]
    for missing in (
        "nothing",
        "line:4",
        "line:0",
        "line:x",
        "line:1.5",
        "line:01",
        "line:\u0661",
        f"line:{'9' * 5000}",
        "line@none",
        "nothing@champion",
        "line@champion",
        "m-" + "0" * 32,
        "",
        "../x",
        "line:",
        "@",
        ":",
    ):
        with pytest.raises(ModelNotFound):
            found(missing)
    for model_id in ids[:2]:
        registry.update_model_metadata(model_id, {"status": "archived"})
    with pytest.raises(ModelNotFound, match="no version of 'line' is active"):
        found("line")


def test_what_was_deleted_is_said_to_be(registry: ModelRegistry) -> None:
    first, second = register(registry), register(registry)
    with pytest.raises(ModelNotFound, match=f"no model of the id 'line', which is a name.*{second} is line:2"):
        registry.get_model("line")
    registry.delete_model(first)
    for reference, message in (
        (first, f"{first} was deleted. Restore it"),
        ("line:1", f"line:1 was deleted. Restore it by its id, {first}"),
    ):
        with pytest.raises(ModelNotFound, match=message):
            registry.resolve(reference)
    with pytest.raises(ModelNotFound, match=r"line:1 was deleted"):
        registry.set_alias("line", "champion", 1)
    registry.delete_model(second)
    with pytest.raises(ModelNotFound, match=r"every version of 'line' was deleted\. Restore one"):
        registry.resolve("line")


def test_aliases_that_cannot_be_set(registry: ModelRegistry) -> None:
    register(registry)
    for call, error in (
        (("nothing", "champion", 1), ModelNotFound),
        (("line", "champion", 2), ModelNotFound),
        (("line", "a b", 1), InvalidField),
        (("line", "a:b", 1), InvalidField),
        (("line", "champion", "1"), InvalidField),
        (("line", "champion", True), InvalidField),
        (("line", "champion", 0), ModelNotFound),
        (("line", "", None), InvalidField),
    ):
        with pytest.raises(error):
            registry.set_alias(*call)  # type: ignore[arg-type]
    assert registry.get_model(registry.resolve("line").model_id).revision == 1


def test_an_alias_is_set_on_what_was_read(registry: ModelRegistry) -> None:
    first, second = register(registry), register(registry)
    assert registry.set_alias("line", "champion", 1, revision=1) == registry.get_model(first)
    registry.update_model_metadata(second, {"status": "archived"})
    with pytest.raises(RevisionMismatch, match="at revision 2, not 1"):
        registry.set_alias("line", "champion", 2, revision=1)
    with pytest.raises(RevisionMismatch):
        registry.set_alias("line", "champion", None, revision=1)  # the one that would lose it is at 2
    assert registry.resolve("line@champion").model_id == first
    assert registry.set_alias("line", "champion", 2, revision=2) == registry.get_model(second)
    assert registry.set_alias("line", "champion", None, revision=3) is None
    assert registry.set_alias("line", "champion", None) is None  # taking it away twice is no error


def test_changes_are_told_in_their_order(registry: ModelRegistry) -> None:
    begin = registry.changes()
    assert begin.changes == []
    model_id = register(registry)
    registry.update_model_metadata(model_id, {"status": "archived"})
    registry.set_alias("line", "champion", 1)
    registry.delete_model(model_id, force=True)
    registry.restore_model(model_id)
    page = registry.changes(begin.position, limit=3)
    rest = registry.changes(page.position)
    assert [change.kind.removeprefix("model.") for change in (*page.changes, *rest.changes)] == [
        "registered", "status_changed", "aliased", "deleted", "restored",
    ]  # fmt: skip
    assert {(change.model_id, change.name, change.version) for change in page.changes} == {(model_id, "line", 1)}
    assert registry.changes(rest.position, wait=0.05) == ([], rest.position)


def test_deleting_what_an_alias_points_to(registry: ModelRegistry) -> None:
    model_id = register(registry)
    registry.set_alias("line", "champion", 1)
    with pytest.raises(Conflict, match="line@champion") as caught:
        registry.delete_model(model_id)
    assert caught.value.context == {"model_id": model_id, "aliases": ["champion"]}
    registry.delete_model(model_id, force=True)
    with pytest.raises(ModelNotFound):
        registry.resolve("line@champion")
    second = register(registry)
    assert registry.get_model(second).aliases == ()
    assert registry.resolve("line").model_id == second


@pytest.mark.parametrize(
    "field",
    [
        "model_id",
        "name",
        "version",
        "aliases",
        "model_type",
        "format",
        "artifact",
        "signature",
        "lineage",
        "created_at",
        "updated_at",
        "revision",
    ],
)
def test_fields_that_may_not_change(local_registry: ModelRegistry, field: str) -> None:
    model_id = register(local_registry)
    with pytest.raises(Conflict, match=f"field '{field}' of a model may not change") as caught:
        local_registry.update_model_metadata(model_id, {"status": "archived", field: "x"})
    assert caught.value.context == {"field": field}
    assert local_registry.get_model(model_id).revision == 1


@pytest.mark.parametrize(
    "updates",
    [
        {"status": "gone"},
        {"status": None},
        {"status": ["active"]},
        {"tags": "fraud"},
        {"tags": None},
        {"tags": ["a\0"]},
        {"metrics": {"a": float("nan")}},
        {"metrics": 3},
        {"metrics": None},
        {"metadata": [1]},
        {"metadata": None},
        {"x": {1, 2}},
        {"x": float("inf")},
        {"": 1},
        [1],
        "x",
        None,
        {"x": "y" * 300_000},
    ],
)
def test_updates_that_are_not_allowed(local_registry: ModelRegistry, updates: Any) -> None:
    model_id = register(local_registry, **EXAMPLE)
    before = local_registry.get_model(model_id)
    with pytest.raises(InvalidField):
        local_registry.update_model_metadata(model_id, updates)
    assert local_registry.get_model(model_id) == before


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "a/b"},
        {"model_type": ""},
        {"name": "../x"},
        {"name": ""},
        {"tags": "fraud"},
        {"tags": ["\n"]},
        {"metadata": {"a": float("nan")}},
        {"metrics": {"a": float("inf")}},
        {"lineage": {"a": {1}}},
        {"idempotency_key": ""},
        {"idempotency_key": "a\n"},
        {"idempotency_key": 5},
        {"name": "m-" + "0" * 32},
    ],
)
def test_registrations_that_are_not_allowed(local_registry: ModelRegistry, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidField):
        register(local_registry, **fields)
    assert local_registry.list_models() == []


def test_changes_of_others_are_noticed(registry: ModelRegistry) -> None:
    model_id = register(registry)
    assert registry.update_model_metadata(model_id, {"a": 1}, revision=1).revision == 2
    with pytest.raises(RevisionMismatch, match="at revision 2, not 1") as caught:
        registry.update_model_metadata(model_id, {"a": 2}, revision=1)
    assert caught.value.context == {"model_id": model_id, "revision": 2}
    with pytest.raises(RevisionMismatch):
        registry.delete_model(model_id, revision=1)
    assert registry.get_model(model_id).metadata == {"a": 1}
    registry.delete_model(model_id, revision=2)


def test_only_one_of_many_changes_from_one_revision(registry: ModelRegistry) -> None:
    model_id = register(registry)

    def change(number: int) -> int | None:
        try:
            registry.update_model_metadata(model_id, {"winner": number}, revision=1)
        except RevisionMismatch:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(change, range(8)) if number is not None]
    assert len(winners) == 1
    assert registry.get_model(model_id).metadata == {"winner": winners[0]}


def test_a_repeated_registration_is_one(registry: ModelRegistry) -> None:
    first = register(registry, idempotency_key="job-7", **EXAMPLE)
    assert register(registry, idempotency_key="job-7", **EXAMPLE) == first
    assert register(registry, idempotency_key="job-8", **EXAMPLE) != first
    with pytest.raises(Conflict, match="'job-7' was used for"):
        register(registry, idempotency_key="job-7", tags=["other"])
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: register(registry, idempotency_key="job-9"), range(8)))) == 1
    assert len(registry.list_models()) == 3
    registry.delete_model(first)
    assert register(registry, idempotency_key="job-7", **EXAMPLE) != first


def test_lists(registry: ModelRegistry) -> None:
    ids = [
        register(
            registry, name=f"n{number % 3}", model_type=["linear", "ridge"][number % 2], tags=["all", f"t{number % 4}"]
        )
        for number in range(12)
    ]
    newest_first = ids[::-1]

    def listed(**filters: Any) -> list[int]:
        return [ids.index(record.model_id) for record in registry.list_models(**filters)]

    assert listed() == list(range(11, -1, -1))
    assert listed(model_type="ridge") == [11, 9, 7, 5, 3, 1]
    assert listed(name="n1") == [10, 7, 4, 1]
    assert listed(tags=["all", "t2"]) == [10, 6, 2]
    assert listed(tags=("t2",), name="n0") == [6]
    assert listed(tags=[]) == listed()
    assert listed(tags=["none"]) == listed(model_type="none") == listed(name="none") == []
    registry.update_model_metadata(ids[4], {"status": "archived"})
    assert listed(status="archived") == [4]
    assert 4 not in listed(status="active")

    seen: list[int] = []
    cursor = None
    while page := registry.list_models(limit=5, cursor=cursor):
        seen.extend(ids.index(record.model_id) for record in page)
        cursor = page[-1].model_id
        registry.delete_model(cursor)  # the place stays known
    assert seen == list(range(11, -1, -1))
    assert newest_first[0] not in {record.model_id for record in registry.list_models(name="none")}
    for bad in (
        {"limit": 0},
        {"limit": 1001},
        {"limit": "5"},
        {"limit": True},
        {"cursor": "x"},
        {"status": "gone"},
        {"tags": "all"},
    ):
        with pytest.raises(InvalidField):
            registry.list_models(**bad)  # type: ignore[arg-type]


def test_pages_of_a_search_do_not_shift(registry: ModelRegistry) -> None:
    scores = [3.0, None, 1.0, 2.0, 2.0, None, 5.0, 2.0]
    ids = [register(registry, metrics={} if score is None else {"rmse": score}) for score in scores]

    def pages(sort: str | None, query: str = "") -> list[int]:
        found: list[int] = []
        cursor = None
        while True:
            page = registry.search_models(query, sort=sort, limit=3, cursor=cursor)
            found.extend(ids.index(record.model_id) for record in page.models if record.model_id in ids)
            assert len(page.models) <= 3
            cursor = page.next_cursor
            if cursor is None:
                return found
            register(registry, name="late", metrics={"rmse": 100.0 if sort and sort.startswith("-") else 0.0})

    newest = [7, 6, 5, 4, 3, 2, 1, 0]
    assert pages(None) == newest
    assert pages("metrics.rmse") == [2, 7, 4, 3, 0, 6, 5, 1]
    assert pages("-metrics.rmse") == [6, 0, 7, 4, 3, 2, 5, 1]
    assert pages("-created_at") == newest
    assert pages("created_at", 'name = "line"') == newest[::-1]
    assert pages("-version", 'name = "line" and metrics.rmse >= 2') == [7, 6, 4, 3, 0]
    page = registry.search_models("", limit=1)
    for bad in (
        {"cursor": "x"},
        {"cursor": "é"},
        {"cursor": page.next_cursor, "sort": "version"},
        {"cursor": page.next_cursor, "query": "version = 1"},
        {"limit": 0},
        {"sort": "nothing"},
        {"sort": "--version"},
        {"query": "version ="},
        {"query": 5},
    ):
        with pytest.raises(InvalidField):
            registry.search_models(**{"query": "", "limit": 1, **bad})


def test_what_is_returned_belongs_to_the_caller(registry: ModelRegistry) -> None:
    given = {"list": [1]}
    model_id = register(registry, metadata=given)
    given["list"].append(2)
    registry.get_model(model_id).metadata["list"].append(3)
    registry.list_models()[0].metadata.clear()
    registry.search_models("").models[0].metrics["x"] = 1.0
    registry.load_model(model_id).record.metadata.clear()
    registry.update_model_metadata(model_id, {"x": 1}).metadata.clear()
    assert registry.get_model(model_id).metadata == {"list": [1], "x": 1}
    assert registry.get_model(model_id).metrics == {}


def test_hostile_text_survives_or_is_refused(registry: ModelRegistry) -> None:
    tags = ["équipe 7", "🦆", "a/b", "..", '"quoted"', "x" * 128]
    metadata = {
        "a\0b": "c\0d",
        "../../x": ["\u2028", "\x1b[31m", "</script>", "'; drop table"],
        "🦆": "x" * 10_000,
        "n": [2**80, -(2**63), 0.1, 1e-320, True],
    }
    record = registry.get_model(register(registry, tags=tags, metadata=metadata))
    assert record.tags == tuple(tags)
    assert record.metadata == metadata
    assert [r.model_id for r in registry.list_models(tags=["🦆"])] == [record.model_id]
    assert [
        r.model_id for r in registry.search_models('tags contains ".." and metadata."a\\u0000b" = "c\\u0000d"').models
    ] == [record.model_id]
    for hostile in ("\ud800", "a\0", "x" * 10_000):
        with pytest.raises(ComputeError):
            registry.resolve(hostile)
        with pytest.raises(ComputeError):
            registry.get_model(hostile)


def test_keys_in_the_store_are_made_by_us_alone(local_registry: ModelRegistry, store: ObjectStore) -> None:
    register(
        local_registry, name="Some-Name", tags=["Some Tag"], metadata={"Some": "Value"}, idempotency_key="Some Key"
    )
    local_registry.set_alias("Some-Name", "Some-Alias", 1)
    keys = list(store.list())
    assert len(keys) == 3  # two entries of the journal, and the artifact
    assert not [key for key in keys if "some" in key.lower()]


def test_clients_are_picklable_and_see_the_same(registry: ModelRegistry, config: Config) -> None:
    again = pickle.loads(pickle.dumps(registry))
    model_id = register(again)
    assert registry.get_model(model_id) == again.get_model(model_id) == get_model_registry(config).resolve("line")


def test_a_damaged_log_is_named_and_nothing_is_served(registry: ModelRegistry, store: ObjectStore) -> None:
    entry = "models/log/00000000000000000001.json"
    store.put(entry, b"{}")
    for _ in range(2):
        with pytest.raises(Corrupt, match=r"models/log/00000000000000000001\.json"):
            registry.list_models()
    store.delete(entry)
    assert registry.list_models() == []  # the error goes away with its cause
    assert registry.get_model(register(registry)).version == 1


def test_without_ray_and_with_it_are_one_registry(
    local_registry: ModelRegistry, actor_registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    first = register(local_registry)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    assert actor_registry.get_model(first).version == 1
    second = register(actor_registry)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert local_registry.get_model(second).version == 2
    local_registry.delete_model(first)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(ModelNotFound):
        actor_registry.get_model(first)


@pytest.mark.slow  # 10 s of retries
@pytest.mark.parametrize("config", ["directory"], indirect=True)
def test_an_actor_that_starts_while_its_store_is_away_recovers_by_itself(
    ray_cluster: str, s3_server: SeaweedServer, config: Config
) -> None:
    import ray

    with proxy(s3_server.endpoint_url) as line:
        remote = RemoteCatalog(s3_server.config(config, f"t-{uuid.uuid4().hex}", line.url))
        artifact = Artifact(digest="sha256:" + "0" * 64, size=1)
        draft = Draft(model_id=new_id(), name="a", model_type="t", format="xgboost-ubj", artifact=artifact)
        record = remote.register(draft)
        line.plan = lambda _method, _path: "drop"
        before = ray.get(remote._find().pid.remote())
        ray.kill(remote._find(), no_restart=False)
        while ray.get(remote._find().pid.remote()) == before:
            time.sleep(0.05)
        with pytest.raises(StorageError):
            remote.get(record.model_id)
        line.plan = lambda _method, _path: None
        assert remote.get(record.model_id) == record
        assert remote.register(draft) == record
        ray.kill(remote._find())


def test_models_that_differ_in_nothing_but_the_kind_of_their_classes_keep_their_own(registry: ModelRegistry) -> None:
    for classes in ((0, 1), (False, True), (2, 3)):
        model = LogisticRegression().fit(FRAME.to_numpy()[:2], classes)
        signature = Signature(columns=(Column(name="x", dtype="float"),), task="binary", classes=classes)
        record = registry.get_model(registry.register_model(model, "logistic", signature=signature))
        assert record.signature is not None
        assert repr(record.signature.classes) == repr(classes)
