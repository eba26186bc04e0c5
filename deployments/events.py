"""The change feed over HTTP, as server-sent events: ``GET /models/events``."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Final

from fastapi import Query, Request
from starlette.responses import Response, StreamingResponse

from compute.errors import Forbidden, InvalidField, Overloaded, PositionGone, Unauthorized
from deployments.access import Rules
from deployments.application import Application
from deployments.feed import Feed, place
from deployments.records_api import split
from deployments.threads import Threads
from deployments.tokens import Role
from registry import CHANGE_KINDS, Change, ModelRegistry

RULES: Rules = {("GET", "/events"): Role.READ}

HEARTBEAT: Final = 15.0
"""Seconds without an event after which a comment says that the connection is alive."""
LIFETIME: Final = 3600.0
MAX_BYTES: Final = 4 * 2**20
"""A stream ends after so many bytes, or seconds, and its client goes on from the last id. Serve takes what a replica
sends without waiting for the client: this bounds what lies in its queues for one that does not read."""
RETRY: Final = 1000
"""Milliseconds after which a client comes back."""

_PAGE = 500
_EXAMPLE = """retry: 1000
id: 41.0

id: 42.0
event: model.registered
data: {"position":"42.0","kind":"model.registered","at":"2026-01-02T00:00:00Z","model_id":"m-...","name":"delays",...}

: alive
"""

After = Annotated[str | None, Query(max_length=100, description="A position; by default now. `1.0` is the beginning.")]
Kinds = Annotated[list[str] | None, Query(description="Only these; repeated, or joined by commas.")]
Names = Annotated[list[str] | None, Query(description="Only models of these names; repeated, or joined by commas.")]


def events_api(app: Application, registry: ModelRegistry, max_streams: int) -> None:
    """Add the route of the event stream.

    Parameters
    ----------
    app : Application
        To which it is added.
    registry : ModelRegistry
        Whose changes are told.
    max_streams : int
        Streams at once; more are asked to come again.
    """
    feed = Feed(registry)
    threads = Threads(4, "events")
    streams = 0

    @app.get(
        "/events",
        summary="Follow what happens to models",
        description="Server-sent events: `id` is the position, `event` the kind, `data` a JSON object. A client that "
        "comes back sends the last id as `Last-Event-ID` (or `after`), and misses nothing. 410 when what came next is "
        "no longer kept: read the models anew, and begin without a position. A stream ends now and then; come back.",
        responses={200: {"content": {"text/event-stream": {"example": _EXAMPLE}}}},
    )
    async def follow_events(request: Request, after: After = None, kind: Kinds = None, name: Names = None) -> Response:
        nonlocal streams
        kinds, names = _kinds(kind), frozenset(split(name or []))
        # What a browser says when it comes back is newer than the address it first asked for.
        given = request.headers.get("last-event-id") or after
        page = await threads.call(registry.changes, given, limit=1, wait=0.0)  # a bad position is refused here
        position = given or page.position
        if request.scope["state"]["head"]:
            return Response(media_type="text/event-stream")
        if streams >= max_streams:
            raise Overloaded(
                f"{streams} clients follow the events already",
                hint="Come again later; the operator sets max_streams in serve_config.yaml.",
                context={"limit": max_streams},
            )

        async def events() -> AsyncIterator[bytes]:
            nonlocal streams
            streams += 1
            try:
                async for text in stream(position, kinds, names, request.scope["state"]["still_allowed"]):
                    yield text
            finally:
                streams -= 1

        headers = {"X-Accel-Buffering": "no"}  # for a reverse proxy that would wait for more
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

    async def stream(
        position: str, kinds: frozenset[str], names: frozenset[str], still_allowed: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[bytes]:
        ends, sent = time.monotonic() + LIFETIME, 0
        with feed.follow():
            yield f"retry: {RETRY}\nid: {position}\n\n".encode()
            while time.monotonic() < ends and sent < MAX_BYTES:
                try:
                    before, (changes, position) = position, await _next(position)
                    text = b"".join(_event(change) for change in changes if _fits(change, kinds, names))
                    if position == before and not await feed.wait(place(position), HEARTBEAT):
                        await still_allowed()
                        text = f": alive\nid: {position}\n\n".encode()
                except (Unauthorized, Forbidden, PositionGone):
                    return  # the client comes back, and is told
                if text:
                    sent += len(text)
                    yield text

    async def _next(position: str) -> tuple[list[Change], str]:
        held = feed.after(place(position))
        if held is None:
            page = await threads.call(registry.changes, position, limit=_PAGE, wait=0.0)
            return page.changes, page.position
        held = held[:_PAGE]
        return held, held[-1].position if held else position


def _event(change: Change) -> bytes:
    return f"id: {change.position}\nevent: {change.kind}\ndata: {change.model_dump_json()}\n\n".encode()


def _fits(change: Change, kinds: frozenset[str], names: frozenset[str]) -> bool:
    return (not kinds or change.kind in kinds) and (not names or change.name in names)


def _kinds(given: list[str] | None) -> frozenset[str]:
    kinds = frozenset(split(given or []))
    if unknown := sorted(kinds - set(CHANGE_KINDS)):
        raise InvalidField(
            f"there is no kind of change {unknown[0][:80]!r}",
            hint=f"Kinds are {', '.join(CHANGE_KINDS)}.",
            context={"field": "kind"},
        )
    return kinds
