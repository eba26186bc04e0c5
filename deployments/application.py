"""A FastAPI application as each of ours is: behind the door, with problems for errors, health, OpenAPI and its page."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse, Response

from compute.errors import InvalidField
from deployments.access import COMMON, Policy, Rules
from deployments.auth import AuthMiddleware
from deployments.fast_lane import FastRoute
from deployments.problems import ErrorResponse, handle_problems, problem
from deployments.rendering import JSONResponse
from deployments.tokens import TokenStore
from registry import open_store

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from compute import Config

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

_DOCS = Path(__file__).with_name("docs.html")


class _Route(APIRoute):
    """A route that refuses query parameters it does not know: a mistake in a name would change what is asked."""

    free: frozenset[str] = frozenset()
    """Paths whose handlers read the query themselves."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = [parameter.alias for parameter in self.dependant.query_params]

        async def strict(request: Request) -> Response:
            unknown = sorted(set(request.query_params) - set(known))
            if unknown and self.path not in self.free:
                raise InvalidField(
                    f"there is no query parameter {unknown[0][:80]!r} here",
                    hint=f"There are {', '.join(known)}." if known else "There are none.",
                    context={"field": unknown[0][:80]},
                )
            return await handle(request)

        return strict


class Application(FastAPI):
    """A FastAPI application that every request enters through `AuthMiddleware`.

    It answers ``GET /health``, ``GET /openapi.json`` and ``GET /docs`` to anybody.

    Parameters
    ----------
    title, description : str
        For the documentation.
    rules : mapping
        The role that each route needs (`deployments.access.Rules`); a route that is not in it needs an admin.
    config : Config
        Sections ``security`` and ``storage`` (where the tokens lie).
    uploads : frozenset of str
        Paths of routes that take bodies up to ``security.max_upload``.
    echo_request_id : bool
        False behind Serve's proxy, which sends the request id back itself.
    error_response : callable
        Makes the response of an error and a request id; by default a problem.
    fast : sequence of FastRoute
        Routes that plain requests reach past the framework (`deployments.fast_lane`).
    lifespan : callable, optional
        Gives the context in which the application runs, as FastAPI has it.
    """

    def __init__(
        self,
        *,
        title: str,
        description: str,
        rules: Rules,
        config: Config,
        uploads: frozenset[str] = frozenset(),
        echo_request_id: bool = False,
        error_response: ErrorResponse = problem,
        fast: Sequence[FastRoute] = (),
        lifespan: Lifespan | None = None,
    ) -> None:
        super().__init__(
            title=title,
            description=description,
            docs_url=None,  # FastAPI's page loads its scripts from the internet
            redoc_url=None,
            redirect_slashes=False,
            default_response_class=JSONResponse,
            lifespan=lifespan,
        )
        # The fields of an upload come as a query, too.
        self.router.route_class = type("Route", (_Route,), {"free": uploads})
        self.rules: Rules = {**COMMON, **rules}
        handle_problems(self, error_response)
        self._door = AuthMiddleware(
            policy=Policy(self.router.routes, self.rules, uploads),
            tokens=TokenStore(open_store(config.storage.uri, config)),
            config=config,
            echo_request_id=echo_request_id,
            error_response=error_response,
            fast=fast,
        )
        self.add_middleware(self._door.before)
        page = _DOCS.read_text(encoding="utf-8")

        async def health() -> JSONResponse:
            return JSONResponse({"status": "ok"})

        async def docs() -> HTMLResponse:
            return HTMLResponse(page, headers={"Content-Security-Policy": _CONTENT_SECURITY_POLICY})

        self.add_api_route("/health", health, methods=["GET"], summary="Whether the application answers")
        self.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection: by the lane of the door if it may, else by the framework with the door in it."""
        if scope["type"] != "http" or not await self._door.lane.take(scope, receive, send):
            await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, with what each route asks for."""
        if self.openapi_schema is None:
            schema = super().openapi()
            schema.setdefault("components", {})["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer", "description": "A token of `deployments.tokens`."}
            }
            problems = {"description": "Any refusal or failure (RFC 9457)", "content": {"application/problem+json": {}}}
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    needed = self.rules.get((method.upper(), path), "admin")
                    operation["security"] = [] if needed == "public" else [{"token": []}]
                    operation["x-role"] = str(needed)
                    operation["responses"].pop("422", None)  # FastAPI's own shape, which is not what is sent
                    operation["responses"]["default"] = problems
        assert self.openapi_schema is not None  # by FastAPI's method
        return self.openapi_schema


# The page is one file with its script inside: nothing else is loaded, and it may call nothing but us.
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
