"""`WebhookRegistry`: whom to tell of changes, from any process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from compute import Config, load_config
from registry.actor import RemoteCatalog
from registry.catalog import ModelCatalog
from registry.webhook_message import Trial
from registry.webhook_service import WebhookService
from registry.webhooks import Webhook, new_secret, new_webhook_id


class NewWebhook(NamedTuple):
    """A webhook, and its secret, which is told this once."""

    webhook: Webhook
    secret: str


class WebhookRegistry:
    """The webhooks of one store.

    On a cluster the process that keeps the models tells them. Without one they are kept, and told of what happened
    since as soon as there is one.

    Parameters
    ----------
    config : Config
        ``storage.uri`` is where they lie; ``security.webhook_hosts`` says who may be told.

    Examples
    --------
    >>> import tempfile
    >>> values = load_config()
    >>> security = values.security.model_copy(update={"webhook_hosts": ("hooks.example",)})
    >>> storage = values.storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> webhooks = WebhookRegistry(values.model_copy(update={"security": security, "storage": storage}))
    >>> webhook, secret = webhooks.create("https://hooks.example/models", kinds=["model.aliased"])
    >>> [hook.url for hook in webhooks.list()], secret[:6]
    (['https://hooks.example/models'], 'whsec_')
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._remote = RemoteCatalog(config)

    def create(self, url: str, kinds: Sequence[str] | None = None, names: Sequence[str] | None = None) -> NewWebhook:
        """Have a URL told of what happens from now on.

        Parameters
        ----------
        url : str
            Of a host in ``security.webhook_hosts``.
        kinds : sequence of str, optional
            Kinds of change; by default registrations, aliases, status, deletions and restorations.
        names : sequence of str, optional
            Only models of these names.

        Returns
        -------
        NewWebhook
            ``secret`` is what the messages are signed with; it cannot be had again.

        Raises
        ------
        UriNotAllowed
            When the host is not listed.
        """
        secret = new_secret()
        return NewWebhook(self._call("create", new_webhook_id(), secret, url, kinds, names), secret)

    def list(self) -> list[Webhook]:
        """Return all, the oldest first."""
        found: list[Webhook] = self._call("list")
        return found

    def get(self, webhook_id: str) -> Webhook:
        """Return one, with what was delivered and what failed; raises `WebhookNotFound`."""
        found: Webhook = self._call("get", webhook_id)
        return found

    def delete(self, webhook_id: str) -> None:
        """Take one away."""
        self._call("delete", webhook_id)

    def test(self, webhook_id: str) -> Trial:
        """Send a message of the type ``webhook.test`` now.

        When it arrives, a webhook that was failing, or was disabled, is told from where it was left.
        """
        trial: Trial = self._call("test", webhook_id)
        return trial

    def _call(self, method: str, *args: Any) -> Any:
        ray = sys.modules.get("ray")  # who has not imported it is not connected
        if ray is not None and ray.is_initialized():
            return self._remote.call("webhooks", method, *args)
        return getattr(WebhookService(ModelCatalog.of(self._config), self._config.security), method)(*args)


def get_webhooks(config: Config | None = None) -> WebhookRegistry:
    """Return the webhooks of a configuration; by default of the one that `compute.load_config` finds."""
    return WebhookRegistry(config if config is not None else load_config())
