"""The bytes of models over HTTP: a file goes in by an upload, and comes out as it was registered."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from deployments.access import Rules
from deployments.application import Application
from deployments.conditions import asked_range, is_current
from deployments.digests import digest_header
from deployments.downloads import Downloads
from deployments.records_api import EXAMPLE, Reference, render
from deployments.threads import Threads
from deployments.tokens import Role
from deployments.upload_fields import FIELDS, read_fields
from deployments.uploads import FILE_FIELD, receive_upload
from registry import ModelRecord, ModelRegistry

RULES: Rules = {("POST", "/upload"): Role.WRITE, ("GET", "/{model_id}/artifact"): Role.READ}
UPLOADS = frozenset({"/upload"})


def artifacts_api(app: Application, registry: ModelRegistry, downloads: Downloads) -> None:
    """Add the routes of uploads and downloads.

    Parameters
    ----------
    app : Application
        To which they are added.
    registry : ModelRegistry
        Registers what is uploaded.
    downloads : Downloads
        Reads what is downloaded.
    """
    # Registering a large file takes long, and so does a download to the end of the world: threads of their own.
    uploading, downloading = Threads(4, "upload"), Threads(8, "download")

    @app.post(
        "/upload",
        status_code=201,
        summary="Upload a model file",
        description="As the body (`application/octet-stream`) with the fields in the query, or as a multipart form. "
        "With `Content-Digest` (RFC 9530; sha-256, sha-512) the body is compared with it; repeated with the same "
        "`Idempotency-Key` and content it is kept once.",
        openapi_extra={"requestBody": _upload_body()},
        responses={201: {"content": {"application/json": {"example": EXAMPLE}}}},
    )
    async def upload_model(request: Request) -> Response:
        async with receive_upload(request) as upload:
            key = request.headers.get("idempotency-key")
            fields = read_fields(upload.fields)
            model_id = await uploading.call(registry.register_file, upload.path, idempotency_key=key, **fields)
        record = await uploading.call(registry.get_model, model_id)
        location = f"{request.scope.get('root_path', '')}/{model_id}"
        return render(record, status_code=201, headers={"Location": location})

    @app.get(
        "/{model_id}/artifact",
        summary="Download a model's file",
        description="The very bytes, compared with their digest on their way: of a damaged file the last ones never "
        "come, and the connection is cut. Takes `Range`, `If-Range` and `If-None-Match`; `Repr-Digest` is the digest "
        "of the whole file.",
        responses={
            200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
            206: {"description": "The part that Range asks for"},
            304: {"description": "The client has it"},
            416: {"description": "Range begins behind the end"},
        },
    )
    async def get_artifact(model_id: Reference, request: Request) -> Response:
        record = await downloading.call(registry.resolve, model_id)
        artifact = record.artifact
        tag = f'"{artifact.digest}"'
        headers = {
            "ETag": tag,
            "Accept-Ranges": "bytes",
            "Repr-Digest": digest_header(artifact.digest),
            "Cache-Control": "private, no-cache",  # kept by who has it, and asked for with its ETag
            "Content-Disposition": f'attachment; filename="{_file_name(record)}"',
        }
        if is_current(request.headers.get("if-none-match"), tag):
            return Response(status_code=304, headers=headers)
        part = asked_range(request.headers, artifact.size, tag)
        start, end = part if part is not None else (0, artifact.size)
        headers["Content-Length"] = str(end - start)
        if part is None:
            headers["Content-Digest"] = headers["Repr-Digest"]
        else:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{artifact.size}"
        status = 200 if part is None else 206
        if request.scope["state"]["head"]:
            return Response(status_code=status, headers=headers, media_type="application/octet-stream")
        chunks = downloads.read(artifact, start, end)
        # What cannot even begin is a problem of its own, not a body that ends early.
        first = await downloading.call(next, chunks, b"")
        return StreamingResponse(
            _stream(downloading, first, chunks), status, headers=headers, media_type="application/octet-stream"
        )


_ENDINGS = {"xgboost-ubj": "ubj", "lightgbm-text": "txt", "sklearn-skops": "skops", "onnx": "onnx"}


def _file_name(record: ModelRecord) -> str:
    return f"{record.name}-{record.version}.{_ENDINGS.get(record.format, 'bin')}"


async def _stream(threads: Threads, first: bytes, rest: Iterator[bytes]) -> AsyncIterator[bytes]:
    chunk = first
    while chunk:
        yield chunk
        chunk = await threads.call(next, rest, b"")


def _upload_body() -> dict[str, Any]:
    file = {
        "type": "string",
        "format": "binary",
        "description": "XGBoost UBJSON or JSON, LightGBM text, ONNX or skops. Never a pickle.",
    }
    fields = {name: {"type": "string", "description": text} for name, text in FIELDS.items()}
    form = {"type": "object", "required": [FILE_FIELD, "model_type"], "properties": {FILE_FIELD: file, **fields}}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form, "example": {"model_type": "xgboost", "tags": "fraud,production"}},
            "application/octet-stream": {"schema": file},
        },
    }
