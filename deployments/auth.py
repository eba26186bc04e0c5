"""The door: one plain ASGI middleware in front of every application.

In this order: Host and Origin (421, 403), the size that is announced (413), the token (401), its role (403), then the
application with its body counted while it is read (413). Each answer is a problem; each request gets an id and one
line in the log, with the token's name and never the token.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Self

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from compute.errors import BadRequest, Forbidden, PayloadTooLarge
from deployments.fast_lane import FastLane, FastRoute
from deployments.gate import Gate
from deployments.origins import check_host, check_origin, preflight_headers, response_headers
from deployments.problems import ErrorResponse, problem
from deployments.request_log import REQUEST_ID, log_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from compute import Config
    from deployments.access import Policy
    from deployments.tokens import Token, TokenStore

_LINGER, _LINGER_BYTES = 2.0, 64 * 2**20
"""Seconds and bytes for which the rest of a body that was refused is still taken."""


class AuthMiddleware:
    """Lets a request in, or answers it.

    Parameters
    ----------
    policy : Policy
        What each route needs.
    tokens : TokenStore
        Who may come in.
    config : Config
        Its section ``security``.
    echo_request_id : bool
        Whether to send the request id back. Serve's proxy does so itself.
    error_response : callable
        Makes the response for an error and a request id.
    fast : sequence of FastRoute
        Routes whose plain requests need not go through the application.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        tokens: TokenStore,
        config: Config,
        echo_request_id: bool = True,
        error_response: ErrorResponse = problem,
        fast: Sequence[FastRoute] = (),
    ) -> None:
        self._app: ASGIApp
        self.policy = policy
        self._security = config.security
        self.gate = Gate(tokens)
        self.echoes = echo_request_id
        self.error_response = error_response
        self.allowed_hosts, self.max_body = config.security.allowed_hosts, config.security.max_body
        self.lane = FastLane(self, fast)

    def before(self, app: ASGIApp) -> Self:
        """Return this door with an application behind it."""
        self._app = app
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "websockets are not served"})
        else:
            await self._app(scope, receive, send)


class _Exchange:
    """One request and its response."""

    def __init__(self, door: AuthMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self.door = door
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        self.head = scope["method"] == "HEAD"
        # A copy: the server keeps the original to know, for one, that a HEAD has no body.
        self.scope = {**scope, "state": {**scope.get("state", {}), "request_id": self.request_id, "head": self.head}}
        if self.head:
            self.scope["method"] = "GET"
        if scope["path"] == scope.get("root_path", ""):
            self.scope["path"] += "/"  # `/models` is `/models/`
        self._receive = receive
        self._send = send
        self.origin: str | None = None
        self.token: Token | None = None
        self.limit = 0
        self.received = 0
        self.too_large = False
        self.status = 0

    async def run(self) -> None:
        started = time.perf_counter()
        try:
            response = await self._enter()
            if response is not None:
                await response(self.scope, self._receive, self.send)
            else:
                await self.door._app(self.scope, self.receive, self.send)
                if self.too_large and not self.status:
                    await self._refuse(self._payload_too_large())
        except ClientDisconnect:
            self.status = self.status or 499
        except Exception as error:
            if self.status:
                raise  # the answer is on its way and cannot be taken back; the server cuts the connection
            await self._refuse(self._payload_too_large() if self.too_large else error)
        finally:
            method = "HEAD" if self.head else self.scope["method"]
            log_request(
                method, self.scope["path"], self.status, time.perf_counter() - started, self.token, self.request_id
            )

    async def _enter(self) -> Response | None:
        """Give the answer to a request that goes no further."""
        security = self.door._security
        host = check_host([value for name, value in self.headers.raw if name == b"host"], security.allowed_hosts)
        self.origin = check_origin(
            [value for name, value in self.headers.raw if name == b"origin"], host, security.allowed_origins
        )
        if self.origin and self.scope["method"] == "OPTIONS" and "access-control-request-method" in self.headers:
            return Response(status_code=204, headers=preflight_headers(self.origin))
        needs = self.door.policy.of(self.scope)
        authorize = partial(self.door.gate.authorize, self.headers.getlist("authorization"), needs.access)
        self.token = await authorize()
        # An answer that takes hours asks again on its way whether the token still holds.
        self.scope["state"].update(token=self.token, still_allowed=authorize)
        self.limit = security.max_upload if needs.upload else security.max_body
        announced = self.headers.get("content-length", "0")
        if not announced.isdecimal():
            raise BadRequest("the header Content-Length is not a number")
        if len(announced) > 20 or int(announced) > self.limit:
            raise self._payload_too_large()
        return None

    async def receive(self) -> Message:
        """Count the body while it is read: a chunked one announces nothing."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
            if self.received > self.limit:
                self.too_large = True
                raise self._payload_too_large()
        return message

    async def send(self, message: Message) -> None:
        if self.too_large and not self.status:
            return  # a framework that took the refusal for a malformed body; ours follows
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
            if self.door.echoes:
                headers["X-Request-ID"] = self.request_id
            if self.origin:
                for name, value in response_headers(self.origin).items():
                    headers.setdefault(name, value)
        elif message["type"] == "http.response.body" and self.head:
            message = {**message, "body": b""}
        await self._send(message)

    async def _refuse(self, error: Exception) -> None:
        self.too_large = False
        response = self.door.error_response(error, self.request_id)
        if response.status_code == 401:
            given = "authorization" in self.headers
            response.headers["WWW-Authenticate"] = f'Bearer realm="tablework"{", error=invalid_token" * given}'
        elif isinstance(error, Forbidden) and "needed" in error.context:
            response.headers["WWW-Authenticate"] = (
                f'Bearer realm="tablework", error="insufficient_scope", scope="{error.context["needed"]}"'
            )
        if response.status_code == 413:
            response.headers["Connection"] = "close"  # the rest of the body is not worth reading
            await response(self.scope, self._receive, self._send_and_linger)
        else:
            await response(self.scope, self._receive, self.send)

    async def _send_and_linger(self, message: Message) -> None:
        """Send the answer, and take what is on its way for a moment: to close at once would destroy the answer.

        Data that arrive at a closed connection are answered with a reset, at which a proxy or a client throws away what
        it has not read yet.
        """
        if message["type"] != "http.response.body":
            await self.send(message)
            return
        await self.send({**message, "more_body": True})
        taken = 0
        with contextlib.suppress(TimeoutError, ClientDisconnect):
            async with asyncio.timeout(_LINGER):
                while taken < _LINGER_BYTES:
                    rest = await self._receive()
                    taken += len(rest.get("body", b""))
                    if rest["type"] != "http.request" or not rest.get("more_body", False):
                        break
        await self.send({"type": "http.response.body", "body": b""})

    def _payload_too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body is larger than the {self.limit} bytes that are accepted here",
            hint="Send less at once; a large file of a model goes in parts to POST /models/uploads. The operator sets "
            "security.max_body and security.max_upload.",
            context={"limit": self.limit},
        )
