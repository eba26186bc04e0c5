"""Webhooks over HTTP; for admins."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

from typing import Annotated, Any

from fastapi import Path, Request
from starlette.responses import Response

from compute.errors import InvalidField
from deployments.access import Rules
from deployments.application import Application
from deployments.records_api import json_body
from deployments.rendering import JSONResponse
from deployments.rows import read_object
from deployments.threads import Threads
from deployments.tokens import Role
from registry import Webhook, WebhookRegistry

RULES: Rules = {
    ("POST", "/webhooks"): Role.ADMIN,
    ("GET", "/webhooks"): Role.ADMIN,
    ("GET", "/webhooks/{webhook_id}"): Role.ADMIN,
    ("DELETE", "/webhooks/{webhook_id}"): Role.ADMIN,
    ("POST", "/webhooks/{webhook_id}/test"): Role.ADMIN,
}

WebhookId = Annotated[str, Path(max_length=100, description="The id of a webhook.")]

_EXAMPLE: dict[str, Any] = {
    "webhook_id": "w-0b5c7d0e1f2a4b3c8d9e0f1a2b3c4d5e",
    "url": "https://hooks.example/models",
    "kinds": ["model.registered", "model.aliased"],
    "names": ["delays"],
    "created_at": "2026-01-02T00:00:00Z",
    "status": "active",
    "position": "42.0",
    "delivered_at": "2026-01-03T00:00:00Z",
    "failing_since": None,
    "failures": 0,
    "reason": None,
}
_FIELDS = ("url", "kinds", "names")


def webhooks_api(app: Application, webhooks: WebhookRegistry, threads: Threads) -> None:
    """Add the routes of webhooks.

    Parameters
    ----------
    app : Application
        To which they are added.
    webhooks : WebhookRegistry
        Its calls block, so they are made in the threads.
    threads : Threads
        For the calls.
    """
    call = threads.call

    @app.post(
        "/webhooks",
        status_code=201,
        summary="Have a URL told of changes",
        description="Messages come at least once and in order, signed as the Standard Webhooks specification says, "
        "from now on. The answer has the secret, which is shown this once. The URL's host has to be in "
        "`security.webhook_hosts`. Without `kinds`: registrations, aliases, status, deletions and restorations.",
        openapi_extra={"requestBody": json_body({key: _EXAMPLE[key] for key in _FIELDS})},
        responses={201: _content({**_EXAMPLE, "secret": "whsec_..."})},
    )
    async def create_webhook(request: Request) -> Response:
        body = read_object(await request.body())
        if unknown := sorted(body.keys() - set(_FIELDS)):
            raise InvalidField(
                f"no field {unknown[0][:80]!r}",
                hint=f"Fields are {', '.join(_FIELDS)}.",
                context={"field": unknown[0][:80]},
            )
        arguments: dict[str, Any] = {key: body.get(key) for key in _FIELDS}  # which are checked where they are used
        webhook, secret = await call(webhooks.create, **arguments)
        location = f"{request.scope.get('root_path', '')}/webhooks/{webhook.webhook_id}"
        return JSONResponse({**_json(webhook), "secret": secret}, status_code=201, headers={"Location": location})

    @app.get("/webhooks", summary="List webhooks", responses={200: _content({"webhooks": [_EXAMPLE]})})
    async def list_webhooks() -> Response:
        return JSONResponse({"webhooks": [_json(webhook) for webhook in await call(webhooks.list)]})

    @app.get(
        "/webhooks/{webhook_id}",
        summary="Get a webhook",
        description="With how far it was told, and why it fails or was disabled.",
        responses={200: _content(_EXAMPLE)},
    )
    async def get_webhook(webhook_id: WebhookId) -> Response:
        return JSONResponse(_json(await call(webhooks.get, webhook_id)))

    @app.delete("/webhooks/{webhook_id}", status_code=204, summary="Take a webhook away")
    async def delete_webhook(webhook_id: WebhookId) -> Response:
        await call(webhooks.delete, webhook_id)
        return Response(status_code=204)

    @app.post(
        "/webhooks/{webhook_id}/test",
        summary="Send a test message now",
        description="When it arrives, a webhook that fails or was disabled is told from where it was left.",
        responses={200: _content({"delivered": True, "status": 204, "reason": None, "retry_after": None})},
    )
    async def test_webhook(webhook_id: WebhookId) -> Response:
        return JSONResponse((await call(webhooks.test, webhook_id)).model_dump(mode="json"))


def _json(webhook: Webhook) -> dict[str, Any]:
    return webhook.model_dump(mode="json")


def _content(example: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"example": example}}}
