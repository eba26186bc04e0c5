"""The Open Inference Protocol V2 over HTTP: any model of the registry, by its name, without a redeploy.

Inference itself is a plain ASGI endpoint with a lane through the door: FastAPI would cost more than the scoring.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

import asyncio
from collections.abc import Mapping
from typing import Annotated

import orjson
from fastapi import Path, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from compute import Config
from compute.errors import InvalidField, UnsupportedFormat
from deployments.access import PUBLIC, Rules
from deployments.application import Application, Lifespan
from deployments.fast_lane import FastRoute, Headers, Reply, sticky_of, text_of
from deployments.problems import problem
from deployments.rendering import JSONResponse
from deployments.rows import read_object
from deployments.tokens import Role
from deployments.v2_infer import InferBody, read_request, write_response
from deployments.v2_service import V2Service
from deployments.waiting import SMALL, end_of_wait, read_all, while_wanted

RULES: Rules = {
    # What probes ask for; they have no token, and learn nothing but that the server is there.
    ("GET", "/health/live"): PUBLIC,
    ("GET", "/health/ready"): PUBLIC,
    ("GET", "/"): Role.READ,
    ("GET", "/models/{name}"): Role.READ,
    ("GET", "/models/{name}/versions/{version}"): Role.READ,
    ("GET", "/models/{name}/ready"): Role.READ,
    ("GET", "/models/{name}/versions/{version}/ready"): Role.READ,
    # Predictions change nothing, though they are POSTs.
    ("POST", "/models/{name}/infer"): Role.READ,
    ("POST", "/models/{name}/versions/{version}/infer"): Role.READ,
    ("POST", "/repository/index"): Role.READ,
    ("POST", "/repository/models/{name}/load"): Role.WRITE,
    ("POST", "/repository/models/{name}/unload"): Role.WRITE,
}

INFER = ("/models/{name}/infer", "/models/{name}/versions/{version}/infer")

Name = Annotated[str, Path(max_length=300, description="A name, `name@alias`, or a model id.")]
Version = Annotated[str, Path(max_length=300, description="A version, or an alias.")]


def v2_api(
    service: V2Service, config: Config, *, echo_request_id: bool = False, lifespan: Lifespan | None = None
) -> Application:
    """Return the application.

    Parameters
    ----------
    service : V2Service
        Answers.
    config : Config
        For the door (`Application`).
    echo_request_id : bool
        False behind Serve's proxy, which sends it back itself.
    lifespan : callable, optional
        As for `Application`.
    """
    infer = Infer(service)
    app = Application(
        title="Inference",
        description="Any model of the registry in the Open Inference Protocol V2: one tensor for each feature, "
        "or one matrix where all features are numbers.",
        rules=RULES,
        config=config,
        echo_request_id=echo_request_id,
        error_response=v2_error,
        lifespan=lifespan,
        fast=[FastRoute(path, infer.answer) for path in INFER],
    )
    # First, since routes are tried in turn and this is the one that counts.
    for path in INFER:
        app.router.routes.insert(0, Route(path, infer, methods=["POST"]))

    @app.get("/health/live", summary="Whether the server runs")
    async def live() -> Response:
        return JSONResponse({"live": True})

    @app.get("/health/ready", summary="Whether the server can infer")
    async def is_ready() -> Response:
        return JSONResponse({"ready": await service.ready()})

    @app.get("/", summary="The server")
    async def server() -> Response:
        return JSONResponse(service.server())

    async def metadata(name: Name, version: Version | None = None) -> Response:
        return JSONResponse(await service.metadata(name, version))

    async def model_ready(name: Name, version: Version | None = None) -> Response:
        return JSONResponse({"name": await service.model_ready(name, version), "ready": True})

    for prefix in ("/models/{name}", "/models/{name}/versions/{version}"):
        app.add_api_route(prefix, metadata, methods=["GET"], summary="What a model takes and gives")
        app.add_api_route(f"{prefix}/ready", model_ready, methods=["GET"], summary="Whether a model can be asked")

    @app.post("/repository/index", summary="The models")
    async def index(request: Request) -> Response:
        body = await request.body()
        only_ready = read_object(body).get("ready", False) if body.strip() else False
        if not isinstance(only_ready, bool):
            raise InvalidField("ready is not true or false", context={"field": "ready"})
        return JSONResponse(await service.index(only_ready=only_ready))

    @app.post("/repository/models/{name}/load", summary="Have a model in memory before it is asked")
    async def load(name: Name) -> Response:
        await service.load(name)
        return JSONResponse({})

    @app.post("/repository/models/{name}/unload", summary="Let a model go from memory until it is asked again")
    async def unload(name: Name) -> Response:
        await service.unload(name)
        return JSONResponse({})

    return app


class Infer:
    """``POST .../infer`` as an ASGI endpoint.

    Parameters
    ----------
    service : V2Service
        Answers.
    """

    def __init__(self, service: V2Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that came through the application."""
        headers = dict(reversed(scope["headers"]))  # of a header that came twice, the first, as everywhere
        reply = await self.answer(scope["path_params"], headers, receive)
        await send({"type": "http.response.start", "status": 200, "headers": reply.headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def answer(self, path: Mapping[str, str], headers: Headers, receive: Receive) -> Reply:
        """Answer a request."""
        if b"content-encoding" in headers:
            raise UnsupportedFormat("the body is compressed", hint="Send it as it is.")
        end = end_of_wait(text_of(headers, b"x-request-timeout"), text_of(headers, b"x-request-start"))
        body = await read_all(receive)
        work = self._answer(path, headers, body)
        small = end is None and len(body) <= SMALL
        answer = await work if small else await while_wanted(work, receive, end)
        kind = b"application/json" if answer.json_length is None else b"application/octet-stream"
        start = [(b"content-type", kind), (b"content-length", b"%d" % len(answer.body))]
        if answer.json_length is not None:
            start.append((b"inference-header-content-length", b"%d" % answer.json_length))
        return Reply(start, answer.body)

    async def _answer(self, path: Mapping[str, str], headers: Headers, body: bytes) -> InferBody:
        json_length = text_of(headers, b"inference-header-content-length")
        if len(body) > SMALL:
            request = await asyncio.to_thread(read_request, body, json_length)
        else:
            request = read_request(body, json_length)
        record, outputs = await self._service.infer(path["name"], path.get("version"), request, sticky_of(headers))
        return write_response(request, record.name, str(record.version), outputs, {"model_id": record.model_id})


def v2_error(error: BaseException, request_id: str) -> JSONResponse:
    """Return the response for an error in the protocol's own shape; what cannot be processed is 400 there."""
    response = problem(error, request_id)
    status = 400 if response.status_code in (415, 422, 501) else response.status_code
    text = orjson.loads(response.body)["detail"]
    return JSONResponse({"error": text}, status, {"Retry-After": "1"} if status in (429, 503) else None)
