"""The change feed: what the journal's entries say to those who follow it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compute import Config
from compute.errors import InvalidField, PositionGone
from registry.catalog import ModelCatalog
from registry.changes import KINDS, START, Change, changes_of, parse_position, read_changes
from registry.models import Draft, new_id
from registry.records import Artifact
from registry.storage import open_store

AT = "2026-01-02T00:00:00+00:00"


@pytest.fixture
def catalog(config: Config) -> ModelCatalog:
    return ModelCatalog(open_store(config.storage.uri, config))


@pytest.fixture
def register(catalog: ModelCatalog) -> Callable[..., str]:
    def make(name: str = "delays", **fields: Any) -> str:
        draft = Draft(
            model_id=new_id(),
            name=name,
            model_type="xgboost",
            format="xgboost-ubj",
            artifact=Artifact(digest=f"sha256:{'0' * 64}", size=1),
            **fields,
        )
        return catalog.register(draft).model_id

    return make


def _changes(catalog: ModelCatalog, after: str | None = START, limit: int = 1000, wait: float = 0.0) -> list[Change]:
    return read_changes(catalog.journal, after, limit, wait).changes


def test_every_change_of_a_model_is_told_in_order(catalog: ModelCatalog, register: Callable[..., str]) -> None:
    first, second = register(tags=("a",), metrics={"rmse": 1.0}), register()
    catalog.update(first, {"status": "deprecated"}, None, "1")
    catalog.update(first, {"metrics": {"rmse": 2.0}, "owner": "ops"}, None, "2")
    catalog.set_alias("delays", "champion", 1, "3")
    catalog.set_alias("delays", "champion", 2, "4")
    catalog.set_alias("delays", "champion", None, "5")
    catalog.delete(first, None, "6", force=False)
    catalog.restore(first, "7")
    found = [(change.kind, change.model_id, change.name, change.version) for change in _changes(catalog)]
    assert found == [
        ("model.registered", first, "delays", 1),
        ("model.registered", second, "delays", 2),
        ("model.status_changed", first, "delays", 1),
        ("model.updated", first, "delays", 1),
        ("model.aliased", first, "delays", 1),
        ("model.aliased", second, "delays", 2),
        ("model.aliased", second, "delays", None),
        ("model.deleted", first, "delays", 1),
        ("model.restored", first, "delays", 1),
    ]
    changed = [change.changed for change in _changes(catalog)]
    assert changed[0]["tags"] == ["a"]
    assert changed[0]["metrics"] == {"rmse": 1.0}
    assert changed[2:4] == [{"status": "deprecated"}, {"metrics": {"rmse": 2.0}, "metadata": {"owner": "ops"}}]
    assert changed[4:7] == [
        {"alias": "champion", "version": 1, "previous": None},
        {"alias": "champion", "version": 2, "previous": 1},
        {"alias": "champion", "version": None, "previous": 2},
    ]


def test_the_feed_goes_on_from_any_position_without_gap_or_repetition(
    catalog: ModelCatalog, register: Callable[..., str]
) -> None:
    ids = [register() for _ in range(6)]
    for model_id in ids:  # two changes in one entry
        catalog.update(model_id, {"status": "archived", "tags": ["x"]}, None, model_id)
    everything = _changes(catalog)
    assert len(everything) == 18
    for index, change in enumerate(everything):
        assert _changes(catalog, change.position) == everything[index + 1 :]
    for limit in (1, 2, 5):
        position, pages = START, []
        while len(pages) < 18:
            page = read_changes(catalog.journal, position, limit, 0.0)
            assert 0 < len(page.changes) <= limit
            pages, position = pages + page.changes, page.position
        assert pages == everything
        assert read_changes(catalog.journal, position, limit, 0.0) == ([], position)


def test_without_a_position_the_feed_begins_now(catalog: ModelCatalog, register: Callable[..., str]) -> None:
    register()
    now = read_changes(catalog.journal, None, 10, 0.0)
    assert now.changes == []
    model_id = register()
    assert [change.model_id for change in _changes(catalog, now.position)] == [model_id]


def test_a_change_wakes_who_waits_for_it(catalog: ModelCatalog, register: Callable[..., str]) -> None:
    position = read_changes(catalog.journal, None, 10, 0.0).position
    threading.Timer(0.3, register).start()
    started = time.monotonic()
    assert len(_changes(catalog, position, wait=20)) == 1
    assert time.monotonic() - started < 10
    position = read_changes(catalog.journal, None, 10, 0.0).position
    started = time.monotonic()
    assert _changes(catalog, position, wait=0.2) == []
    assert 0.15 < time.monotonic() - started < 10


def test_changes_of_another_process_are_found(
    catalog: ModelCatalog, register: Callable[..., str], config: Config
) -> None:
    other = ModelCatalog(open_store(config.storage.uri, config))
    position = read_changes(other.journal, None, 10, 0.0).position
    threading.Timer(0.2, register).start()
    assert len(_changes(other, position, wait=20)) == 1


@pytest.mark.parametrize(
    "position", ["", "0.0", "1", "1.", ".1", "01.0", "1.01", "-1.0", "1.0 ", "x", "1e3.0", "9" * 40, 1]
)
def test_what_is_no_position_is_refused(catalog: ModelCatalog, position: Any) -> None:
    with pytest.raises(InvalidField, match="not a position"):
        _changes(catalog, position)


@pytest.mark.parametrize("limit", [0, 1001, True, "10"])
def test_a_page_has_a_size(catalog: ModelCatalog, limit: Any) -> None:
    with pytest.raises(InvalidField, match="limit"):
        _changes(catalog, START, limit)


def test_a_position_of_another_store_is_refused_rather_than_waited_for(
    catalog: ModelCatalog, register: Callable[..., str]
) -> None:
    register()
    assert _changes(catalog, "2.0") == []
    with pytest.raises(PositionGone, match=r"newest is 2\.0") as refused:
        _changes(catalog, "3.0", wait=0.1)
    assert refused.value.context == {"position": "3.0", "newest": "2.0"}
    assert refused.value.status == 410


def test_a_position_that_was_compacted_is_gone(config: Config, register: Callable[..., str]) -> None:
    catalog = ModelCatalog(open_store(config.storage.uri, config), snapshot_every=2)
    for _ in range(9):
        register()
        catalog.get(register())
        catalog.update(catalog.list()[0].model_id, {"status": "archived"}, None, new_id())
        catalog.journal.wait_for_snapshot()
    catalog.journal.compact(0.0)
    fresh = ModelCatalog(open_store(config.storage.uri, config))
    with pytest.raises(PositionGone):
        _changes(fresh, START)
    position = read_changes(fresh.journal, None, 10, 0.0).position
    assert _changes(fresh, position) == []


def test_entries_of_the_first_release_are_read_too() -> None:
    events = [
        {"kind": "updated", "model_id": "m-1", "fields": {"tags": ["a"]}, "at": AT, "change": "1"},
        {"kind": "deleted", "model_id": "m-1", "at": AT, "change": "2"},
    ]
    updated, deleted = changes_of(3, events)
    assert (updated.kind, updated.name, updated.position) == ("model.updated", None, "3.1")
    assert (deleted.kind, deleted.version, deleted.position) == ("model.deleted", None, "4.0")


def test_housekeeping_is_no_change_of_a_model() -> None:
    assert changes_of(3, [{"kind": "condemned", "digests": {"sha256:0": 1}, "at": AT}]) == []
    purged = {"kind": "purged", "model_id": "m-1", "name": "delays", "version": 1, "at": AT, "key": None}
    assert [change.kind for change in changes_of(3, [purged])] == ["model.purged"]


def test_positions_are_ordered_like_the_changes(catalog: ModelCatalog, register: Callable[..., str]) -> None:
    def numbers() -> Iterator[tuple[int, int]]:
        for change in _changes(catalog):
            assert change.kind in KINDS
            yield parse_position(change.position)

    for _ in range(12):
        catalog.update(register(), {"status": "archived", "tags": ["x"]}, None, new_id())
    found = list(numbers())
    assert found == sorted(set(found))
