"""Records, aliases and deleted models over HTTP: each handler reads, makes one call, and renders."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Path, Query, Request
from starlette.responses import Response

from compute.errors import InvalidField
from deployments.access import Rules
from deployments.application import Application
from deployments.conditions import etag, expected_revision, is_current
from deployments.rendering import JSONResponse
from deployments.rows import read_object
from deployments.scoring import Scorer
from deployments.threads import Threads
from deployments.tokens import Role
from registry import DeletedModel, ModelRecord, ModelRegistry

RULES: Rules = {
    ("GET", "/"): Role.READ,
    ("GET", "/search"): Role.READ,
    ("PUT", "/aliases/{name}/{alias}"): Role.WRITE,
    ("DELETE", "/aliases/{name}/{alias}"): Role.WRITE,
    ("GET", "/{model_id}"): Role.READ,
    ("PATCH", "/{model_id}"): Role.WRITE,
    # Who trains and publishes models (write) can take them out of use by their status.
    ("DELETE", "/{model_id}"): Role.ADMIN,
    ("POST", "/{model_id}/restore"): Role.ADMIN,
}

ModelId = Annotated[str, Path(max_length=300, description="A model id.")]
Reference = Annotated[str, Path(max_length=300, description="A model id, `name`, `name@alias` or `name:version`.")]
Name = Annotated[str, Path(max_length=300, description="The name of a model.")]
Alias = Annotated[str, Path(max_length=300, description="The alias; `champion` is what the name alone stands for.")]
Limit = Annotated[int, Query(ge=1, le=500, description="How many at most.")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the page before.")]
Force = Annotated[bool, Query(description="Also when aliases point to it.")]

EXAMPLE: dict[str, Any] = {
    "model_id": "m-0b5c7d0e1f2a4b3c8d9e0f1a2b3c4d5e",
    "name": "delays",
    "version": 3,
    "aliases": ["champion"],
    "model_type": "xgboost",
    "format": "xgboost-ubj",
    "artifact": {"digest": f"sha256:{'0' * 64}", "size": 48213, "generation": 0},
    "signature": None,
    "metadata": {"description": "Arrival delays"},
    "tags": ["flights"],
    "status": "active",
    "metrics": {"rmse": 11.2},
    "lineage": {},
    "created_at": "2026-01-02T00:00:00Z",
    "updated_at": "2026-01-02T00:00:00Z",
    "revision": 2,
}


def records_api(app: Application, registry: ModelRegistry, scorer: Scorer, threads: Threads) -> None:
    """Add the routes of records, aliases and deleted models.

    Parameters
    ----------
    app : Application
        To which they are added.
    registry : ModelRegistry
        Its calls block, so they are made in the threads.
    scorer : Scorer
        Is told what changed.
    threads : Threads
        For the calls.
    """
    call = threads.call

    @app.get("/", summary="List models", responses=_answers(_page([EXAMPLE], None)))
    async def list_models(
        model_type: Annotated[str | None, Query(max_length=200)] = None,
        tags: Annotated[list[str] | None, Query(description="All of these; repeated, or joined by commas.")] = None,
        status: Annotated[str | None, Query(description="`active`, `deprecated` or `archived`.")] = None,
        name: Annotated[str | None, Query(max_length=300)] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
        deleted: Annotated[bool, Query(description="Those that can be restored; only by `name`.")] = False,
    ) -> Response:
        wanted = split(tags or []) or None
        if deleted:
            if model_type or wanted or status:
                raise InvalidField(
                    "deleted models are listed by name alone",
                    hint="Leave model_type, tags and status out.",
                    context={"field": "deleted"},
                )
            return JSONResponse(_deleted_page(await call(registry.list_deleted, name), limit, cursor))
        # One more than asked for tells whether there is a next page.
        found = await call(
            registry.list_models,
            model_type=model_type,
            tags=wanted,
            status=status,
            name=name,
            limit=limit + 1,
            cursor=cursor,
        )
        page = found[:limit]
        return JSONResponse(_page(map(_json, page), page[-1].model_id if len(found) > limit else None))

    @app.get("/search", summary="Search models", responses=_answers(_page([EXAMPLE], "WyJhIl0")))
    async def search_models(
        q: Annotated[
            str,
            Query(
                max_length=2000,
                description="The query; a bad one is refused with the position of what is wrong.",
                examples=['model_type = "xgboost" and metrics.rmse < 12 and tags contains "fraud"'],
            ),
        ] = "",
        sort: Annotated[str | None, Query(max_length=200, description="A field; `-` before it: largest first.")] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Response:
        page = await call(registry.search_models, q, sort=sort, limit=limit, cursor=cursor)
        return JSONResponse(_page(map(_json, page.models), page.next_cursor))

    @app.put(
        "/aliases/{name}/{alias}",
        summary="Point an alias to a version",
        description="With `If-Match`, only if the record of that version is still as it was read.",
        openapi_extra={"requestBody": json_body({"version": 3})},
        responses=_answers(EXAMPLE),
    )
    async def set_alias(name: Name, alias: Alias, request: Request) -> Response:
        version = _version(read_object(await request.body()))
        revision = await _expected(request, f"{name}:{version}")
        record = await call(registry.set_alias, name, alias, version, revision=revision)
        assert record is not None  # it is for a version
        scorer.forget(f"{name}@{alias}")
        scorer.forget(name)
        return render(record)

    @app.delete(
        "/aliases/{name}/{alias}",
        status_code=204,
        summary="Take an alias away",
        description="With `If-Match`, only if the record that it points to is still as it was read.",
    )
    async def remove_alias(name: Name, alias: Alias, request: Request) -> Response:
        record = await call(registry.resolve, f"{name}@{alias}")  # 404 when there is no such alias
        revision = expected_revision(request.headers.get("if-match"), record)
        await call(registry.set_alias, name, alias, None, revision=revision)
        scorer.forget(f"{name}@{alias}")
        scorer.forget(name)
        return Response(status_code=204)

    @app.get("/{model_id}", summary="Get a model's record", responses=_answers(EXAMPLE))
    async def get_model(model_id: Reference, request: Request) -> Response:
        record = await call(registry.resolve, model_id)
        if is_current(request.headers.get("if-none-match"), etag(record)):
            return Response(status_code=304, headers={"ETag": etag(record)})
        return render(record)

    @app.patch(
        "/{model_id}",
        summary="Change a model's record",
        description="`status` and `tags` are replaced; `metrics` and `metadata` are merged key by key, where null "
        "removes a key. Keys that are no field of a record are metadata. With `If-Match`, only if nobody was faster.",
        openapi_extra={"requestBody": json_body({"status": "deprecated", "metadata": {"owner": "ops"}})},
        responses=_answers(EXAMPLE),
    )
    async def update_model(model_id: ModelId, request: Request) -> Response:
        updates = read_object(await request.body())
        revision = await _expected(request, model_id)
        record = await call(registry.update_model_metadata, model_id, updates, revision=revision)
        scorer.forget(model_id)
        return render(record)

    @app.delete(
        "/{model_id}",
        status_code=204,
        summary="Delete a model",
        description="It can be restored for `storage.keep_deleted_days`; its version is not given again.",
    )
    async def delete_model(model_id: ModelId, request: Request, force: Force = False) -> Response:
        revision = await _expected(request, model_id)
        await call(registry.delete_model, model_id, force=force, revision=revision)
        scorer.forget(model_id)
        return Response(status_code=204)

    @app.post(
        "/{model_id}/restore",
        summary="Bring a deleted model back",
        description="As it was, but for its aliases. A model that is not deleted is left as it is. With `If-Match`, "
        "only if its record is at that revision.",
        responses=_answers(EXAMPLE),
    )
    async def restore_model(model_id: ModelId, request: Request) -> Response:
        if (given := request.headers.get("if-match")) is not None:
            # Nobody changes a deleted model: what it is now, it is when it comes back.
            deleted = {model.record.model_id: model.record for model in await call(registry.list_deleted)}
            record = deleted.get(model_id)
            expected_revision(given, await call(registry.get_model, model_id) if record is None else record)
        record = await call(registry.restore_model, model_id)
        scorer.forget(model_id)
        return render(record)

    async def _expected(request: Request, reference: str) -> int | None:
        given = request.headers.get("if-match")
        return None if given is None else expected_revision(given, await call(registry.resolve, reference))


def render(record: ModelRecord, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response that shows a record."""
    return JSONResponse(_json(record), status_code=status_code, headers={"ETag": etag(record), **(headers or {})})


