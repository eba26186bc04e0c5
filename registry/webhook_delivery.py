"""Tells webhooks what changed: at least once, each in the order of the changes, until they answer with a 2xx.

How far a webhook was told is in the journal before the next message goes out, so a process that takes over repeats one
message at most, and with the same ``webhook-id``.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from compute.config import Security
from compute.errors import ComputeError, PositionGone, WebhookNotFound
from registry.changes import Change, parse_position, read_changes
from registry.journal import Journal
from registry.models import ModelTable
from registry.webhook_message import send
from registry.webhooks import Subscription, WebhookLog

logger = logging.getLogger(__name__)

MISSED = "webhook.missed"
"""The type of the message that says that changes were compacted away before they could be told."""

_PAGE = 100
_LOOK = 1.0
"""Seconds from one look for webhooks that others added to the next."""
_IDLE = 5.0
"""The same while there are none, and after an error of our own."""
_LONGEST_PAUSE = 3600.0
_NOTE_AFTER = 300.0
"""Seconds after which it is noted how far a webhook is that nothing concerned meanwhile."""


class Deliverer:
    """Threads that tell the webhooks of one store: one each, so that one that fails holds up no other.

    Parameters
    ----------
    models : Journal
        Whose changes are told.
    log : WebhookLog
        Whom to tell.
    security : Security
        ``webhook_hosts`` and ``webhook_days``.
    """

    def __init__(self, models: Journal[ModelTable], log: WebhookLog, security: Security) -> None:
        self._models = models
        self._log = log
        self._security = security
        self._news = threading.Condition()
        self._sequence = 0
        self._woken = threading.Event()
        self._tellers: dict[str, _Teller] = {}
        self._watcher = threading.Thread(target=self._watch, name="webhooks", daemon=True)
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin; returns at once."""
        self._watcher.start()

    def stop(self) -> None:
        """Begin no further delivery, and wait for those under way."""
        self._stopping.set()
        self._woken.set()
        for teller in list(self._tellers.values()):
            teller.woken.set()
        with self._news:
            self._news.notify_all()
        for thread in [self._watcher, *self._tellers.values()]:
            thread.join()

    def wake(self, webhook_id: str) -> None:
        """Look at this webhook now: it was added, changed or removed."""
        self._woken.set()
        if teller := self._tellers.get(webhook_id):
            teller.woken.set()
        with self._news:
            self._news.notify_all()

    def _watch(self) -> None:
        """Start a thread for each webhook, and wake them when there are changes."""
        while not self._stopping.is_set():
            try:
                self._begin()
                if self._tellers:
                    self._announce(self._models.wait(self._sequence, _LOOK))
                    continue
            except ComputeError:
                logger.exception("event=webhooks_failed action=retry")
            self._woken.wait(_IDLE)
            self._woken.clear()

    def _begin(self) -> None:
        for webhook_id in self._log.active():
            teller = self._tellers.get(webhook_id)
            if teller is None or not teller.is_alive():
                self._tellers[webhook_id] = _Teller(self, webhook_id)
                self._tellers[webhook_id].start()
        self._tellers = {key: teller for key, teller in self._tellers.items() if teller.is_alive()}

    def _announce(self, sequence: int) -> None:
        with self._news:
            if sequence > self._sequence:
                self._sequence = sequence
                self._news.notify_all()


class _Teller(threading.Thread):
    """Tells one webhook what it has not been told, until it is disabled or deleted."""

    def __init__(self, deliverer: Deliverer, webhook_id: str) -> None:
        super().__init__(name=f"webhook-{webhook_id}", daemon=True)
        self._of = deliverer
        self._id = webhook_id
        self._told = ""
        self._noted = time.monotonic()
        self.woken = threading.Event()

    def run(self) -> None:
        while not self._of._stopping.is_set():
            try:
                webhook = self._of._log.subscription(self._id)
                if webhook.status != "active":
                    return
                self._tell(webhook)
            except WebhookNotFound:
                return
            except ComputeError:
                logger.exception("event=webhook_interrupted webhook_id=%s action=retry", self._id)
                self._rest(_IDLE)

    def _tell(self, webhook: Subscription) -> None:
        """Tell the next page of changes, or wait for some."""
        before = self._told = max(self._told or webhook.position, webhook.position, key=parse_position)
        sequence = self._of._sequence
        try:
            page = read_changes(self._of._models, self._told, _PAGE, 0.0)
        except PositionGone:
            self._confess(webhook)
            return
        for change in page.changes:
            if _concerns(webhook, change):
                told = self._deliver(webhook, change.position, change.kind, change.at, change.model_dump(mode="json"))
                if not told:
                    return
            self._told = change.position
        self._told = page.position
        if self._told == before:
            self._note(webhook)
            with self._of._news:
                if self._of._sequence == sequence:
                    self._of._news.wait(_IDLE)

    def _deliver(self, webhook: Subscription, position: str, kind: str, at: datetime, data: dict[str, Any]) -> bool:
        """Send a message, and note that it arrived; or note the failure, and rest."""
        message_id = f"msg_{webhook.webhook_id.removeprefix('w-')}_{position.replace('.', '_')}"
        trial = send(webhook, message_id, kind, at, data, self._of._security.webhook_hosts)
        log = self._of._log
        if trial.delivered:
            log.delivered(webhook.webhook_id, position)
            logger.info("event=webhook_delivered webhook_id=%s message_id=%s kind=%s", self._id, message_id, kind)
            return True
        reason = trial.reason or ""
        logger.warning("event=webhook_failed webhook_id=%s message_id=%s reason=%s", self._id, message_id, reason)
        log.failed(webhook.webhook_id, reason)
        failing = datetime.now(UTC) - (webhook.failing_since or datetime.now(UTC))
        if trial.status == 410:
            log.disable(self._id, "it answered 410: it wants to hear no more")
        elif failing >= timedelta(days=self._of._security.webhook_days):
            log.disable(
                self._id, f"it failed {webhook.failures + 1} times since {webhook.failing_since}; at last: {reason}"
            )
        else:
            self._rest(max(_pause(webhook.failures), min(trial.retry_after or 0.0, _LONGEST_PAUSE)))
        return False

    def _confess(self, webhook: Subscription) -> None:
        """Say that changes were removed before they could be told, and go on from now."""
        now = read_changes(self._of._models, None, 1, 0.0).position
        data = {"after": self._told, "position": now}
        if self._deliver(webhook, now, MISSED, datetime.now(UTC), data):
            self._told = now

    def _note(self, webhook: Subscription) -> None:
        """Note now and then how far it is that nothing concerns, so that what lies behind may be compacted."""
        if self._told != webhook.position and time.monotonic() - self._noted > _NOTE_AFTER:
            self._noted = time.monotonic()
            self._of._log.passed(self._id, self._told)

    def _rest(self, seconds: float) -> None:
        self.woken.wait(seconds)
        self.woken.clear()


def _concerns(webhook: Subscription, change: Change) -> bool:
    return change.kind in webhook.kinds and (not webhook.names or change.name in webhook.names)


def _pause(failures: int) -> float:
    """Return the seconds before the next attempt: doubled each time, and blurred so that not all come at once."""
    longest: float = min(2.0 ** min(failures, 12), _LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
