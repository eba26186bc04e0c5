"""The HTTP interface of the solver: each handler reads the request, makes one call, and renders the answer."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, ParamSpec, TypeVar

from fastapi import Header, Path, Query, Request
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from compute import Config
from compute.errors import InvalidField
from deployments.access import Rules
from deployments.application import Application
from deployments.records_api import split
from deployments.rendering import JSONResponse
from deployments.rows import read_object
from deployments.task_events import RULES as EVENT_RULES
from deployments.task_events import task_events_api
from deployments.tokens import Role
from solver import SolveRequest, SolverService

Args = ParamSpec("Args")
Result = TypeVar("Result")

RULES: Rules = {
    ("POST", "/solve"): Role.WRITE,
    ("POST", "/solve-sync"): Role.WRITE,
    ("GET", "/task/{task_id}"): Role.READ,
    ("DELETE", "/task/{task_id}"): Role.WRITE,
    ("GET", "/tasks"): Role.READ,
    **EVENT_RULES,
}

TaskId = Annotated[str, Path(max_length=100, description="The id that `POST /solve` gave.")]
IdempotencyKey = Annotated[str | None, Header(description="The same question under the same key is the same task.")]
Wait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for the end of the task.")]
States = Annotated[list[str] | None, Query(description="Only tasks in these; repeated, or joined by commas.")]
Types = Annotated[list[str] | None, Query(description="Only questions of these types; as above.")]
Mine = Annotated[bool, Query(description="Only what this token submitted.")]
Cursor = Annotated[str | None, Query(max_length=100, description="The `next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="So many at most.")]
Timeout = Annotated[float, Query(gt=0, le=3600, description="Seconds to wait for the answer; the task then goes on.")]

_QUICK_THREADS = 16
_WAITING_THREADS = 256

_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SolveRequest"}}},
    }
}


def solver_api(solver: SolverService, config: Config) -> Application:
    """Return the application that brings questions to a solver.

    Parameters
    ----------
    solver : SolverService
        Its calls block, so they are made in threads.
    config : Config
        For the door (`Application`).
    """
    app = _SolverApplication(
        title="Solver",
        description="Bring a question; get the answer at once, or as a task that is never lost.",
        rules=RULES,
        config=config,
    )
    # Apart from each other: a hundred who wait for answers do not keep anybody from submitting or asking.
    quick = ThreadPoolExecutor(_QUICK_THREADS, thread_name_prefix="solver")
    waiting = ThreadPoolExecutor(_WAITING_THREADS, thread_name_prefix="solver-wait")

    async def call(
        threads: ThreadPoolExecutor, function: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs
    ) -> Result:
        return await asyncio.get_running_loop().run_in_executor(threads, functools.partial(function, *args, **kwargs))

    @app.post("/solve", status_code=202, summary="Submit a question as a task", openapi_extra=_BODY)
    async def solve(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        question = await call(quick, _question, await request.body())
        key = idempotency_key
        task = await call(quick, solver.accept, **question, idempotency_key=key, caller=_caller(request))
        location = f"{request.scope.get('root_path', '')}/task/{task['task_id']}"
        return JSONResponse(task, status_code=202, headers={"Location": location})

    @app.get("/task/{task_id}", summary="Where a task stands, and its result")
    async def get_task(task_id: TaskId, wait: Wait = 0) -> Response:
        if wait:
            return JSONResponse(await call(waiting, solver.wait, task_id, wait))
        return JSONResponse(await call(quick, solver.status, task_id))

    @app.delete("/task/{task_id}", summary="Cancel a task")
    async def cancel_task(task_id: TaskId) -> Response:
        return JSONResponse(await call(quick, solver.cancel, task_id))

    @app.post("/solve-sync", summary="Answer a question", openapi_extra=_BODY)
    async def solve_sync(request: Request, timeout: Timeout = 60) -> Response:
        question = await call(quick, _question, await request.body())
        return JSONResponse(await call(waiting, solver.solve, **question, timeout=timeout, caller=_caller(request)))

    @app.get("/tasks", summary="Tasks that are remembered, the newest first")
    async def list_tasks(
        request: Request,
        state: States = None,
        type: Types = None,  # noqa: A002  (the name of the query parameter)
        mine: Mine = False,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Response:
        page = await call(
            quick,
            solver.tasks,
            states=split(state or []),
            types=split(type or []),
            caller=_caller(request) if mine else None,
            cursor=cursor,
            limit=limit,
        )
        return JSONResponse(page)

    task_events_api(app, solver)
    return app


class _SolverApplication(Application):
    """Adds the schemas of the questions to the OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        models: list[tuple[type[BaseModel], Any]] = [(SolveRequest, "validation")]
        _, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")
        schema["components"].setdefault("schemas", {}).update(definitions["$defs"])
        return schema


def _question(body: bytes) -> dict[str, Any]:
    value = read_object(body)
    unknown = sorted(value.keys() - {"query_data", "parameters"})
    if unknown or "query_data" not in value:
        raise InvalidField(
            f"the body has the unknown key {unknown[0][:80]!r}" if unknown else "the body has no query_data",
            hint='Send {"query_data": {"type": "prediction", ...}, "parameters": {...}}.',
            context={"field": unknown[0][:80] if unknown else "query_data"},
        )
    return {"query_data": value["query_data"], "parameters": value.get("parameters")}


def _caller(request: Request) -> str:
    """Name who asks: idempotency keys are each token's own, and tokens take turns."""
    return str(request.state.token.id)
