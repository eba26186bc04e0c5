"""Check the objects that records name: artifacts of models, payloads and results of tasks, tokens."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from compute.errors import KeyNotFound
from registry.artifacts import ArtifactStore
from registry.findings import Progress, Report
from registry.models import ModelTable
from registry.parallel import read_ahead
from registry.store import ObjectStore, StoredObject
from registry.tasks import TaskTable

_BLOB = re.compile(r"blobs/sha256/(?P<first>[0-9a-f]{2})/(?P<digest>(?P=first)[0-9a-f]{62})(?:\.[1-9][0-9]*)?")
_CHUNK = 1 << 20
_READERS = 8
_RESTORE = "restore it from a backup of the store"


class _Named(NamedTuple):
    """An object that records name, and the first of them."""

    size: int
    digest: str
    by: str


def check_artifacts(
    store: ObjectStore, newest: Callable[[], ModelTable | None], report: Report, progress: Progress
) -> None:
    """Check every artifact that lies there against the digest in its key, and that all models have theirs.

    Parameters
    ----------
    store : ObjectStore
        Where they lie.
    newest : callable
        Gives the models as they are now; None when that cannot be told.
    report : Report
        Takes what is found.
    progress : Progress
        Is told how far it is.
    """
    found = {stored.key: stored for stored in store.scan("blobs/")}
    digests = {key: match["digest"] for key in found if (match := _BLOB.fullmatch(key))}
    _check_contents(store, "artifacts", digests, report, progress)
    for key in found.keys() - digests.keys():
        report.note(key, "has no business among the artifacts", "move it away")
    _check_named(store, lambda: _artifacts(store, newest()), found, report)
    if (named := _artifacts(store, newest())) is not None:
        for key in digests.keys() - named.keys():
            problem = f"is named by no model ({found[key].size:,} bytes)"
            report.note(
                key, problem, "a collection removes it an hour after it was written: python -m registry.collect"
            )


def check_tasks(store: ObjectStore, newest: Callable[[], TaskTable | None], report: Report, progress: Progress) -> None:
    """Check the payloads and results of tasks; the parameters are those of `check_artifacts`."""
    found = {stored.key: stored for kind in ("payloads", "results") for stored in store.scan(f"tasks/{kind}/")}
    others = [key for kind in ("progress", "best") for key in store.list(f"tasks/{kind}/")]
    before = _task_objects(newest())
    if before is None:
        return
    digests = {key: before[key].digest for key in before.keys() & found.keys()}
    _check_contents(store, "objects of tasks", digests, report, progress)
    _check_named(store, lambda: _task_objects(newest()), found, report)
    tasks = newest()
    named = _task_objects(tasks)
    if tasks is None or named is None:
        return
    # A run that is under way may have written its result and not committed it yet.
    known = {record.task_id for record in tasks.records()}
    unnamed = {key for key in found if key not in named}
    for key in [*sorted(unnamed), *others]:
        if key.split("/")[2].removesuffix(".json") not in known:
            report.note(key, "is named by no task", "delete it, unless its task was submitted in the last minutes")


def check_tokens(store: ObjectStore, report: Report) -> None:
    """Check that every token can be read; it holds no checksum."""
    for key in store.list("tokens/"):
        try:
            token: Any = json.loads(store.get(key))
        except KeyNotFound:
            continue  # removed meanwhile
        except ValueError:
            token = None
        report.count("tokens")
        if not isinstance(token, dict) or key != f"tokens/{token.get('id')}.json":
            report.damage(key, "is no token", "delete it, and make a new one: python -m deployments.tokens create")


def _check_contents(
    store: ObjectStore, kind: str, digests: Mapping[str, str], report: Report, progress: Progress
) -> None:
    """Compare what lies under each key with the digest that it should have."""

    def digest_of(key: str) -> str | None:
        digest = hashlib.sha256()
        try:
            with store.open(key) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except KeyNotFound:
            return None  # it was removed after it was listed; whether it may be is seen later
        return digest.hexdigest()

    keys = sorted(digests)
    for done, (key, found) in enumerate(zip(keys, read_ahead(digest_of, keys, ahead=_READERS), strict=True), start=1):
        progress(kind, done, len(keys))
        report.count(kind)
        if found not in (digests[key], None):
            report.damage(key, f"holds other bytes than were written (sha256:{found})", _RESTORE)


def _check_named(
    store: ObjectStore,
    named: Callable[[], dict[str, _Named] | None],
    found: Mapping[str, StoredObject],
    report: Report,
) -> None:
    """Check that all that records name is there, in its size; also when it was written or removed meanwhile."""

    def wrong(objects: Mapping[str, _Named]) -> dict[str, str]:
        wanting = {}
        for key, expected in objects.items():
            try:
                size = (found[key] if key in found else store.stat(key)).size
            except KeyNotFound:
                wanting[key] = "is gone"
                continue
            if size != expected.size:
                wanting[key] = f"has {size:,} bytes instead of {expected.size:,}"
        return wanting

    if wanting := wrong(named() or {}):
        now = named() or {}
        for key, problem in wanting.items():
            if key in now:
                report.damage(key, f"{problem}, and {now[key].by} needs it", _RESTORE)


def _artifacts(store: ObjectStore, models: ModelTable | None) -> dict[str, _Named] | None:
    if models is None:
        return None
    artifacts, named = ArtifactStore(store), dict[str, _Named]()
    for record in [*models.records.values(), *(record for record, _ in models.deleted.values())]:
        digest = record.artifact.digest.removeprefix("sha256:")
        key = artifacts.key(record.artifact)
        named.setdefault(key, _Named(record.artifact.size, digest, f"{record.name}:{record.version}"))
    return named


def _task_objects(tasks: TaskTable | None) -> dict[str, _Named] | None:
    if tasks is None:
        return None
    places = [(record, place) for record in tasks.records() for place in (record.payload, record.result) if place]
    return {
        place["key"]: _Named(place["size"], place["sha256"], record.task_id)
        for record, place in places
        if "key" in place
    }
