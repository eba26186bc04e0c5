"""The table of models: plain state built from events. No Ray, no I/O.

Every change is decided against the table as it is and written down as an event; `ModelTable.apply` makes it so. The
same events in the same order give the same table in every process.
"""

from __future__ import annotations

import copy
import hashlib
import re
import uuid
from collections.abc import Hashable, Iterable, Iterator, Mapping, MutableMapping
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

from compute.errors import Corrupt, InvalidField
from registry.columns import Columns
from registry.entry import Event, encode_json
from registry.limits import is_id
from registry.misses import no_model, no_version
from registry.overlay import Overlay
from registry.records import Artifact, Format, Metrics, ModelRecord
from registry.signature import Signature
from registry.traffic import Traffic

CHAMPION = "champion"
"""The alias that a name alone stands for, when it is set."""

_REMEMBERED_CHANGES = 10_000
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_FIELDS = set(ModelRecord.model_fields)


class Draft(BaseModel):
    """What is to be registered; its fields were checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_id: str
    name: str
    model_type: str
    format: Format
    artifact: Artifact
    signature: Signature | None = None
    metadata: dict[str, Any] = {}
    tags: tuple[str, ...] = ()
    metrics: Metrics = {}
    lineage: dict[str, Any] = {}
    idempotency_key: str | None = None

    def fingerprint(self) -> str:
        """Return what tells a repetition from another registration under the same idempotency key."""
        # The generation is the store's: bytes that had to be written again are the same bytes.
        told: Any = {"model_id": True, "idempotency_key": True, "artifact": {"generation"}}
        content = self.model_dump(mode="json", exclude=told)
        return hashlib.sha256(encode_json(content)).hexdigest()


class Name(NamedTuple):
    """What is known about a name: the newest version it was given, and which its aliases point to."""

    newest: int = 0
    aliases: Mapping[str, int] = {}


def new_id() -> str:
    """Make an id of a model, which cannot be guessed.

    Examples
    --------
    >>> is_id(new_id())
    True
    """
    return f"m-{uuid.uuid4().hex}"


class ModelTable:
    """All models, their names and aliases; a `registry.journal.State`."""

    def __init__(self) -> None:
        self.records: MutableMapping[str, ModelRecord] = {}
        self.deleted: MutableMapping[str, tuple[ModelRecord, str]] = {}
        """Those that can be restored, with the time of deletion."""
        self.order: MutableMapping[str, int] = {}
        """When each was registered, deleted ones too: 1 is the first."""
        self.registered = 0
        """How many ever were: what the newest has in `order`."""
        self.names: MutableMapping[str, Name] = {}
        self.traffic: MutableMapping[str, Traffic] = {}
        """By name; one without a plan was taken away, and keeps its revision."""
        self.versions: MutableMapping[tuple[str, int], str] = {}
        self.keys: MutableMapping[str, tuple[str, str]] = {}
        """Idempotency keys, with the model's id and the fingerprint of its draft."""
        self.generations: MutableMapping[str, int] = {}
        """Digests whose bytes were collected, and how often: the generation in which they may be written again."""
        self.changes: MutableMapping[str, str] = {}
        """Ids of late changes and the models they changed: a call that is repeated after a crash happens once."""

        self.signatures: MutableMapping[Hashable, Signature] = {}
        """Each signature once, for the versions of a model mostly have the same: it is the largest part of a record."""
        self.columns = Columns(self.records, self.order)
        """What searches look at; a fork, which only decides, has none of its own."""

    # Reading

    def get(self, model_id: str) -> ModelRecord:
        """Return a record by its id."""
        record = self.records.get(model_id) if isinstance(model_id, str) else None
        if record is not None:
            return record
        raise no_model(self, model_id)

    def resolve(self, reference: str) -> ModelRecord:
        """Return the record that an id, ``name``, ``name@alias`` or ``name:version`` stands for."""
        if not isinstance(reference, str) or is_id(reference) or reference in self.records:
            return self.get(reference)
        name, at, alias = reference.partition("@")
        if at:
            return self.get_version(name, self.names.get(name, Name()).aliases.get(alias), reference)
        name, colon, version = reference.partition(":")
        if colon:
            return self.get_version(name, int(version) if _VERSION.fullmatch(version) else None, reference)
        known = self.names.get(name, Name())
        if CHAMPION in known.aliases:
            return self.get_version(name, known.aliases[CHAMPION], reference)
        return self.active(name) or self.get_version(name, None, reference)

    def get_version(self, name: str, version: int | None, reference: str) -> ModelRecord:
        """Return a version of a name; the reference is for the error."""
        record = self.records.get(self.versions.get((name, version or 0), ""))
        if record is not None:
            return record
        raise no_version(self, name, version, reference)

    def get_target(self, name: str, target: str) -> ModelRecord:
        """Return the version that an arm of a name's traffic stands for now: a number, or an alias."""
        if _VERSION.fullmatch(target):
            return self.get_version(name, int(target), f"{name}:{target}")
        return self.get_version(name, self.names.get(name, Name()).aliases.get(target), f"{name}@{target}")

    def active(self, name: str) -> ModelRecord | None:
        """Return the newest version that is active."""
        for number in range(self.names.get(name, Name()).newest, 0, -1):
            record = self.records.get(self.versions.get((name, number), ""))
            if record is not None and record.status == "active":
                return record
        return None

    # State

    def apply(self, event: Event) -> None:
        """Make the change that an event says."""
        kind = event["kind"]
        if kind == "registered":
            self._add(ModelRecord.model_validate(event["record"]), self.registered + 1)
            if event["key"] is not None:
                self.keys[event["key"]] = (event["record"]["model_id"], event["fingerprint"])
        elif kind == "updated":
            changes = {**event["fields"]}
            if "tags" in changes:
                changes["tags"] = tuple(changes["tags"])
            self._replace(event["model_id"], event["at"], changes)
        elif kind == "aliased":
            self._point(event["name"], event["alias"], event["version"], event["at"])
        elif kind == "traffic":
            self.traffic[event["name"]] = Traffic.model_validate(event["traffic"])
        elif kind == "deleted":
            self._remove(event["model_id"], event["at"])
        elif kind == "restored":
            self._restore(event["model_id"], event["at"])
        elif kind == "purged":
            del self.deleted[event["model_id"]], self.order[event["model_id"]]
            self.columns.forget()
            if event["key"] is not None:
                del self.keys[event["key"]]
        elif kind == "condemned":
            self.generations.update(event["digests"])
        else:
            raise Corrupt(f"the journal of models holds an event of the unknown kind {kind!r}")
        if "change" in event:
            self._remember(event["change"], event["model_id"])

    def fork(self) -> Self:
        """Return a copy that takes changes of its own."""
        fork = copy.copy(self)
        for field, value in vars(self).items():
            if isinstance(value, MutableMapping):
                setattr(fork, field, Overlay(value))
        fork.columns = Columns(fork.records, fork.order)
        return fork

    def dump(self) -> Iterable[Any]:
        """Return the table as JSON values."""
        records, deleted, order = dict(self.records), dict(self.deleted), dict(self.order)
        names, keys, changes = dict(self.names), dict(self.keys), dict(self.changes)
        traffic = list(self.traffic.values())
        registered, generations = self.registered, dict(self.generations)

        def items() -> Iterator[Any]:
            yield {"registered": registered}
            for plan in traffic:
                yield {"traffic": plan.model_dump(mode="json")}
            signatures: dict[int | None, int | None] = {None: None}
            for name, known in names.items():
                yield {"name": name, "newest": known.newest, "aliases": dict(known.aliases)}
            for model_id, number in order.items():
                record, at = deleted[model_id] if model_id in deleted else (records[model_id], None)
                # The versions of a model share their signature: it comes before the first, and all have its number.
                shared = None if record.signature is None else id(record.signature)
                if record.signature is not None and shared not in signatures:
                    signatures[shared] = len(signatures) - 1
                    yield {"signature": record.signature.model_dump(mode="json")}
                fields = record.model_dump(mode="json", exclude={"signature"}) | {"signature": signatures[shared]}
                yield {"record": fields, "deleted_at": at, "order": number}
            for key, (model_id, fingerprint) in keys.items():
                yield {"key": key, "model_id": model_id, "fingerprint": fingerprint}
            for digest, generation in generations.items():
                yield {"digest": digest, "generation": generation}
            for change, model_id in changes.items():
                yield {"change": change, "model_id": model_id}

        return items()

    def load(self, items: Iterable[Any]) -> None:
        """Take the table from what `dump` gave; releases before 0.2 gave no order, and dropped no model."""
        last = 0
        signatures: list[Signature] = []
        for item in items:
            if "record" in item:
                fields = item["record"]
                if isinstance(fields["signature"], int):
                    fields["signature"] = signatures[fields["signature"]]
                    record = ModelRecord.model_validate(fields)
                    self._insert(record, item["order"])
                else:  # none, or as releases before 0.2 wrote it
                    record = ModelRecord.model_validate(fields)
                    self._add(record, item.get("order", self.registered + 1))
                if item["deleted_at"] is not None:
                    self._remove(record.model_id, item["deleted_at"])
            elif "signature" in item:
                signature = Signature.model_validate(item["signature"])
                signatures.append(self._shared(signature))
            elif "traffic" in item:
                self.traffic[item["traffic"]["name"]] = Traffic.model_validate(item["traffic"])
            elif "name" in item:
                self.names[item["name"]] = Name(item["newest"], item["aliases"])
            elif "key" in item:
                self.keys[item["key"]] = (item["model_id"], item["fingerprint"])
            elif "digest" in item:
                self.generations[item["digest"]] = item["generation"]
            elif "change" in item:
                self.changes[item["change"]] = item["model_id"]
            else:
                last = item["registered"]
        self.registered = max(self.registered, last)

    def _add(self, record: ModelRecord, order: int) -> None:
        if record.signature is not None:
            record = record.model_copy(update={"signature": self._shared(record.signature)})
        self._insert(record, order)

    def _shared(self, signature: Signature) -> Signature:
        """Return the one object of all signatures that are the same; the classes 0 and 1 are not false and true."""
        return self.signatures.setdefault((signature, *map(type, signature.classes or ())), signature)

    def _insert(self, record: ModelRecord, order: int) -> None:
        known = self.names.get(record.name, Name())
        self.records[record.model_id] = _lean(record)
        self.order[record.model_id] = self.registered = order
        self.versions[record.name, record.version] = record.model_id
        self.names[record.name] = known._replace(newest=max(known.newest, record.version))
        self.columns.put(record, order)

    def _replace(self, model_id: str, at: str, changes: dict[str, Any]) -> None:
        record = self.records[model_id]
        new = {**changes, "updated_at": datetime.fromisoformat(at), "revision": record.revision + 1}
        self.records[model_id] = changed = _lean(record.model_copy(update=new))
        self.columns.put(changed, self.order[model_id])

    def _point(self, name: str, alias: str, version: int | None, at: str) -> None:
        known = self.names[name]
        aliases = dict(known.aliases)
        touched = {aliases.pop(alias, None), version} - {None}
        if version is not None:
            aliases[alias] = version
        self.names[name] = known._replace(aliases=aliases)
        for number in touched:
            model_id = self.versions[name, number]  # type: ignore[index]
            pointing = tuple(sorted(key for key, target in aliases.items() if target == number))
            self._replace(model_id, at, {"aliases": pointing})

    def _remove(self, model_id: str, at: str) -> None:
        record = self.records.pop(model_id)
        del self.versions[record.name, record.version]
        known = self.names[record.name]
        aliases = {alias: version for alias, version in known.aliases.items() if version != record.version}
        self.names[record.name] = known._replace(aliases=aliases)
        self.deleted[model_id] = (_lean(record.model_copy(update={"aliases": ()})), at)
        self.columns.drop(self.order[model_id])

    def _restore(self, model_id: str, at: str) -> None:
        record, _ = self.deleted.pop(model_id)
        self.records[model_id] = record
        self.versions[record.name, record.version] = model_id
        self._replace(model_id, at, {})

    def _remember(self, change: str, model_id: str) -> None:
        self.changes[change] = model_id
        if len(self.changes) > 2 * _REMEMBERED_CHANGES:
            for old in list(islice(self.changes, _REMEMBERED_CHANGES)):
                del self.changes[old]


def _lean(record: ModelRecord) -> ModelRecord:
    """Let all records share the set of the fields that were given: a fourth of what each would take."""
    object.__setattr__(record, "__pydantic_fields_set__", _FIELDS)
    return record


def checked_key(key: object) -> str | None:
    """Return an idempotency key, or None for none."""
    if key is None or (isinstance(key, str) and 1 <= len(key) <= 200 and key.isprintable()):
        return key
    raise InvalidField(
        f"idempotency_key {key!r:.100} is not allowed",
        hint="It is a text of 1 to 200 printable characters.",
        context={"field": "idempotency_key"},
    )
