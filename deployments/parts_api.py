"""Uploads in parts over HTTP: begin, send the parts in any order, register what they are together."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

import re
from typing import Annotated, Any

from fastapi import Path, Request
from starlette.responses import Response

from compute.errors import Conflict, InvalidField
from deployments.access import Rules
from deployments.application import Application
from deployments.digests import ContentDigest
from deployments.parts import PartUploads
from deployments.records_api import EXAMPLE, json_body, render
from deployments.rendering import JSONResponse
from deployments.rows import read_object
from deployments.threads import Threads
from deployments.tokens import Role
from deployments.upload_fields import json_fields
from registry import ModelRecord, ModelRegistry

RULES: Rules = {
    ("POST", "/uploads"): Role.WRITE,
    ("PUT", "/uploads/{upload_id}/{part}"): Role.WRITE,
    ("POST", "/uploads/{upload_id}"): Role.WRITE,
    ("DELETE", "/uploads/{upload_id}"): Role.WRITE,
}

UploadId = Annotated[str, Path(max_length=100, description="The id of an upload.")]
Part = Annotated[int, Path(description="1, 2, ...")]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FINISH = {"parts": 160, "digest": f"sha256:{'0' * 64}", "model_type": "xgboost", "name": "delays", "tags": ["flights"]}


def parts_api(app: Application, registry: ModelRegistry, uploads: PartUploads, max_part: int) -> None:
    """Add the routes of uploads in parts.

    Parameters
    ----------
    app : Application
        To which they are added.
    registry : ModelRegistry
        Registers what the parts are together.
    uploads : PartUploads
        Keeps the parts.
    max_part : int
        Bytes that one part may have, which clients are told.
    """
    sending, joining = Threads(8, "parts"), Threads(2, "join")

    @app.post(
        "/uploads",
        status_code=201,
        summary="Begin an upload in parts",
        description="For files of gigabytes. One without a new part for a day is given up.",
        responses={201: {"content": {"application/json": {"example": {"upload_id": "u-...", "max_part": 67108864}}}}},
    )
    async def begin_upload(request: Request) -> Response:
        upload_id = await sending.call(uploads.begin)
        location = f"{request.scope.get('root_path', '')}/uploads/{upload_id}"
        body = {"upload_id": upload_id, "max_part": max_part}
        return JSONResponse(body, status_code=201, headers={"Location": location})

    @app.put(
        "/uploads/{upload_id}/{part}",
        status_code=204,
        summary="Send a part",
        description="In any order, several at once if you like, and again if the answer was lost. With "
        "`Content-Digest` it is compared.",
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/octet-stream": {"example": "bytes"}}}
        },
    )
    async def put_part(upload_id: UploadId, part: Part, request: Request) -> Response:
        digest = ContentDigest(request.headers.getlist("content-digest"))
        body = await request.body()
        digest.update(body)
        digest.check()
        await sending.call(uploads.put, upload_id, part, body)
        return Response(status_code=204)

    @app.post(
        "/uploads/{upload_id}",
        status_code=201,
        summary="Register what was uploaded in parts",
        description="`parts` is how many there are; with `digest` all of them together are compared. The other fields "
        "are those of an upload. Asking the same again gives the same model, asking otherwise 409.",
        openapi_extra={"requestBody": json_body(_FINISH)},
        responses={201: {"content": {"application/json": {"example": EXAMPLE}}}},
    )
    async def finish_upload(upload_id: UploadId, request: Request) -> Response:
        body = read_object(await request.body())
        key = request.headers.get("idempotency-key")
        asked = {**body, "Idempotency-Key": key}
        asked.pop("digest", None)  # which is compared with the bytes themselves
        count, digest = _count(body.pop("parts", None)), _digest(body.pop("digest", None))
        fields = {**json_fields(body), "idempotency_key": key}
        record = await joining.call(_register, upload_id, count, digest, fields, asked)
        location = f"{request.scope.get('root_path', '')}/{record.model_id}"
        return render(record, status_code=201, headers={"Location": location})

    @app.delete("/uploads/{upload_id}", status_code=204, summary="Abandon an upload in parts")
    async def abandon_upload(upload_id: UploadId) -> Response:
        await sending.call(uploads.abandon, upload_id)
        return Response(status_code=204)

    def _register(
        upload_id: str, count: int, digest: str | None, fields: dict[str, Any], asked: dict[str, Any]
    ) -> ModelRecord:
        model_id = uploads.result(upload_id, asked)
        if model_id is None:
            with uploads.joined(upload_id, count, digest) as path:
                model_id = registry.register_file(path, **fields)
            uploads.finish(upload_id, model_id, asked)
        record = registry.get_model(model_id)
        if digest not in (None, record.artifact.digest):
            raise Conflict(
                f"{upload_id} is finished, and its bytes are {record.artifact.digest}, not {digest}",
                hint=f"It is the model {model_id}; begin another upload for other bytes.",
                context={"upload_id": upload_id, "model_id": model_id, "found": record.artifact.digest},
            )
        return record


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise InvalidField("the field 'parts' is not a number of parts", context={"field": "parts"})


def _digest(value: object) -> str | None:
    if value is None or (isinstance(value, str) and _DIGEST.fullmatch(value)):
        return value
    raise InvalidField(
        f"digest {value!r:.100} is not allowed",
        hint="It is like the digest of an artifact: sha256: and 64 hexadecimal digits.",
        context={"field": "digest"},
    )
