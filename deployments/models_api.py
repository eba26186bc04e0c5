"""The HTTP interface of the model registry: each handler reads the request, makes one call, and renders the answer."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

import asyncio
import functools
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, ParamSpec, TypeVar

from fastapi import Path, Query, Request
from starlette.responses import Response

from compute import Config
from compute.errors import InvalidField, RevisionMismatch
from deployments.access import Rules
from deployments.application import Application
from deployments.rendering import JSONResponse
from deployments.rows import read_json, read_object, read_rows
from deployments.scoring import Scorer
from deployments.tokens import Role
from deployments.uploads import FILE_FIELD, Upload, receive_upload
from registry import ModelRecord, ModelRegistry, Signature

Args = ParamSpec("Args")
Result = TypeVar("Result")

RULES: Rules = {
    ("GET", "/"): Role.READ,
    ("GET", "/search"): Role.READ,
    ("POST", "/upload"): Role.WRITE,
    ("GET", "/{model_id}"): Role.READ,
    ("PATCH", "/{model_id}"): Role.WRITE,
    # What is deleted is gone; who trains and publishes models (write) can take them out of use by their status.
    ("DELETE", "/{model_id}"): Role.ADMIN,
    # A prediction changes nothing, though it is a POST.
    ("POST", "/{model_id}/predict"): Role.READ,
}

ModelId = Annotated[str, Path(max_length=300, description="A model id.")]
Reference = Annotated[str, Path(max_length=300, description="A model id, `name`, `name@alias` or `name:version`.")]
Limit = Annotated[int, Query(ge=1, le=500, description="How many at most.")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the page before.")]
Proba = Annotated[bool, Query(description="Probabilities of the classes instead of the class.")]
Force = Annotated[bool, Query(description="Also when aliases point to it.")]

_JSON_BODY = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}


def models_api(registry: ModelRegistry, scorer: Scorer, config: Config) -> Application:
    """Return the application that serves the registry and its models.

    Parameters
    ----------
    registry : ModelRegistry
        Its calls block, so they are made in threads.
    scorer : Scorer
        Answers predictions.
    config : Config
        For the door (`Application`).
    """
    app = Application(
        title="Models",
        description="Register, find, change and delete models, and predict with any of them.",
        rules=RULES,
        config=config,
        uploads=frozenset({"/upload"}),
    )
    threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix="registry")

    async def call(function: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
        return await asyncio.get_running_loop().run_in_executor(threads, functools.partial(function, *args, **kwargs))

    @app.get("/", summary="List models")
    async def list_models(
        model_type: Annotated[str | None, Query(max_length=200)] = None,
        tags: Annotated[list[str] | None, Query(description="All of these; repeated, or joined by commas.")] = None,
        status: Annotated[str | None, Query(description="`active`, `deprecated` or `archived`.")] = None,
        name: Annotated[str | None, Query(max_length=300)] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Response:
        # One more than asked for tells whether there is a next page.
        found = await call(
            registry.list_models,
            model_type=model_type,
            tags=_split(tags or []) or None,
            status=status,
            name=name,
            limit=limit + 1,
            cursor=cursor,
        )
        page = found[:limit]
        return JSONResponse(_page(page, page[-1].model_id if len(found) > limit else None))

    @app.get("/search", summary="Search models")
    async def search_models(
        q: Annotated[str, Query(max_length=2000, description="The query.")] = "",
        sort: Annotated[str | None, Query(max_length=200)] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Response:
        page = await call(registry.search_models, q, sort=sort, limit=limit, cursor=cursor)
        return JSONResponse(_page(page.models, page.next_cursor))

    @app.post(
        "/upload",
        status_code=201,
        summary="Upload a model file",
        openapi_extra={"requestBody": _upload_body()},
    )
    async def upload_model(request: Request) -> Response:
        async with receive_upload(request) as upload:
            key = request.headers.get("idempotency-key")
            model_id = await call(registry.register_file, upload.path, idempotency_key=key, **_upload_fields(upload))
        record = await call(registry.get_model, model_id)
        location = f"{request.scope.get('root_path', '')}/{model_id}"
        return _render(record, status_code=201, headers={"Location": location})

    @app.get("/{model_id}", summary="Get a model's record")
    async def get_model(model_id: Reference, request: Request) -> Response:
        record = await call(registry.resolve, model_id)
        if _etag(record) in _etags(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers={"ETag": _etag(record)})
        return _render(record)

    @app.patch("/{model_id}", summary="Change a model's record", openapi_extra={"requestBody": _JSON_BODY})
    async def update_model(model_id: ModelId, request: Request) -> Response:
        updates = read_object(await request.body())
        revision = await _expected_revision(request, model_id)
        record = await call(registry.update_model_metadata, model_id, updates, revision=revision)
        scorer.forget(model_id)
        return _render(record)

    @app.delete("/{model_id}", status_code=204, summary="Delete a model")
    async def delete_model(model_id: ModelId, request: Request, force: Force = False) -> Response:
        revision = await _expected_revision(request, model_id)
        await call(registry.delete_model, model_id, force=force, revision=revision)
        scorer.forget(model_id)
        return Response(status_code=204)

    @app.post("/{model_id}/predict", summary="Predict rows", openapi_extra={"requestBody": _predict_body()})
    async def predict(model_id: Reference, request: Request, proba: Proba = False) -> Response:
        rows = read_rows(await request.body())
        return JSONResponse(await scorer.predict(model_id, rows, proba=proba))

    async def _expected_revision(request: Request, model_id: str) -> int | None:
        """Give the revision that If-Match asks for; the registry compares it and changes in one step."""
        given = request.headers.get("if-match")
        if given is None:
            return None
        record = await call(registry.get_model, model_id)
        if given.strip() == "*":
            return None
        if _etag(record) not in _etags(given, strong=True):
            raise RevisionMismatch(
                f"model {model_id!r} is at revision {record.revision}, not at {given[:80]}",
                hint="Get the record again, and send its ETag as If-Match.",
                context={"revision": record.revision},
            )
        return record.revision

    return app


def _render(record: ModelRecord, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(
        record.model_dump(mode="json"), status_code=status_code, headers={"ETag": _etag(record), **(headers or {})}
    )


def _page(models: list[ModelRecord] | tuple[ModelRecord, ...], next_cursor: str | None) -> dict[str, Any]:
    return {"models": [record.model_dump(mode="json") for record in models], "next_cursor": next_cursor}


def _etag(record: ModelRecord) -> str:
    return f'"{record.revision}"'


def _etags(header: str, *, strong: bool = False) -> set[str]:
    """Return the entity tags of a header; If-Match compares strongly, so weak ones do not count there."""
    return {tag for weak, tag in re.findall(r'(W/)?("[^"]*")', header) if not (strong and weak)}


def _split(values: list[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _upload_fields(upload: Upload) -> dict[str, Any]:
    """Read the text fields of an upload; one that is not known is a mistake in its name, and refused."""
    fields = dict(upload.fields)
    values: dict[str, Any] = {"tags": _split(fields.pop("tags", [])) or None}
    for key in ("model_type", "name", "metadata", "metrics", "signature"):
        given = fields.pop(key, [])
        if len(given) > 1:
            raise InvalidField(f"the field {key!r} is there more than once", context={"field": key})
        values[key] = given[0] if given else None
    if fields:
        unknown = sorted(fields)[0]
        raise InvalidField(
            f"no field {unknown[:80]!r}",
            hint=f"Fields are {FILE_FIELD}, model_type, name, tags, metadata, metrics and signature.",
            context={"field": unknown[:80]},
        )
    if not values["model_type"]:
        raise InvalidField("the field 'model_type' is missing", context={"field": "model_type"})
    for key in ("metadata", "metrics", "signature"):
        if values[key] is not None:
            values[key] = _object(key, values[key])
    if values["signature"] is not None:
        values["signature"] = _signature(values["signature"])
    return values


def _object(key: str, text: str) -> dict[str, Any]:
    value = read_json(text.encode())
    if not isinstance(value, dict):
        raise InvalidField(f"the field {key!r} is not a JSON object", context={"field": key})
    return value


def _signature(value: dict[str, Any]) -> Signature:
    try:
        return Signature.model_validate_json(json.dumps(value))
    except ValueError as error:
        raise InvalidField(f"the signature is not valid: {error}", context={"field": "signature"}) from None


def _upload_body() -> dict[str, Any]:
    text = {"type": "string"}
    properties = {
        FILE_FIELD: {
            "type": "string",
            "format": "binary",
            "description": "XGBoost UBJSON or JSON, LightGBM text, or skops. Never a pickle.",
        },
        "model_type": text,
        "name": text,
        "tags": {"type": "string", "description": "Joined by commas."},
        "metadata": {"type": "string", "description": "A JSON object."},
        "metrics": {"type": "string", "description": "A JSON object."},
        "signature": {"type": "string", "description": "A JSON object, as in a model's record."},
    }
    schema = {"type": "object", "required": [FILE_FIELD, "model_type"], "properties": properties}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


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
