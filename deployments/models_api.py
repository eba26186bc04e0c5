"""The HTTP interface of the model registry, put together: records, files, events, webhooks, and predictions."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

import asyncio
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from compute import Config
from compute.errors import CapabilityMissing, InvalidField
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
from deployments.table_formats import MEDIA_TYPES, format_of, wanted_format
from deployments.threads import Threads
from deployments.tokens import Role
from deployments.traffic_api import RULES as TRAFFIC_RULES
from deployments.traffic_api import traffic_api
from deployments.webhooks_api import RULES as WEBHOOK_RULES
from deployments.webhooks_api import webhooks_api
from jobs import BodyFormat, read_body, write_body
from registry import ModelRecord, ModelRegistry, get_webhooks, open_store

RULES: Rules = {
    **RECORD_RULES,
    **ARTIFACT_RULES,
    **PART_RULES,
    **EVENT_RULES,
    **WEBHOOK_RULES,
    **TRAFFIC_RULES,
    # A prediction changes nothing, though it is a POST.
    ("POST", "/{model_id}/predict"): Role.READ,
}

Explain = Annotated[bool, Query(description="Also what each feature contributed; of boosters.")]
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
    traffic_api(app, registry, Threads(4, "traffic-api"))
    records_api(app, registry, scorer, Threads(16, "registry"))
    artifacts_api(app, registry, Downloads(store))

    @app.post(
        "/{model_id}/predict",
        summary="Predict rows",
        openapi_extra={"requestBody": _predict_body()},
        responses={
            200: {"content": {kind: {} for kind in MEDIA_TYPES} | {"application/json": {"example": _PREDICTION}}}
        },
    )
    async def predict(
        model_id: Reference, request: Request, proba: Proba = False, explain: Explain = False
    ) -> Response:
        kind, wanted = format_of(request.headers.get("content-type")), wanted_format(request.headers.get("accept"))
        if explain and wanted != "json":
            raise InvalidField("explanations are given as JSON only", context={"field": "explain"})
        body = await request.body()
        rows = read_rows(body) if kind == "json" else await _read_table(kind, body, await scorer.record(model_id))
        answer = await scorer.predict(model_id, rows, proba=proba, explain=explain, sticky=request.headers.get)
        if wanted == "json":
            return JSONResponse(answer)
        return Response(
            await asyncio.to_thread(_as_table, wanted, answer),
            media_type=next(media for media, name in MEDIA_TYPES.items() if name == wanted),
            headers={"X-Model-Id": answer["model_id"], "X-Model-Version": str(answer["version"])},
        )

    return app


async def _read_table(kind: BodyFormat, body: bytes, record: ModelRecord) -> Any:
    if record.signature is None:
        raise CapabilityMissing(
            f"{record.model_id} was registered without a signature and takes lists of numbers only",
            hint='Send {"rows": [[1.5, 2.0], ...]}.',
        )
    return await asyncio.to_thread(read_body, kind, body, record.signature)


def _as_table(wanted: BodyFormat, answer: dict[str, Any]) -> bytes:
    """Return the answer in the columns that batch inference writes."""
    import pyarrow as pa

    values = answer["predictions"]
    if "classes" not in answer:
        return write_body(wanted, pa.table({"prediction": values}))
    columns = {f"probability_{label}": [row[place] for row in values] for place, label in enumerate(answer["classes"])}
    return write_body(wanted, pa.table(columns))


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
    tables: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES}
    return {"required": True, "content": {**tables, "application/json": {"schema": schema, "example": example}}}
