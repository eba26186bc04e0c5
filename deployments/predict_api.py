"""``POST /{model_id}/predict``: predictions for people, from rows as the training data had them."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive

from compute.errors import CapabilityMissing, InvalidField
from deployments.access import Rules
from deployments.application import Application
from deployments.fast_lane import FastRoute, Headers, Reply, sticky_of, text_of
from deployments.question import Sticky
from deployments.records_api import EXAMPLE, Reference
from deployments.rendering import JSONResponse
from deployments.rows import Rows, read_rows
from deployments.scoring import Scorer
from deployments.table_formats import MEDIA_TYPES, format_of, wanted_format
from deployments.tokens import Role
from deployments.waiting import SMALL, end_of_wait, read_all, while_wanted
from jobs import BodyFormat, read_body, write_body

PREDICT = "/{model_id}/predict"

# A prediction changes nothing, though it is a POST.
RULES: Rules = {("POST", PREDICT): Role.READ}

Explain = Annotated[bool, Query(description="Also what each feature contributed; of boosters.")]
Proba = Annotated[bool, Query(description="Probabilities of the classes instead of the class.")]


def predict_api(app: Application, scorer: Scorer) -> None:
    """Add the route to the application."""

    @app.post(
        PREDICT,
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
        end = end_of_wait(request.headers.get("x-request-timeout"), request.headers.get("x-request-start"))
        body = await request.body()

        async def predictions() -> dict[str, Any]:
            rows = await (_read_json(body) if kind == "json" else _read_table(scorer, model_id, kind, body))
            return await scorer.predict(model_id, rows, proba=proba, explain=explain, sticky=request.headers.get)

        answer = await while_wanted(predictions(), request.receive, end)
        if wanted == "json":
            return JSONResponse(answer)
        return Response(
            await asyncio.to_thread(_as_table, wanted, answer),
            media_type=next(media for media, name in MEDIA_TYPES.items() if name == wanted),
            headers={"X-Model-Id": answer["model_id"], "X-Model-Version": str(answer["version"])},
        )


def fast_predict(scorer: Scorer) -> FastRoute:
    """Return the lane of requests that bring JSON, want JSON, and ask for nothing else."""

    async def answer(path: Mapping[str, str], headers: Headers, receive: Receive) -> Reply:
        end = end_of_wait(text_of(headers, b"x-request-timeout"), text_of(headers, b"x-request-start"))
        body = await read_all(receive)
        work = _predict(scorer, path["model_id"], body, sticky_of(headers))
        small = end is None and len(body) <= SMALL
        answer = await work if small else await while_wanted(work, receive, end)
        written = to_json(answer, inf_nan_mode="null")
        return Reply([(b"content-type", b"application/json"), (b"content-length", b"%d" % len(written))], written)

    return FastRoute(PREDICT, answer, _is_plain)


def _is_plain(headers: Headers) -> bool:
    return headers.get(b"content-type", b"application/json") == b"application/json" and (
        headers.get(b"accept", b"*/*") in (b"*/*", b"application/json")
    )


async def _predict(scorer: Scorer, reference: str, body: bytes, sticky: Sticky) -> dict[str, Any]:
    return await scorer.predict(reference, await _read_json(body), sticky=sticky)


async def _read_json(body: bytes) -> Rows:
    return read_rows(body) if len(body) <= SMALL else await asyncio.to_thread(read_rows, body)


async def _read_table(scorer: Scorer, reference: str, kind: BodyFormat, body: bytes) -> Any:
    record = await scorer.record(reference)
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
