"""Models to measure with: drafts with all that a real one has, and stores full of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from registry import Event, ObjectStore, commands
from registry.catalog import PREFIX
from registry.entry import encode_json
from registry.log import Log
from registry.models import Draft, ModelTable, new_id
from registry.records import Artifact
from registry.signature import Column, Signature

CONDITIONS = 'tags contains "team-{team}" and metrics.rmse < 500'
"""One model in twenty."""

_AT_ONCE = 500
_TAIL = 990
"""Entries of the log after the snapshot: the most there are in ordinary use, before the next snapshot is written."""

_SIGNATURE = Signature(
    columns=(
        *(Column(name=f"feature_{number}", dtype="float", nullable=True) for number in range(8)),
        Column(name="carrier", dtype="category", categories=("AA", "B6", "DL", "EV", "UA")),
    ),
    target="delay",
)


def draft(number: int, name: str | None = None) -> Draft:
    """Make a draft; names are shared by ten models unless one is given."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return Draft(
        model_id=new_id(),
        name=name or f"model-{number // 10:06d}",
        model_type="xgboost",
        format="xgboost-ubj",
        artifact=Artifact(digest=f"sha256:{digest}", size=100_000 + number),
        signature=_SIGNATURE,
        metadata=metadata(number),
        tags=(f"team-{number % 10}", "candidate"),
        metrics={"rmse": float(number % 997), "r2": 0.5},
        lineage={"data": f"s3://tables/{number}.parquet", "parameters": {"max_depth": 8, "eta": 0.1}},
    )


def metadata(number: int) -> dict[str, Any]:
    """Return the metadata of a model."""
    return {"owner": "ops", "description": "Delays", "rows": 1000 + number}


def metadata_bytes(models: int) -> int:
    """Return the size of the metadata of so many models as JSON."""
    return sum(len(json.dumps(metadata(number))) for number in range(models))


def fill(store: ObjectStore, models: int) -> None:
    """Put models into a store: most of them in a snapshot, the rest one to an entry of the log."""
    log, table, sequence = Log(store, PREFIX), ModelTable(), 0

    def append(numbers: Iterable[int]) -> None:
        nonlocal sequence
        events = [event for number in numbers for event in _registered(table, number)]
        sequence += 1
        log.append(sequence, [encode_json(event) for event in events])

    packed = max(0, models - _TAIL)
    for start in range(0, packed, _AT_ONCE):
        append(range(start, min(start + _AT_ONCE, packed)))
    log.write_snapshot(sequence, table.dump())
    for number in range(packed, models):
        append([number])


def _registered(table: ModelTable, number: int) -> Sequence[Event]:
    events, _ = commands.register(table, draft(number))
    for event in events:
        table.apply(event)
    return events
