"""What happened to models, in order: the journal's events as changes that others may rely on.

A position says where the feed goes on: ``<sequence>.<index>`` is before the change of this index in this entry of the
journal, so what lies behind a position needs no entry that was read before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from compute.errors import InvalidField, PositionGone
from registry.entry import Event

if TYPE_CHECKING:
    from registry.journal import Journal
    from registry.models import ModelTable

Kind = Literal[
    "model.registered",
    "model.updated",
    "model.status_changed",
    "model.aliased",
    "model.deleted",
    "model.restored",
    "model.purged",
    "model.traffic_changed",
]
KINDS: tuple[str, ...] = get_args(Kind)
START = "1.0"
"""The position before everything."""

MAX_WAIT = 30.0
"""Seconds that one call waits for a change, at most."""

_POSITION = re.compile(r"([1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,5})")
_REGISTERED = ("model_type", "format", "artifact", "status", "tags", "metrics")
"""What the change tells of a new record; the rest, which may be large, is in the record."""


class Change(BaseModel):
    """One thing that happened to a model.

    Examples
    --------
    >>> event = {"kind": "deleted", "model_id": "m-1", "name": "delays", "version": 2, "at": "2026-01-02T00:00:00Z"}
    >>> [change] = changes_of(7, [event])
    >>> change.kind, change.name, change.version, change.position
    ('model.deleted', 'delays', 2, '8.0')
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    position: str = Field(description="Where the feed goes on after this change: give it as `after`.")
    kind: Kind
    at: AwareDatetime
    model_id: str
    name: str | None = Field(None, description="None in entries that release 0.1 wrote, which noted the id alone.")
    version: int | None = Field(None, description="None as well for an alias that was taken away.")
    changed: dict[str, Any] = Field({}, description="What is new: fields with their values, or an alias.")


class ChangePage(NamedTuple):
    """Changes in their order, and the position after them."""

    changes: list[Change]
    position: str


def changes_of(sequence: int, events: Sequence[Event]) -> list[Change]:
    """Return the changes that an entry of the journal made; events that are no concern of users give none.

    Parameters
    ----------
    sequence : int
        The number of the entry.
    events : sequence of event
        What it holds.
    """
    facts = [fact for event in events for fact in _facts(event)]
    last = len(facts) - 1
    return [
        Change(position=f"{sequence + 1}.0" if index == last else f"{sequence}.{index + 1}", **fact)
        for index, fact in enumerate(facts)
    ]


def read_changes(journal: Journal[ModelTable], after: str | None, limit: int, wait: float) -> ChangePage:
    """Return the changes after a position, and wait for the first one if there is none yet.

    Parameters
    ----------
    journal : Journal
        Of models.
    after : str or None
        A position; None is now. `START` is the beginning of the journal.
    limit : int
        Changes at most, 1 to 1,000.
    wait : float
        Seconds; no longer than `MAX_WAIT`.

    Raises
    ------
    PositionGone
        When what came next was compacted, or the position is not of this store.
    InvalidField
        When it is no position.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1000:
        raise InvalidField(f"limit {limit!r:.100} is not allowed", hint="It is 1 to 1000.", context={"field": "limit"})
    if after is None:
        after = f"{journal.wait(0, 0.0) + 1}.0"
    sequence, skip = parse_position(after)
    newest = journal.wait(sequence - 1, min(max(wait, 0.0), MAX_WAIT))
    if sequence > newest + 1:
        raise PositionGone(
            f"the position {after} is not of this store, whose newest is {newest + 1}.0",
            hint="Begin without a position, and read the models anew.",
            context={"position": after, "newest": f"{newest + 1}.0"},
        )
    found: list[Change] = []
    position = after
    for number, events in journal.entries(sequence - 1, limit=limit):
        found.extend(changes_of(number, events)[skip:])
        position, skip = f"{number + 1}.0", 0
        if len(found) >= limit:
            break
    if len(found) >= limit:
        del found[limit:]
        position = found[-1].position
    return ChangePage(found, position)


def parse_position(position: object) -> tuple[int, int]:
    """Return a position as numbers.

    Examples
    --------
    >>> parse_position("12.1")
    (12, 1)
    """
    match = _POSITION.fullmatch(position) if isinstance(position, str) else None
    if match is None:
        raise InvalidField(
            f"{position!r:.100} is not a position of the change feed",
            hint="Give one that the feed gave, as it is; without one, the feed begins now.",
            context={"field": "after"},
        )
    return int(match[1]), int(match[2])


def _facts(event: Event) -> Iterator[dict[str, Any]]:
    """Give what an event says, once for each kind of change in it."""
    kind = event["kind"]
    if kind == "registered":
        record = event["record"]
        yield {
            "kind": "model.registered", "at": record["created_at"], "model_id": record["model_id"],
            "name": record["name"], "version": record["version"],
            "changed": {field: record[field] for field in _REGISTERED},
        }  # fmt: skip
        return
    if "model_id" not in event:
        return
    about = {key: event.get(key) for key in ("at", "model_id", "name", "version")}
    if kind == "updated":
        fields = event["fields"]
        if "status" in fields:
            yield {**about, "kind": "model.status_changed", "changed": {"status": fields["status"]}}
        if others := {field: value for field, value in fields.items() if field != "status"}:
            yield {**about, "kind": "model.updated", "changed": others}
    elif kind == "aliased":
        changed = {"alias": event["alias"], "version": event["version"], "previous": event.get("previous")}
        yield {**about, "kind": "model.aliased", "changed": changed}
    elif kind == "traffic":
        traffic = event["traffic"]
        changed = {field: traffic[field] for field in ("plan", "revision", "reason")}
        yield {**about, "kind": "model.traffic_changed", "changed": changed}
    elif f"model.{kind}" in KINDS:
        yield {**about, "kind": f"model.{kind}"}
