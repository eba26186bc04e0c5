"""The HTTP interface of the model registry, put together: records, files, events, webhooks, and predictions."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from compute import Config
from deployments.access import Rules
from deployments.application import Application
from deployments.artifacts_api import RULES as ARTIFACT_RULES
from deployments.artifacts_api import UPLOADS, artifacts_api
from deployments.downloads import Downloads
from deployments.events import RULES as EVENT_RULES
from deployments.events import events_api
from deployments.parts import PartUploads
from deployments.parts_api import RULES as PART_RULES
from deployments.parts_api import parts_api
from deployments.records_api import EXAMPLE, Reference, records_api
from deployments.records_api import RULES as RECORD_RULES
from deployments.rendering import JSONResponse
from deployments.rows import read_rows
from deployments.scoring import Scorer
from deployments.spool import sweep
from deployments.threads import Threads
from deployments.tokens import Role
from deployments.webhooks_api import RULES as WEBHOOK_RULES
from deployments.webhooks_api import webhooks_api
from registry import ModelRegistry, get_webhooks, open_store

RULES: Rules = {
    **RECORD_RULES,
    **ARTIFACT_RULES,
    **PART_RULES,
    **EVENT_RULES,
    **WEBHOOK_RULES,
    # A prediction changes nothing, though it is a POST.
    ("POST", "/{model_id}/predict"): Role.READ,
}

Proba = Annotated[bool, Query(description="Probabilities of the classes instead of the class.")]


def models_api(registry: ModelRegistry, scorer: Scorer, config: Config, max_streams: int) -> Application:
    """Return the application that serves the registry and its models.

    Parameters
    ----------
    registry : ModelRegistry
        Its calls block, so they are made in threads.
    scorer : Scorer
        Answers predictions.
    config : Config
        For the door (`Application`), the artifacts and the webhooks.
    max_streams : int
        Clients that may follow the events at once.
    """
    app = Application(
        title="Models",
        description="Register, find, change and delete models, follow what happens to them, and predict with any.",
        rules=RULES,
        config=config,
        uploads=UPLOADS,
    )
    sweep()
    # Those with fixed paths first: a route is taken by the first that matches, and `/{model_id}` matches any word.
    events_api(app, registry, max_streams)
    webhooks_api(app, get_webhooks(config), Threads(4, "webhooks"))
    store = open_store(config.storage.uri, config)
    parts_api(app, registry, PartUploads(store, config.security.max_upload), config.security.max_body)
    records_api(app, registry, scorer, Threads(16, "registry"))
    artifacts_api(app, registry, Downloads(store))

    @app.post(
        "/{model_id}/predict",
        summary="Predict rows",
        openapi_extra={"requestBody": _predict_body()},
        responses={200: {"content": {"application/json": {"example": _PREDICTION}}}},
    )
    async def predict(model_id: Reference, request: Request, proba: Proba = False) -> Response:
        rows = read_rows(await request.body())
        return JSONResponse(await scorer.predict(model_id, rows, proba=proba))

    return app


_PREDICTION = {"predictions": [12.5], "model_id": EXAMPLE["model_id"], "name": "delays", "version": 3}


def _predict_body() -> dict[str, Any]:
    example = {"rows": [{"distance": 1416, "carrier": "UA"}]}
    schema = {
        "type": "object",
        "description": "Raw rows as the training data had them: `rows` as records, or `columns` as lists.",
        "properties": {
            "rows": {"type": "array", "items": {"type": "object"}},
            "columns": {"type": "object", "additionalProperties": {"type": "array"}},
        },
    }
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
