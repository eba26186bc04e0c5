"""What happens to a task over HTTP, as server-sent events: ``GET /solver/task/{task_id}/events``."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the handlers, which are local functions.

import math
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import Header, Path, Request
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from compute.errors import Forbidden, InvalidField, Overloaded, TaskNotFound, Unauthorized
from deployments.access import Rules
from deployments.application import Application
from deployments.threads import Threads
from deployments.tokens import Role
from solver import SolverService

RULES: Rules = {("GET", "/task/{task_id}/events"): Role.READ}

HEARTBEAT: Final = 15.0
"""Seconds without an event after which a comment says that the connection is alive."""
LIFETIME: Final = 3600.0
MAX_STREAMS: Final = 64
"""Streams that a replica serves at once; each looks twice a second."""

_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT")
_EXAMPLE = """retry: 1000

id: 1767225600.25
event: state
data: {"task_id":"task-...","state":"RUNNING","at":"2026-01-01T00:00:00.250000+00:00"}

id: 1767225601.5
event: incumbent
data: {"fraction":0.02,"message":"1 s: best 12","incumbent":{"objective":12.0,"bound":10.0,"seconds":1.1},...}
"""

TaskId = Annotated[str, Path(max_length=100, description="The id that `POST /solve` gave.")]
LastEventId = Annotated[str | None, Header(max_length=100, description="The last id that was received.")]


def task_events_api(app: Application, solver: SolverService) -> None:
    """Add the route of the event stream of a task.

    Parameters
    ----------
    app : Application
        To which it is added.
    solver : SolverService
        Whose tasks are followed.
    """
    threads = Threads(MAX_STREAMS, "task-events")
    streams = 0

    @app.get(
        "/task/{task_id}/events",
        summary="Follow a task",
        description="Server-sent events: `state`, `progress` and `incumbent` (a better solution of an optimization), "
        "from the beginning, or after `Last-Event-ID`. The stream ends with the task; a client that comes back then "
        "gets 204, which tells it to stop.",
        responses={200: {"content": {"text/event-stream": {"example": _EXAMPLE}}}, 204: {"description": "It ended"}},
    )
    async def follow_task(request: Request, task_id: TaskId, last_event_id: LastEventId = None) -> Response:
        nonlocal streams
        after = _position(last_event_id)
        found = await threads.call(solver.events, task_id, after)  # an id that is none is refused here
        if not found and await threads.call(_has_ended, solver, task_id):
            return Response(status_code=204)
        if request.scope["state"]["head"]:
            return Response(media_type="text/event-stream")
        if streams >= MAX_STREAMS:
            raise Overloaded(f"{streams} clients follow tasks already", hint="Come again later, or ask with ?wait=30.")

        async def stream() -> AsyncIterator[bytes]:
            nonlocal streams
            streams += 1
            try:
                yield b"retry: 1000\n\n"
                ends, position, events = time.monotonic() + LIFETIME, after, found
                while True:
                    if events:
                        position = events[-1]["at"]
                        yield b"".join(map(_rendered, events))
                        if events[-1]["event"] == "state" and events[-1]["data"]["state"] in _ENDED:
                            return
                    if time.monotonic() > ends:
                        return
                    events = await threads.call(solver.events, task_id, position, HEARTBEAT)
                    if not events:
                        await request.scope["state"]["still_allowed"]()
                        yield b": alive\n\n"
            except (Unauthorized, Forbidden, TaskNotFound):
                return  # the client comes back, and is told
            finally:
                streams -= 1

        headers = {"X-Accel-Buffering": "no"}  # for a reverse proxy that would wait for more
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


def _has_ended(solver: SolverService, task_id: str) -> bool:
    return bool(solver.events(task_id)[-1]["data"].get("state") in _ENDED)


def _position(text: str | None) -> float:
    try:
        position = float(text or 0)
    except ValueError:
        position = math.nan
    if not math.isfinite(position):
        raise InvalidField(
            f"Last-Event-ID is {str(text)[:80]!r}, which is no id of an event", context={"field": "Last-Event-ID"}
        )
    return position


def _rendered(event: dict[str, Any]) -> bytes:
    return f"id: {event['at']!r}\nevent: {event['event']}\ndata: ".encode() + to_json(event["data"]) + b"\n\n"
