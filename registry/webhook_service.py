"""The webhooks of one store as one object: kept, tried, and, where `start` was called, told of every change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from compute.config import Security
from registry.catalog import ModelCatalog
from registry.changes import read_changes
from registry.egress import check_url
from registry.journal import Journal
from registry.webhook_delivery import Deliverer
from registry.webhook_message import Trial, send
from registry.webhooks import Webhook, WebhookLog, WebhookTable, new_test_id

_TRIAL = 5.0
"""Seconds that a test message waits for its answer: somebody waits for the outcome."""


class WebhookService:
    """The webhooks of a store.

    Parameters
    ----------
    catalog : ModelCatalog
        The models of the same store.
    security : Security
        ``webhook_hosts`` and ``webhook_days``.
    """

    def __init__(self, catalog: ModelCatalog, security: Security) -> None:
        self._catalog = catalog
        self._security = security
        self._log = WebhookLog(catalog.store)
        self._deliverer = Deliverer(catalog.journal, self._log, security)

    @property
    def journal(self) -> Journal[WebhookTable]:
        """Where they are kept."""
        return self._log.journal

    def start(self) -> None:
        """Begin to tell them."""
        self._deliverer.start()

    def stop(self) -> None:
        """Tell them no more."""
        self._deliverer.stop()

    def create(
        self, webhook_id: str, secret: str, url: str, kinds: Sequence[str] | None, names: Sequence[str] | None
    ) -> Webhook:
        """See `WebhookRegistry`; so for all methods. The caller makes id and secret, so that a repetition is known."""
        check_url(url, self._security.webhook_hosts)
        position = read_changes(self._catalog.journal, None, 1, 0.0).position
        webhook = self._log.create(webhook_id, secret, url, kinds, names, position)
        self._deliverer.wake(webhook_id)
        return webhook

    def list(self) -> list[Webhook]:
        """Return all webhooks."""
        return self._log.list()

    def get(self, webhook_id: str) -> Webhook:
        """Return one."""
        return self._log.get(webhook_id)

    def delete(self, webhook_id: str) -> None:
        """Take one away."""
        self._log.get(webhook_id)
        self._log.delete(webhook_id)
        self._deliverer.wake(webhook_id)

    def test(self, webhook_id: str) -> Trial:
        """Send a message without meaning, and let what failed begin anew if it arrives."""
        webhook = self._log.subscription(webhook_id)
        now, data = datetime.now(UTC), {"webhook_id": webhook_id}
        trial = send(webhook, new_test_id(), "webhook.test", now, data, self._security.webhook_hosts, _TRIAL)
        if trial.delivered:
            self._log.enable(webhook_id)
            self._deliverer.wake(webhook_id)
        return trial
