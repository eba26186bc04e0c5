"""The journals that a store holds, and the state that each adds up to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from registry import catalog, task_log, webhooks
from registry.models import ModelTable
from registry.tasks import TaskTable
from registry.webhooks import WebhookTable

JOURNALS: dict[str, Callable[[], Any]] = {
    catalog.PREFIX: ModelTable,
    task_log.PREFIX: lambda: TaskTable(math.inf),
    webhooks.PREFIX: WebhookTable,
}
"""By prefix, what makes the empty state."""
