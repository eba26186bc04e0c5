"""A second way into a replica: a port of its own, past HAProxy and Serve's handling of each request.

All replicas of a node listen on the same port, and the system gives each new connection to one of them
(``SO_REUSEPORT``). What it gives up: connections are shared out, not requests; Serve does not limit them, which `limit`
does here; and where no replica is, nobody listens, so that one always stays. Tokens, logs and answers are the same, and
Serve's autoscaling is told of these requests (`deployments.port_requests`).
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import uvicorn

from compute.errors import ResourcesUnavailable

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class OwnServer:
    """Serves an application in the loop that makes it.

    Parameters
    ----------
    app : ASGI application
        What is served.
    listener : socket.socket
        Where to listen.
    limit : int
        Connections and requests at once; beyond, 503 at once.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket, limit: int) -> None:
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, loop="none", lifespan="off", log_config=None, access_log=False, server_header=False,
                limit_concurrency=limit, timeout_keep_alive=75,
            )
        )  # fmt: skip
        self._running = asyncio.get_running_loop().create_task(self._server.serve(sockets=[listener]))

    @property
    def ongoing(self) -> int:
        """Requests that are under way."""
        return len(self._server.server_state.tasks)

    async def close(self) -> None:
        """Stop accepting connections, and return when the requests under way are answered."""
        self._server.should_exit = True
        await self._running


class DataPort(OwnServer):
    """Serves an application at a port that all replicas of a node share.

    Parameters
    ----------
    app, limit
        As for `OwnServer`.
    prefix : str
        Path of the application, as Serve has it: ``/v2``.
    host, port : str, int
        Where to listen.

    Raises
    ------
    ResourcesUnavailable
        When something else has the port.
    """

    def __init__(self, app: ASGIApp, prefix: str, host: str, port: int, limit: int) -> None:
        async def below(scope: Scope, receive: Receive, send: Send) -> None:
            scope["root_path"] = prefix
            await app(scope, receive, send)

        super().__init__(below, _listen(host, port), limit)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ResourcesUnavailable(
            f"the data port {host}:{port} cannot be listened on: {error.strerror}",
            hint="Choose another `data_port` in serve_config.yaml.",
        ) from error
    return listener