def split(values: Sequence[str]) -> list[str]:
    """Return texts that are given one by one or joined by commas."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def json_body(example: dict[str, Any]) -> dict[str, Any]:
    """Return what the documentation says of a body that is a JSON object."""
    return {"required": True, "content": {"application/json": {"schema": {"type": "object"}, "example": example}}}


def _answers(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": example}}}}


def _json(record: ModelRecord) -> dict[str, Any]:
    return record.model_dump(mode="json")


def _page(models: Any, next_cursor: str | None) -> dict[str, Any]:
    return {"models": list(models), "next_cursor": next_cursor}


def _deleted_page(deleted: list[DeletedModel], limit: int, cursor: str | None) -> dict[str, Any]:
    if cursor is not None:
        place = [index for index, model in enumerate(deleted) if model.record.model_id == cursor]
        if not place:
            raise InvalidField(
                "the cursor is not one of ours, or its model was restored",
                hint="It is next_cursor of the page before; begin anew without one.",
                context={"field": "cursor"},
            )
        deleted = deleted[place[0] + 1 :]
    page = [{**_json(model.record), **model.model_dump(mode="json", exclude={"record"})} for model in deleted[:limit]]
    return _page(page, page[-1]["model_id"] if len(deleted) > limit else None)


def _version(body: dict[str, Any]) -> int:
    version = body.get("version")
    if body.keys() != {"version"} or isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise InvalidField(
            "the body does not name a version alone",
            hint='Send {"version": 3}; to take the alias away, DELETE it.',
            context={"field": "version"},
        )
    return version
