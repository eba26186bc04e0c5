"""The registry of models as a detached Ray actor, and the way to it from any process of the cluster.

The actor holds nothing that is not in the journal: Ray starts it again when it dies, and it reads itself back. Every
method may run twice: what is new carries an id that the caller made, by which a repetition is known. Records travel as
JSON, which pydantic reads and writes several times as fast as Ray pickles objects.

Ray is imported when the actor is looked for: without Ray, nothing here is used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import TypeAdapter

from compute import Config
from compute.errors import BackendUnavailable, ComputeError
from registry.catalog import ModelCatalog
from registry.changes import Change, ChangePage
from registry.collection import CollectionReport
from registry.compaction import GRACE
from registry.maintenance import Maintenance
from registry.models import Draft
from registry.records import DeletedModel, ModelRecord
from registry.search import SearchPage
from registry.traffic import Traffic, TrafficPlan
from registry.traffic_results import Report
from registry.webhook_service import WebhookService

logger = logging.getLogger(__name__)

NAMESPACE = "registry"
_RECORDS = TypeAdapter(list[ModelRecord])
_CHANGES = TypeAdapter(list[Change])
_DELETED = TypeAdapter(list[DeletedModel])
_TRAFFIC = TypeAdapter(dict[str, Traffic])
_THREADS = 64
"""Calls at once: those that write wait together for one entry of the journal."""
_WAITING = {"changes": 32, "webhooks": 8}
"""Calls at once of methods that wait for something: they take no thread from the others."""
_WAKE = 10.0
"""Seconds after which a store that did not answer is tried again."""
_PATIENCE = 120.0
"""Seconds in which the actor answers, a restart of it included."""


class ModelActor:
    """Shell over `ModelCatalog`, which it opens at once, and again at each call until it can: callers get the error."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._opening = threading.Lock()
        self._opened: ModelCatalog | None = None
        threading.Thread(target=self._wake, name="registry-wake", daemon=True).start()

    def _wake(self) -> None:
        """Open it also when nobody calls: webhooks are told after a restart as before."""
        while self._opened is None:
            try:
                _ = self._catalog
            except ComputeError:
                logger.exception("event=registry_not_opened action=try_again_in seconds=%g", _WAKE)
                time.sleep(_WAKE)

    @property
    def _catalog(self) -> ModelCatalog:
        if self._opened is None:
            with self._opening:
                if self._opened is None:
                    opened = ModelCatalog.of(self._config)
                    self._webhooks = WebhookService(opened, self._config.security)
                    self._webhooks.start()
                    # A webhook that fails is told all it missed until it is disabled: till then it has to be there.
                    grace = max(GRACE, 86400 * (1 + self._config.security.webhook_days))
                    self._maintenance = Maintenance(opened, grace, [self._webhooks.journal])
                    self._opened = opened
        return self._opened

    def register(self, draft: bytes) -> bytes:
        """See `ModelCatalog`; so for all methods."""
        return _pack(self._catalog.register(Draft.model_validate_json(draft)))

    def update(self, model_id: str, updates: Mapping[str, Any], revision: int | None, change: str) -> bytes:
        """Change a record."""
        return _pack(self._catalog.update(model_id, updates, revision, change))

    def delete(self, model_id: str, revision: int | None, change: str, *, force: bool) -> None:
        """Hide a model."""
        self._catalog.delete(model_id, revision, change, force=force)

    def restore(self, model_id: str, change: str) -> bytes:
        """Bring a model back."""
        return _pack(self._catalog.restore(model_id, change))

    def list_deleted(self, name: str | None) -> bytes:
        """Return the models that can be brought back."""
        return _DELETED.dump_json(self._catalog.list_deleted(name))

    def collect(self, *, dry_run: bool) -> CollectionReport:
        """Remove what nobody needs any more."""
        return self._catalog.collect(dry_run=dry_run)

    def set_alias(
        self, name: str, alias: str, version: int | None, change: str, *, revision: int | None
    ) -> bytes | None:
        """Point an alias to a version."""
        record = self._catalog.set_alias(name, alias, version, change, revision=revision)
        return None if record is None else _pack(record)

    def set_traffic(
        self, name: str, plan: bytes | None, change: str, *, revision: int | None, reason: str | None
    ) -> bytes:
        """Share the requests to a name out anew."""
        wanted = None if plan is None else TrafficPlan.model_validate_json(plan)
        traffic = self._catalog.set_traffic(name, wanted, change, revision=revision, reason=reason)
        return traffic.model_dump_json().encode()

    def traffic(self) -> bytes:
        """Return how the requests to names are shared out."""
        return _TRAFFIC.dump_json(self._catalog.traffic())

    def traffic_results(self, name: str) -> dict[str, Any]:
        """Return what the arms of a name did."""
        return self._catalog.traffic_results(name)

    def report_traffic(self, name: str, revision: int, arms: Report) -> None:
        """Take what the arms of a name did."""
        self._catalog.report_traffic(name, revision, arms)

    def get(self, model_id: str) -> bytes:
        """Return a record by its id."""
        return _pack(self._catalog.get(model_id))

    def resolve(self, reference: str) -> bytes:
        """Return a record by its id, name, version or alias."""
        return _pack(self._catalog.resolve(reference))

    def list(self, **filters: Any) -> bytes:
        """Return the records that fit."""
        return _RECORDS.dump_json(self._catalog.list(**filters))

    def search(self, query: str, sort: str | None, limit: int, cursor: str | None) -> tuple[bytes, str | None]:
        """Return a page of the records that fit, and the cursor of the next one."""
        page = self._catalog.search(query, sort, limit, cursor)
        return _RECORDS.dump_json(page.models), page.next_cursor

    def changes(self, after: str | None, limit: int, wait: float) -> tuple[bytes, str]:
        """Return what happened after a position, and the position after it."""
        page = self._catalog.changes(after, limit, wait)
        return _CHANGES.dump_json(page.changes), page.position

    def news(self, after: str | None, limit: int) -> tuple[bytes, str]:
        """Return the changes there are, without waiting, and so not in the group of those that wait."""
        return self.changes(after, limit, 0.0)

    def webhooks(self, method: Literal["create", "list", "get", "delete", "test"], *args: Any) -> Any:
        """Call a method of the webhooks."""
        _ = self._catalog  # which has them
        return getattr(self._webhooks, method)(*args)

    def pid(self) -> int:
        """Return the id of the process that this runs in: for whoever looks after it."""
        return os.getpid()


