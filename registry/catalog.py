"""The models of one store: the table over its journal, as one object with a method for each question and change.

Synchronous and free of Ray. The actor is a thin shell over it, and without Ray the client uses it as it is.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple, Self, get_args

from compute import Config
from compute.errors import InvalidField
from registry import commands
from registry.collection import CollectionReport, collect
from registry.journal import Journal
from registry.limits import check_tags
from registry.models import Draft, ModelTable
from registry.records import DeletedModel, ModelRecord, Status
from registry.search import Path, Predicate, matcher, parse, parse_field, read_field, sort_key
from registry.store import ObjectStore, open_store

PREFIX = "models"
MAX_PAGE = 1_000
_LACKING = 3  # the rank that `sort_key` gives to a field that is not there


class SearchPage(NamedTuple):
    """Some of the models that were found, and where the next ones begin."""

    models: list[ModelRecord]
    next_cursor: str | None


class ModelCatalog:
    """The models of one store.

    Parameters
    ----------
    store : ObjectStore
        Where the journal lies.
    snapshot_every : int
        Journal entries from one snapshot to the next.
    keep_deleted : timedelta
        How long a deleted model can be restored.
    """

    def __init__(
        self, store: ObjectStore, snapshot_every: int = 1000, *, keep_deleted: timedelta = timedelta(days=30)
    ) -> None:
        self.store = store
        self.keep_deleted = keep_deleted
        self.journal: Journal[ModelTable] = Journal(store, PREFIX, ModelTable, snapshot_every=snapshot_every)

    @classmethod
    def of(cls, config: Config) -> Self:
        """Open the catalog of a configuration."""
        storage = config.storage
        return cls(open_store(storage.uri, config), keep_deleted=timedelta(days=storage.keep_deleted_days))

    def register(self, draft: Draft) -> ModelRecord:
        """See `ModelRegistry.register_model`."""
        return self.journal.execute(lambda table: commands.register(table, draft))

    def update(self, model_id: str, updates: Mapping[str, Any], revision: int | None, change: str) -> ModelRecord:
        """See `ModelRegistry.update_model_metadata`; ``change`` tells a repetition from another change."""
        return self.journal.execute(lambda table: commands.update(table, model_id, updates, revision, change))

    def delete(self, model_id: str, revision: int | None, change: str, *, force: bool) -> None:
        """See `ModelRegistry.delete_model`."""
        self.journal.execute(lambda table: commands.delete(table, model_id, revision, change, force=force))

    def restore(self, model_id: str, change: str) -> ModelRecord:
        """See `ModelRegistry.restore_model`."""
        return self.journal.execute(lambda table: commands.restore(table, model_id, self.keep_deleted, change))

    def list_deleted(self, name: str | None = None) -> list[DeletedModel]:
        """See `ModelRegistry.list_deleted`."""
        now = datetime.now(UTC)

        def query(table: ModelTable) -> list[DeletedModel]:
            models = []
            for record, at in table.deleted.values():
                deleted_at = datetime.fromisoformat(at)
                if (until := deleted_at + self.keep_deleted) > now and name in (None, record.name):
                    models.append(DeletedModel(record=record, deleted_at=deleted_at, restorable_until=until))
            return models[::-1]

        return self.journal.read(query)

    def collect(self, *, dry_run: bool = False) -> CollectionReport:
        """See `ModelRegistry.collect`."""
        return collect(self.journal, self.store, self.keep_deleted, dry_run=dry_run)

    def set_alias(
        self, name: str, alias: str, version: int | None, change: str, *, revision: int | None = None
    ) -> ModelRecord | None:
        """See `ModelRegistry.set_alias`."""
        return self.journal.execute(
            lambda table: commands.set_alias(table, name, alias, version, change, revision=revision)
        )

    def get(self, model_id: str) -> ModelRecord:
        """See `ModelRegistry.get_model`."""
        return self.journal.read(lambda table: table.get(model_id))

    def resolve(self, reference: str) -> ModelRecord:
        """See `ModelRegistry.resolve`."""
        return self.journal.read(lambda table: table.resolve(reference))

    def list(
        self,
        model_type: str | None = None,
        tags: Iterable[str] | None = None,
        status: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> list[ModelRecord]:
        """See `ModelRegistry.list_models`."""
        wanted = set(check_tags(tags)) if tags is not None else set()
        if status is not None and status not in get_args(Status):
            raise InvalidField(
                f"status {status!r:.100} is not allowed",
                hint=f"It is one of {', '.join(get_args(Status))}.",
                context={"field": "status"},
            )

        def fits(record: ModelRecord) -> bool:
            return (
                (model_type is None or record.model_type == model_type)
                and (status is None or record.status == status)
                and (name is None or record.name == name)
                and wanted <= set(record.tags)
            )

        if limit is not None:
            _check_limit(limit)

        def query(table: ModelTable) -> list[ModelRecord]:
            before = None
            if cursor is not None:
                if cursor not in table.order:
                    raise _bad_cursor("It is the model_id of the last model of the page before.")
                before = table.order[cursor]
            return list(islice(filter(fits, table.newest_first(before)), limit))

        return self.journal.read(query)

    def search(self, query: str, sort: str | None = None, limit: int = 100, cursor: str | None = None) -> SearchPage:
        """See `ModelRegistry.search_models`."""
        fits = matcher(parse(query))
        _check_limit(limit)
        question = hashlib.sha256(f"{sort}\n{query}".encode()).hexdigest()[:16]
        after = None if cursor is None else _read_cursor(cursor, question)
        descending = sort is None or sort.startswith("-")
        path = ("created_at",) if sort is None else parse_field(sort.removeprefix("-"))

        def page(table: ModelTable) -> SearchPage:
            if sort is None:
                found = _in_order(table, fits, limit + 1, None if after is None else after[1])
            else:
                found = _sorted(table, fits, path, limit + 1, after, descending=descending)
            more = len(found) > limit
            del found[limit:]
            last = found[-1] if more else None
            if last is None:
                return SearchPage(found, None)
            key = (0, 0) if sort is None else sort_key(read_field(last, path))
            return SearchPage(found, _make_cursor(question, key, table.order[last.model_id]))

        return self.journal.read(page)


def _in_order(table: ModelTable, fits: Predicate, limit: int, before: int | None) -> list[ModelRecord]:
    return list(islice(filter(fits, table.newest_first(before)), limit))


def _sorted(
    table: ModelTable,
    fits: Predicate,
    path: Path,
    limit: int,
    after: tuple[tuple[int, Any], int] | None,
    *,
    descending: bool,
) -> list[ModelRecord]:
    """Return what comes after a place; models that lack the field are last, equal ones the newest first."""

    def entries() -> Iterator[tuple[tuple[int, Any], int, ModelRecord]]:
        for record in filter(fits, table.newest_first()):
            yield sort_key(read_field(record, path)), -table.order[record.model_id], record

    # `sorted` is stable, reversed too: equal values keep the order they come in, the newest first.
    rows = sorted(entries(), key=lambda row: row[0], reverse=descending)
    rows.sort(key=lambda row: row[0][0] == _LACKING)
    if after is not None:
        key, order = after

        def later(row: tuple[tuple[int, Any], int, ModelRecord]) -> bool:
            if row[0] == key:
                return row[1] > -order
            if (row[0][0] == _LACKING) != (key[0] == _LACKING):
                return row[0][0] == _LACKING
            return (row[0] < key) if descending else (row[0] > key)

        rows = [row for row in rows if later(row)]
    return [row[2] for row in rows[:limit]]


def _check_limit(limit: int) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE:
        raise InvalidField(
            f"limit {limit!r:.100} is not allowed", hint=f"It is 1 to {MAX_PAGE}.", context={"field": "limit"}
        )


def _make_cursor(question: str, key: tuple[int, Any], order: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([question, *key, order]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, question: str) -> tuple[tuple[int, Any], int]:
    rule = "It is the next_cursor of a page of this very query and sort."
    try:
        asked, rank, value, order = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        key = sort_key(value) if rank != 1 else (1, float(value))
        if asked == question and key[0] == (rank if rank != _LACKING else 0) and isinstance(order, int):
            return ((rank, 0) if rank == _LACKING else key), order
    except (ValueError, TypeError) as error:
        raise _bad_cursor(rule) from error
    raise _bad_cursor(rule)


def _bad_cursor(rule: str) -> InvalidField:
    return InvalidField("the cursor is not one of ours", hint=rule, context={"field": "cursor"})
