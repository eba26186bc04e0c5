"""The models of one store: the table over its journal, as one object with a method for each question and change.

Synchronous and free of Ray. The actor is a thin shell over it, and without Ray the client uses it as it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from compute import Config
from registry import commands
from registry.changes import ChangePage, read_changes
from registry.collection import CollectionReport, collect
from registry.journal import Journal
from registry.models import Draft, ModelTable
from registry.records import DeletedModel, ModelRecord
from registry.search import SearchPage, listing, search
from registry.storage import open_store
from registry.store import ObjectStore
from registry.traffic import Traffic, TrafficPlan
from registry.traffic_results import Report, TrafficResults

PREFIX = "models"


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
    read_staleness : float
        See `Journal`.
    """

    def __init__(
        self,
        store: ObjectStore,
        snapshot_every: int = 1000,
        *,
        keep_deleted: timedelta = timedelta(days=30),
        read_staleness: float = 0.0,
    ) -> None:
        self.store = store
        self.keep_deleted = keep_deleted
        self.journal: Journal[ModelTable] = Journal(
            store, PREFIX, ModelTable, snapshot_every=snapshot_every, read_staleness=read_staleness
        )

        self._results = TrafficResults(
            lambda name: self.journal.read(lambda table: table.traffic.get(name)),
            lambda name, plan, *, revision, reason: self.set_traffic(
                name, plan, uuid.uuid4().hex, revision=revision, reason=reason
            ),
        )

    @classmethod
    def of(cls, config: Config) -> Self:
        """Open the catalog of a configuration."""
        storage = config.storage
        keep_deleted = timedelta(days=storage.keep_deleted_days)
        return cls(open_store(storage.uri, config), keep_deleted=keep_deleted, read_staleness=storage.staleness)

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

    def set_traffic(
        self, name: str, plan: TrafficPlan | None, change: str, *, revision: int | None, reason: str | None
    ) -> Traffic:
        """See `ModelRegistry.set_traffic`."""
        return self.journal.execute(
            lambda table: commands.set_traffic(table, name, plan, change, revision=revision, reason=reason)
        )

    def traffic(self) -> dict[str, Traffic]:
        """See `ModelRegistry.traffic`."""
        return self.journal.read(
            lambda table: {name: traffic for name, traffic in table.traffic.items() if traffic.plan is not None}
        )

    def traffic_results(self, name: str) -> dict[str, Any]:
        """See `ModelRegistry.traffic_results`."""

        def query(table: ModelTable) -> Traffic | None:
            table.resolve(name)  # which says so when there is none of this name
            return table.traffic.get(name)

        traffic = self.journal.read(query)
        if traffic is None:
            return {"name": name, "plan": None, "revision": 0, "changed_at": None, "reason": None, "results": None}
        results = self._results.of(traffic) if traffic.plan is not None else None
        return {**traffic.model_dump(mode="json"), "results": results}

    def report_traffic(self, name: str, revision: int, arms: Report) -> None:
        """See `ModelRegistry.report_traffic`."""
        self._results.report(name, revision, arms)

    def changes(self, after: str | None = None, limit: int = 100, wait: float = 0.0) -> ChangePage:
        """See `ModelRegistry.changes`."""
        return read_changes(self.journal, after, limit, wait)

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
        return self.journal.read(listing(model_type, tags, status, name, limit, cursor))

    def search(self, query: str, sort: str | None = None, limit: int = 100, cursor: str | None = None) -> SearchPage:
        """See `ModelRegistry.search_models`."""
        return self.journal.read(search(query, sort, limit, cursor))
