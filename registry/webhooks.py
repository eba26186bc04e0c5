"""Webhooks: who wants to be told of changes, and how far each was told; kept in a small journal of their own."""

from __future__ import annotations

import base64
import copy
import secrets
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from compute.errors import Conflict, Corrupt, InvalidField, WebhookNotFound
from registry.changes import KINDS, parse_position
from registry.entry import Event
from registry.journal import Journal
from registry.limits import check_name
from registry.overlay import Overlay
from registry.store import ObjectStore

PREFIX = "webhooks"
MAX_WEBHOOKS = 100
DEFAULT_KINDS = (
    "model.registered", "model.aliased", "model.status_changed", "model.traffic_changed", "model.deleted",
    "model.restored",
)  # fmt: skip


class Webhook(BaseModel):
    """A subscription, without its secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    webhook_id: str
    url: str
    kinds: tuple[str, ...] = Field(DEFAULT_KINDS, description="The kinds of change that are told.")
    names: tuple[str, ...] = Field((), description="Only models of these names; none: of any.")
    created_at: AwareDatetime
    status: Literal["active", "disabled"] = "active"
    position: str = Field(description="All changes up to here were delivered, or are of no concern.")
    delivered_at: AwareDatetime | None = None
    failing_since: AwareDatetime | None = Field(None, description="When the first of the failures in a row was.")
    failures: int = Field(0, description="In a row.")
    reason: str | None = Field(None, description="Of the last failure, or why it is disabled.")


class Subscription(Webhook):
    """A webhook with its secret; goes to the journal and to whoever signs, and nowhere else."""

    secret: str = Field(repr=False)

    def public(self) -> Webhook:
        """Return what may be shown."""
        return Webhook.model_validate(self.model_dump(exclude={"secret"}))


class WebhookTable:
    """All webhooks; a `registry.journal.State`."""

    def __init__(self) -> None:
        self.webhooks: MutableMapping[str, Subscription] = {}

    def get(self, webhook_id: str) -> Subscription:
        """Return a subscription."""
        found = self.webhooks.get(webhook_id) if isinstance(webhook_id, str) else None
        if found is None:
            raise WebhookNotFound(
                f"there is no webhook {str(webhook_id)[:100]!r}",
                hint="GET /models/webhooks lists those there are.",
                context={"webhook_id": str(webhook_id)[:100]},
            )
        return found

    def apply(self, event: Event) -> None:
        """Make the change that an event says."""
        kind = event["kind"]
        if kind == "created":
            created = Subscription.model_validate(event["webhook"])
            self.webhooks[created.webhook_id] = created
        elif kind == "removed":
            del self.webhooks[event["webhook_id"]]
        elif kind == "changed":
            webhook = self.webhooks[event["webhook_id"]]
            self.webhooks[webhook.webhook_id] = Subscription.model_validate({**webhook.model_dump(), **event["fields"]})
        else:
            raise Corrupt(f"the journal of webhooks holds an event of the unknown kind {kind!r}")

    def fork(self) -> Self:
        """Return a copy that takes changes of its own."""
        fork = copy.copy(self)
        fork.webhooks = Overlay(self.webhooks)
        return fork

    def dump(self) -> Iterable[Any]:
        """Return the table as JSON values."""
        return [webhook.model_dump(mode="json") for webhook in dict(self.webhooks).values()]

    def load(self, items: Iterable[Any]) -> None:
        """Take the table from what `dump` gave."""
        for item in items:
            webhook = Subscription.model_validate(item)
            self.webhooks[webhook.webhook_id] = webhook


class WebhookLog:
    """The webhooks of one store: the table over its journal.

    Parameters
    ----------
    store : ObjectStore
        Where the journal lies.

    Examples
    --------
    >>> import tempfile
    >>> from registry.file_store import FileStore
    >>> log = WebhookLog(FileStore(tempfile.mkdtemp()))
    >>> webhook = log.create(new_webhook_id(), new_secret(), "https://hooks.example/", None, ["delays"], "1.0")
    >>> log.delivered(webhook.webhook_id, "3.0")
    >>> [(hook.names, hook.position) for hook in log.list()]
    [(('delays',), '3.0')]
    """

    def __init__(self, store: ObjectStore) -> None:
        self.journal: Journal[WebhookTable] = Journal(store, PREFIX, WebhookTable)

    def create(
        self,
        webhook_id: str,
        secret: str,
        url: str,
        kinds: Sequence[str] | None,
        names: Sequence[str] | None,
        position: str,
    ) -> Webhook:
        """Add a webhook that is told what comes after a position; the same id again changes nothing."""
        webhook = Subscription(
            webhook_id=webhook_id,
            url=url,
            kinds=_kinds(kinds),
            names=tuple(dict.fromkeys(check_name(name, "names") for name in _texts(names or (), "names"))),
            created_at=datetime.now(UTC),
            position=position,
            secret=secret,
        )

        def command(table: WebhookTable) -> tuple[Sequence[Event], Webhook]:
            if webhook_id in table.webhooks:
                return (), table.webhooks[webhook_id].public()
            if len(table.webhooks) >= MAX_WEBHOOKS:
                raise Conflict(f"there are {MAX_WEBHOOKS} webhooks already", hint="Delete one that is not needed.")
            return ({"kind": "created", "webhook": webhook.model_dump(mode="json")},), webhook.public()

        return self.journal.execute(command)

    def get(self, webhook_id: str) -> Webhook:
        """Return one."""
        return self.subscription(webhook_id).public()

    def subscription(self, webhook_id: str) -> Subscription:
        """Return one with its secret."""
        return self.journal.read(lambda table: table.get(webhook_id))

    def delete(self, webhook_id: str) -> None:
        """Take one away; no error if it is not there."""

        def command(table: WebhookTable) -> tuple[Sequence[Event], None]:
            known = webhook_id in table.webhooks
            return ([{"kind": "removed", "webhook_id": webhook_id}] if known else []), None

        self.journal.execute(command)

    def delivered(self, webhook_id: str, position: str) -> None:
        """Note that everything up to a position was told; a position behind the one that is noted changes nothing."""

        def fields(webhook: Subscription) -> Mapping[str, Any]:
            if webhook.failures == 0 and parse_position(position) <= parse_position(webhook.position):
                return {}
            newest = max(position, webhook.position, key=parse_position)
            return {**_WELL, "position": newest, "delivered_at": _now()}

        self._change(webhook_id, fields)

    def passed(self, webhook_id: str, position: str) -> None:
        """Note that nothing up to a position is of any concern."""

        def fields(webhook: Subscription) -> Mapping[str, Any]:
            behind = parse_position(position) <= parse_position(webhook.position)
            return {} if behind else {"position": position}

        self._change(webhook_id, fields)

    def failed(self, webhook_id: str, reason: str) -> None:
        """Note a failure."""
        self._change(
            webhook_id,
            lambda webhook: {
                "failing_since": webhook.failing_since.isoformat() if webhook.failing_since else _now(),
                "failures": webhook.failures + 1,
                "reason": reason,
            },
        )

    def disable(self, webhook_id: str, reason: str) -> None:
        """Tell it nothing more."""
        self._change(webhook_id, lambda _: {"status": "disabled", "reason": reason})

    def enable(self, webhook_id: str) -> None:
        """Tell it again, from where it was left."""
        well = {"status": "active", **_WELL}

        def fields(webhook: Subscription) -> Mapping[str, Any]:
            return well if webhook.model_dump(mode="json", include=set(well)) != well else {}

        self._change(webhook_id, fields)

    def active(self) -> list[str]:
        """Return the ids of those that are to be told."""
        return self.journal.read(
            lambda table: [webhook.webhook_id for webhook in table.webhooks.values() if webhook.status == "active"]
        )

    def list(self) -> list[Webhook]:
        """Return all, the oldest first."""
        return self.journal.read(lambda table: [webhook.public() for webhook in table.webhooks.values()])

    def _change(self, webhook_id: str, decide: Callable[[Subscription], Mapping[str, Any]]) -> None:
        def command(table: WebhookTable) -> tuple[Sequence[Event], None]:
            webhook = table.webhooks.get(webhook_id)  # it may have been deleted meanwhile
            fields = {} if webhook is None else dict(decide(webhook))
            return ([{"kind": "changed", "webhook_id": webhook_id, "fields": fields}] if fields else []), None

        self.journal.execute(command)


_WELL = {"failing_since": None, "failures": 0, "reason": None}


def new_webhook_id() -> str:
    """Make an id of a webhook."""
    return f"w-{secrets.token_hex(16)}"


def new_test_id() -> str:
    """Make an id of a message that is about no change."""
    return f"msg_test_{secrets.token_hex(16)}"


def new_secret() -> str:
    """Make a secret as the Standard Webhooks specification writes it.

    Examples
    --------
    >>> new_secret()[:6], len(base64.b64decode(new_secret()[6:]))
    ('whsec_', 32)
    """
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def _kinds(kinds: Sequence[str] | None) -> tuple[str, ...]:
    if kinds is None:
        return DEFAULT_KINDS
    chosen = tuple(dict.fromkeys(_texts(kinds, "kinds")))
    if not chosen or not set(chosen) <= set(KINDS):
        raise InvalidField(
            f"kinds {kinds!r:.200} is not allowed",
            hint=f"It is a list of {', '.join(KINDS)}; left out, it is {', '.join(DEFAULT_KINDS)}.",
            context={"field": "kinds"},
        )
    return chosen


def _texts(values: Sequence[str], field: str) -> Sequence[str]:
    if isinstance(values, list | tuple) and len(values) <= 1_000 and all(isinstance(value, str) for value in values):
        return values
    raise InvalidField(
        f"{field} {values!r:.200} is not allowed", hint="It is a list of texts.", context={"field": field}
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
