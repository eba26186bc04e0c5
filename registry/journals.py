"""The journals that a store holds, and the state that each adds up to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from compute.errors import DataNotFound
from registry import catalog, task_log, webhooks
from registry.models import ModelTable
from registry.store import ObjectStore
from registry.tasks import TaskTable
from registry.webhooks import WebhookTable

JOURNALS: dict[str, Callable[[], Any]] = {
    catalog.PREFIX: ModelTable,
    task_log.PREFIX: lambda: TaskTable(math.inf),
    webhooks.PREFIX: WebhookTable,
}
"""By prefix, what makes the empty state."""
PREFIXES = (*(f"{prefix}/" for prefix in JOURNALS), "blobs/", "tokens/", "uploads/", "predictions/")
"""What the keys of a store begin with."""


def check_used(store: ObjectStore) -> None:
    """Refuse a place where nothing of ours is: most likely its URI is mistyped."""
    if not any(next(iter(store.list(prefix)), None) for prefix in PREFIXES):
        raise no_store(store)


def no_store(store: ObjectStore) -> DataNotFound:
    """Return the error for a place that holds nothing of ours."""
    return DataNotFound(
        f"{store.uri} holds no models, tasks or tokens",
        hint="See storage.uri, or name the store with --storage.",
        context={"uri": store.uri},
    )