class RemoteCatalog:
    """A `ModelCatalog` that lives in the actor; same methods.

    Parameters
    ----------
    config : Config
        ``storage.uri`` says which actor: there is one for each store.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._handle: Any = None
        self._session = ""

    def register(self, draft: Draft) -> ModelRecord:
        """See `ModelCatalog`; so for all methods."""
        return _unpack(self.call("register", draft.model_dump_json().encode()))

    def update(self, model_id: str, updates: Mapping[str, Any], revision: int | None, change: str) -> ModelRecord:
        """Change a record."""
        return _unpack(self.call("update", model_id, updates, revision, change))

    def delete(self, model_id: str, revision: int | None, change: str, *, force: bool) -> None:
        """Hide a model."""
        self.call("delete", model_id, revision, change, force=force)

    def restore(self, model_id: str, change: str) -> ModelRecord:
        """Bring a model back."""
        return _unpack(self.call("restore", model_id, change))

    def list_deleted(self, name: str | None = None) -> list[DeletedModel]:
        """Return the models that can be brought back."""
        return _DELETED.validate_json(self.call("list_deleted", name))

    def collect(self, *, dry_run: bool = False) -> CollectionReport:
        """Remove what nobody needs any more."""
        report: CollectionReport = self.call("collect", dry_run=dry_run)
        return report

    def set_alias(
        self, name: str, alias: str, version: int | None, change: str, *, revision: int | None = None
    ) -> ModelRecord | None:
        """Point an alias to a version."""
        record: bytes | None = self.call("set_alias", name, alias, version, change, revision=revision)
        return None if record is None else _unpack(record)

    def set_traffic(
        self, name: str, plan: TrafficPlan | None, change: str, *, revision: int | None, reason: str | None
    ) -> Traffic:
        """Share the requests to a name out anew."""
        data = None if plan is None else plan.model_dump_json().encode()
        found: bytes = self.call("set_traffic", name, data, change, revision=revision, reason=reason)
        return Traffic.model_validate_json(found)

    def traffic(self) -> dict[str, Traffic]:
        """Return how the requests to names are shared out."""
        return _TRAFFIC.validate_json(self.call("traffic"))

    def traffic_results(self, name: str) -> dict[str, Any]:
        """Return what the arms of a name did."""
        found: dict[str, Any] = self.call("traffic_results", name)
        return found

    def report_traffic(self, name: str, revision: int, arms: Report) -> None:
        """Take what the arms of a name did."""
        self.call("report_traffic", name, revision, arms)

    def get(self, model_id: str) -> ModelRecord:
        """Return a record by its id."""
        return _unpack(self.call("get", model_id))

    def resolve(self, reference: str) -> ModelRecord:
        """Return a record by its id, name, version or alias."""
        return _unpack(self.call("resolve", reference))

    def list(
        self,
        model_type: str | None = None,
        tags: Iterable[str] | None = None,
        status: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> list[ModelRecord]:
        """Return the records that fit."""
        records: bytes = self.call(
            "list", model_type=model_type, tags=tags, status=status, name=name, limit=limit, cursor=cursor
        )
        return _RECORDS.validate_json(records)

    def search(self, query: str, sort: str | None = None, limit: int = 100, cursor: str | None = None) -> SearchPage:
        """Return a page of the records that fit."""
        records, next_cursor = self.call("search", query, sort, limit, cursor)
        return SearchPage(_RECORDS.validate_json(records), next_cursor)

    def changes(self, after: str | None = None, limit: int = 100, wait: float = 0.0) -> ChangePage:
        """Return what happened after a position."""
        changes, position = self.call("changes", after, limit, wait) if wait else self.call("news", after, limit)
        return ChangePage(_CHANGES.validate_json(changes), position)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call the actor; when it is gone for good, call the one that takes its place."""
        import ray

        for last in (False, True):
            handle = self._find(renew=last)
            try:
                remote = getattr(handle, method)
                if method in _WAITING:
                    remote = remote.options(concurrency_group=method)
                return ray.get(remote.remote(*args, **kwargs), timeout=_PATIENCE)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                raise cause from cause.__cause__
            except ray.exceptions.ActorDiedError as error:
                if last:
                    raise BackendUnavailable(
                        f"the registry actor {actor_name(self._config.storage.uri)} does not stay alive: {error}",
                        hint="See its log in Ray's session directory.",
                    ) from error
                logger.warning("event=registry_actor_died action=find_or_create reason=%s", error)
            except ray.exceptions.GetTimeoutError as error:
                raise BackendUnavailable(
                    f"the registry actor {actor_name(self._config.storage.uri)} did not answer in {_PATIENCE:g} s",
                    hint="See whether the cluster has a live node: ray status. The call may have been carried out.",
                ) from error
        raise AssertionError("the loop returns or raises")  # for the type checker

    def _find(self, *, renew: bool = False) -> Any:
        """Return the handle; it belongs to one Ray session, and a process may see several."""
        import ray

        session = ray.get_runtime_context().get_node_id()
        if self._handle is None or renew or session != self._session:
            remote: Any = ray.remote  # its overloads do not know concurrency groups
            self._handle = (
                remote(concurrency_groups=_WAITING)(ModelActor)
                .options(
                    name=actor_name(self._config.storage.uri),
                    namespace=NAMESPACE,
                    lifetime="detached",
                    get_if_exists=True,
                    num_cpus=0,
                    max_restarts=-1,
                    max_task_retries=-1,
                    max_concurrency=_THREADS,
                )
                .remote(self._config)
            )
            self._session = session
        return self._handle


def _pack(record: ModelRecord) -> bytes:
    return record.model_dump_json().encode()


def _unpack(data: bytes) -> ModelRecord:
    return ModelRecord.model_validate_json(data)


def actor_name(uri: str) -> str:
    """Return the name of the actor that keeps the models of a store.

    Examples
    --------
    >>> actor_name("file:///var/lib/models")
    'models-e39b38369ae11f96'
    """
    return f"models-{hashlib.sha256(uri.rstrip('/').encode()).hexdigest()[:16]}"
