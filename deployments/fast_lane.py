"""A lane through the door for plain requests to the routes that count: no framework, one look at the headers.

Which route takes a request, what it must bring, and whether its token does are for the door to say
(`deployments.auth`), of whose answers only the first is kept. Whatever is not plain here, or is refused, goes the
door's ordinary way, which answers it: a lane lets nothing in that the door would not.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.requests import ClientDisconnect

from deployments.origins import check_host
from deployments.request_log import REQUEST_ID, RequestLog

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from deployments.access import Needs
    from deployments.auth import AuthMiddleware
    from deployments.question import Sticky

Headers = Mapping[bytes, bytes]

_SAFE = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
_HOSTS, _PATHS, _LONGEST = 1024, 4096, 300
"""How many hosts and paths are remembered, and the length of the longest path."""
_NOT_PLAIN = frozenset({b"origin", b"content-encoding", b"transfer-encoding", b"upgrade"})


class Reply(NamedTuple):
    """An answer with the status 200."""

    headers: list[tuple[bytes, bytes]]
    body: bytes


Answer = Callable[[Mapping[str, Any], Headers, "Receive"], Awaitable[Reply]]


@dataclass(frozen=True)
class FastRoute:
    """A route for POST that has a lane.

    Parameters
    ----------
    path : str
        As the application declares it: ``/models/{name}/infer``.
    answer : callable
        From the path's parameters, the headers (each name once, in lower case) and ``receive`` to the reply.
    plain : callable
        Whether headers ask for no more than `answer` knows.
    """

    path: str
    answer: Answer
    plain: Callable[[Headers], bool] = lambda _: True


class FastLane:
    """Answers plain requests.

    Parameters
    ----------
    door : AuthMiddleware
        Whose lane it is.
    routes : sequence of FastRoute
        They have a lane.
    """

    def __init__(self, door: AuthMiddleware, routes: Sequence[FastRoute]) -> None:
        self._door = door
        self._routes = {route.path: route for route in routes}
        self._words = tuple({f"/{route.path.rpartition('/')[2]}" for route in routes})
        self._hosts: set[bytes] = set()
        self._paths: dict[tuple[str, str], Needs] = {}
        self._log = RequestLog()

    async def take(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a request, or leave it as it is and say so."""
        if scope["method"] != "POST" or scope["query_string"]:
            return False
        path = scope["path"]
        key = (path, scope.get("root_path", ""))
        needs = self._paths.get(key)
        if needs is None:
            if not path.endswith(self._words) or len(path) > _LONGEST:
                return False
            needs = self._door.policy.of(scope)
        route = self._routes.get(needs.path or "")
        if route is None:
            return False
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]) or not _NOT_PLAIN.isdisjoint(headers) or not route.plain(headers):
            return False
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or len(length) > 20 or int(length) > self._door.max_body:
            return False
        began = time.perf_counter()
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        try:
            self._check_host(headers.get(b"host", b""))
            token = await self._door.gate.authorize([authorization], needs.access)
        except Exception:  # noqa: BLE001  (the ordinary way meets it again, and says what it is)
            return False
        if key not in self._paths:
            if len(self._paths) >= _PATHS:
                self._paths.clear()
            self._paths[key] = needs
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        exchange = _Exchange(send, [(b"x-request-id", request_id.encode())] if self._door.echoes else [])
        try:
            reply = await route.answer(needs.parameters, headers, receive)
            await exchange.answer(200, reply.headers, reply.body)
        except ClientDisconnect:
            exchange.status = exchange.status or 499
        except Exception as error:
            if exchange.status:
                raise  # the answer is on its way and cannot be taken back; the server cuts the connection
            response = self._door.error_response(error, request_id)
            await exchange.answer(response.status_code, response.raw_headers, bytes(response.body))
        finally:
            self._log.add("POST", path, exchange.status, time.perf_counter() - began, token, request_id)
        return True

    def _check_host(self, host: bytes) -> None:
        if host not in self._hosts:
            check_host([host], self._door.allowed_hosts)
            if len(self._hosts) < _HOSTS:  # any port is allowed
                self._hosts.add(host)


class _Exchange:
    """Sends one answer, and knows whether it has begun to."""

    def __init__(self, send: Send, more: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._more = more
        self.status = 0

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        start = [*headers, *_SAFE, *self._more]
        await self._send({"type": "http.response.start", "status": status, "headers": start})
        await self._send({"type": "http.response.body", "body": body})


def text_of(headers: Headers, name: bytes) -> str | None:
    """Return the value of a header as text.

    Examples
    --------
    >>> text_of({b"accept": b"*/*"}, b"accept"), text_of({}, b"accept")
    ('*/*', None)
    """
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def sticky_of(headers: Headers) -> Sticky:
    """Return what gives the values of headers to the traffic of a name.

    Examples
    --------
    >>> sticky = sticky_of({b"x-user-id": b"7"})
    >>> sticky("X-User-Id"), sticky("X-Other")
    ('7', None)
    """
    return lambda name: text_of(headers, name.lower().encode("latin-1"))
