"""Changes of the table of models: each is decided against a table, and returns the events and the answer.

They are commands of `registry.journal` in the making: `ModelCatalog` closes them over their arguments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, get_args

from compute.errors import ArtifactCondemned, Conflict, InvalidField, ModelNotFound, RevisionMismatch
from registry.entry import Event
from registry.limits import check_json, check_metrics, check_name, check_tags, merge
from registry.models import Draft, ModelTable, Name
from registry.records import ModelRecord, Status
from registry.traffic import Traffic, TrafficPlan

_CHANGEABLE = ("status", "metrics", "tags", "metadata")
_FIXED = tuple(field for field in ModelRecord.model_fields if field not in _CHANGEABLE)


def register(table: ModelTable, draft: Draft) -> tuple[Sequence[Event], ModelRecord]:
    """Give the draft the next version of its name."""
    if draft.model_id in table.records:  # the answer to the first attempt was lost
        return (), table.records[draft.model_id]
    if draft.model_id in table.deleted:  # and meanwhile someone deleted it
        return (), table.deleted[draft.model_id][0]
    fingerprint = draft.fingerprint()
    if draft.idempotency_key is not None and draft.idempotency_key in table.keys:
        model_id, first = table.keys[draft.idempotency_key]
        if model_id in table.records:  # deleting a model frees its key
            if first == fingerprint:
                return (), table.records[model_id]
            raise Conflict(
                f"the idempotency key {draft.idempotency_key!r} was used for {model_id}, which has other content",
                hint="Use a new key for each model; repeat one only with the very same arguments.",
                context={"field": "idempotency_key", "model_id": model_id},
            )
    generation = table.generations.get(draft.artifact.digest, 0)
    if draft.artifact.generation != generation:
        raise ArtifactCondemned(
            f"the bytes {draft.artifact.digest} were collected while this model was being registered",
            hint="Write them again in the generation that the context names, and register anew.",
            context={"digest": draft.artifact.digest, "generation": generation},
        )
    now = datetime.now(UTC)
    record = ModelRecord(
        **{field: getattr(draft, field) for field in Draft.model_fields if field != "idempotency_key"},
        version=table.names.get(draft.name, Name()).newest + 1,
        created_at=now,
        updated_at=now,
    )
    event = {
        "kind": "registered",
        "record": record.model_dump(mode="json"),
        "key": draft.idempotency_key,
        "fingerprint": fingerprint if draft.idempotency_key is not None else None,
    }
    return (event,), record


def update(
    table: ModelTable, model_id: str, updates: Mapping[str, Any], revision: int | None, change: str
) -> tuple[Sequence[Event], ModelRecord]:
    """Change status, tags, metrics and metadata; keys that are no field of a record go into the metadata."""
    record = table.get(model_id)
    if change in table.changes:
        return (), record
    _check_revision(record, revision)
    fields = _changed_fields(record, updates)
    if not fields:
        return (), record
    now = datetime.now(UTC)
    event = {"kind": "updated", **_named(record), "fields": fields, "at": now.isoformat(), "change": change}
    new = {**fields, "tags": tuple(fields.get("tags", record.tags)), "updated_at": now, "revision": record.revision + 1}
    return (event,), record.model_copy(update=new)


def delete(
    table: ModelTable, model_id: str, revision: int | None, change: str, *, force: bool
) -> tuple[Sequence[Event], None]:
    """Hide a model from all readers; its version is not given again."""
    if change in table.changes:
        return (), None
    record = table.get(model_id)
    _check_revision(record, revision)
    if record.aliases and not force:
        raise Conflict(
            f"{model_id} is {', '.join(f'{record.name}@{alias}' for alias in record.aliases)}",
            hint="Point the alias to another version first, or delete it with force.",
            context={"model_id": model_id, "aliases": list(record.aliases)},
        )
    if not force:
        _check_not_in_traffic(table, record.name, str(record.version), *record.aliases)
    return ({"kind": "deleted", **_named(record), "at": _now(), "change": change},), None


def restore(table: ModelTable, model_id: str, keep: timedelta, change: str) -> tuple[Sequence[Event], ModelRecord]:
    """Bring a deleted model back as it was, but for its aliases, which may point elsewhere by now."""
    if change in table.changes or model_id in table.records:
        return (), table.get(model_id)
    record, deleted_at = table.deleted.get(model_id, (None, ""))
    if record is None:
        return (), table.get(model_id)  # which says that there is none
    now = datetime.now(UTC)
    if now >= (until := datetime.fromisoformat(deleted_at) + keep):
        raise ModelNotFound(
            f"{model_id} was deleted at {deleted_at} and could be restored until {until.isoformat()}",
            hint="storage.keep_deleted_days says how long; register the model again.",
            context={"model_id": model_id, "restorable_until": until.isoformat()},
        )
    event = {"kind": "restored", **_named(record), "at": now.isoformat(), "change": change}
    return (event,), record.model_copy(update={"updated_at": now, "revision": record.revision + 1})


def purge(table: ModelTable, keep: timedelta, limit: int) -> tuple[Sequence[Event], int]:
    """Drop models whose time to be restored is over; returns how many, at most the limit."""
    over = [record for record, _ in islice(expired(table, keep), limit)]
    keys = {model_id: key for key, (model_id, _) in table.keys.items()} if over else {}
    at = _now()
    events = [{"kind": "purged", **_named(record), "at": at, "key": keys.get(record.model_id)} for record in over]
    return events, len(events)


def expired(table: ModelTable, keep: timedelta) -> Iterator[tuple[ModelRecord, str]]:
    """Give the deleted models whose time to be restored is over."""
    before = datetime.now(UTC) - keep
    return (entry for entry in table.deleted.values() if datetime.fromisoformat(entry[1]) <= before)


def condemn(
    table: ModelTable, candidates: Mapping[str, int], leaving: Set[str] = frozenset()
) -> tuple[Sequence[Event], Mapping[str, int]]:
    """Give the next generation to digests that no model names but those leaving; returns that of each candidate.

    From then on no registration can name the bytes of the generation before: they may be removed.
    """
    named = {record.artifact.digest for record in referring(table) if record.model_id not in leaving}
    fresh = {
        digest: generation + 1
        for digest, generation in candidates.items()
        if digest not in named and generation == table.generations.get(digest, 0)
    }
    events = [{"kind": "condemned", "digests": fresh, "at": _now()}] if fresh else []
    return events, {digest: fresh.get(digest, table.generations.get(digest, 0)) for digest in candidates}


def referring(table: ModelTable) -> Iterator[ModelRecord]:
    """Give the models whose bytes are needed: those there are, and those that can be restored."""
    yield from table.records.values()
    yield from (record for record, _ in table.deleted.values())


def set_alias(
    table: ModelTable, name: str, alias: str, version: int | None, change: str, *, revision: int | None = None
) -> tuple[Sequence[Event], ModelRecord | None]:
    """Point an alias to a version, wherever it pointed before; to None takes it away."""
    known = table.names.get(name)
    if known is None:
        raise ModelNotFound(
            f"there is no model of the name {str(name)[:100]!r}",
            hint="List the models to see which there are.",
            context={"name": str(name)[:100]},
        )
    check_name(alias, "alias")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
        raise InvalidField(
            f"version {version!r:.100} is not allowed", hint="It is an integer.", context={"field": "version"}
        )
    current = known.aliases.get(alias)
    target = None if version is None else table.get_version(name, version, f"{name}:{version}")
    if change in table.changes:
        return (), target
    touched = target if version is not None else table.records.get(table.versions.get((name, current or 0), ""))
    if touched is not None:
        _check_revision(touched, revision)
    if current == version or touched is None:
        return (), target
    if version is None:
        _check_not_in_traffic(table, name, alias)
    now = datetime.now(UTC)
    event = {
        "kind": "aliased", **_named(touched), "alias": alias, "version": version, "previous": current,
        "at": now.isoformat(), "change": change,
    }  # fmt: skip
    if target is not None:
        aliases = tuple(sorted({*target.aliases, alias}))
        target = target.model_copy(update={"aliases": aliases, "updated_at": now, "revision": target.revision + 1})
    return (event,), target


def set_traffic(
    table: ModelTable, name: str, plan: TrafficPlan | None, change: str, *, revision: int | None, reason: str | None
) -> tuple[Sequence[Event], Traffic]:
    """Share the requests to a name out anew; None leaves them to what the name stands for."""
    resolved = table.resolve(check_name(name))  # which says so when there is none of this name
    current = table.traffic.get(name)
    at = current.revision if current is not None else 0
    if change in table.changes and current is not None:
        return (), current
    if revision is not None and revision != at:
        raise RevisionMismatch(
            f"the traffic of {name} is at revision {at}, not {revision!r:.100}",
            hint="Read it again, and decide anew.",
            context={"name": name, "revision": at},
        )
    if plan is not None:
        records = {target: table.get_target(name, target) for target in sorted(plan.targets)}
        resolved = records[max(plan.arms, key=lambda target: plan.arms[target])]
    now = datetime.now(UTC)
    traffic = Traffic(name=name, plan=plan, revision=at + 1, changed_at=now, reason=reason)
    if current is None and plan is None:
        return (), traffic
    event = {
        "kind": "traffic", **_named(resolved), "traffic": traffic.model_dump(mode="json"),
        "at": now.isoformat(), "change": change,
    }  # fmt: skip
    return (event,), traffic


def _check_not_in_traffic(table: ModelTable, name: str, *targets: str) -> None:
    traffic = table.traffic.get(name)
    plan = traffic.plan if traffic is not None else None
    used = next((target for target in targets if plan is not None and target in plan.targets), None)
    if used is not None:
        raise Conflict(
            f"the traffic of {name} goes to {used!r}",
            hint="Change its traffic first; a model can also be deleted with force.",
            context={"name": name, "target": used},
        )


def _named(record: ModelRecord) -> Event:
    """Return what an event says about the model that it is about."""
    return {"model_id": record.model_id, "name": record.name, "version": record.version}


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _check_revision(record: ModelRecord, revision: int | None) -> None:
    if revision is not None and revision != record.revision:
        raise RevisionMismatch(
            f"{record.model_id} is at revision {record.revision}, not {revision!r:.100}",
            hint="Read it again, and decide anew.",
            context={"model_id": record.model_id, "revision": record.revision},
        )


def _changed_fields(record: ModelRecord, updates: Mapping[str, Any]) -> dict[str, Any]:
    """Return the new values of the fields that the updates change."""
    updates = check_json(_listed(updates), "updates")
    if fixed := [field for field in updates if field in _FIXED]:
        raise Conflict(
            f"the field {fixed[0]!r} of a model may not change",
            hint=f"{', '.join(_CHANGEABLE)} may; a metadata key of that name goes in {{'metadata': {{...}}}}.",
            context={"field": fixed[0]},
        )
    new: dict[str, Any] = {}
    if "status" in updates:
        if updates["status"] not in get_args(Status):
            raise InvalidField(
                f"status {updates['status']!r:.100} is not allowed",
                hint=f"It is one of {', '.join(get_args(Status))}.",
                context={"field": "status"},
            )
        new["status"] = updates["status"]
    if "tags" in updates:
        new["tags"] = list(check_tags(updates["tags"]))
    if "metrics" in updates:
        new["metrics"] = check_metrics(merge(record.metrics, check_json(updates["metrics"], "metrics")))
    metadata = {key: value for key, value in updates.items() if key not in _CHANGEABLE}
    metadata = {**check_json(updates.get("metadata", {}), "metadata"), **metadata}
    new["metadata"] = check_json(merge(record.metadata, metadata), "metadata")
    old = record.model_dump(mode="json", include=set(new))
    return {field: value for field, value in new.items() if value != old[field]}


def _listed(updates: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let tags be a set, as they may be at registration."""
    if isinstance(updates, Mapping) and isinstance(updates.get("tags"), set | frozenset):
        return {**updates, "tags": sorted(updates["tags"])}
    return updates
