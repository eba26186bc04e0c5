"""How the requests to a name are shared out, over HTTP."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

from typing import Any

from fastapi import Request
from starlette.responses import Response

from compute.errors import InvalidField
from deployments.access import Rules
from deployments.application import Application
from deployments.records_api import Name, json_body
from deployments.rendering import JSONResponse
from deployments.rows import read_object
from deployments.threads import Threads
from deployments.tokens import Role
from registry import ModelRegistry

RULES: Rules = {
    ("GET", "/traffic/{name}"): Role.READ,
    ("PUT", "/traffic/{name}"): Role.WRITE,
    ("DELETE", "/traffic/{name}"): Role.WRITE,
}

_FIELDS = ("arms", "shadow", "shadow_fraction", "sticky", "rollback", "revision", "reason")
EXAMPLE: dict[str, Any] = {
    "arms": {"champion": 90, "challenger": 10},
    "shadow": None,
    "sticky": "X-User-Id",
    "rollback": {"to": "champion", "error_rate": 0.05, "latency": 0.2},
}


def traffic_api(app: Application, registry: ModelRegistry, threads: Threads) -> None:
    """Add the routes of traffic.

    Parameters
    ----------
    app : Application
        To which they are added.
    registry : ModelRegistry
        Its calls block, so they are made in the threads.
    threads : Threads
        For the calls.
    """
    call = threads.call

    @app.get(
        "/traffic/{name}",
        summary="How the requests to a name are shared out, and what came of it",
        description="The results are of the present revision: of each arm, and of the shadow, its requests, errors and "
        "latencies in seconds.",
    )
    async def get_traffic(name: Name) -> Response:
        return JSONResponse(await call(registry.traffic_results, name))

    @app.put(
        "/traffic/{name}",
        summary="Share the requests to a name out",
        description="Replicas follow within a second. With `revision`, only if the traffic is still at that one.",
        openapi_extra={"requestBody": json_body(EXAMPLE)},
    )
    async def set_traffic(name: Name, request: Request) -> Response:
        body = read_object(await request.body())
        unknown = next((field for field in body if field not in _FIELDS), None)
        if unknown is not None or not isinstance(body.get("arms"), dict):
            wrong = "arms is not an object of weights" if unknown is None else f"there is no field {unknown[:80]!r}"
            raise InvalidField(wrong, hint=f"There are {', '.join(_FIELDS)}.", context={"field": unknown or "arms"})
        traffic = await call(registry.set_traffic, name, body.pop("arms"), **body)
        return JSONResponse(traffic.model_dump(mode="json"))

    @app.delete(
        "/traffic/{name}", status_code=204, summary="Have what the name alone stands for answer all requests again"
    )
    async def remove_traffic(name: Name) -> Response:
        await call(registry.set_traffic, name, None)
        return Response(status_code=204)
