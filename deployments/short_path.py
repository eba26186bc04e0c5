"""The short path of a request: from HAProxy to a socket of the replica's own, past what Serve does for each request.

That is half of what a request for one row costs. HAProxy still shares out requests, queues and refuses them, and Serve
still starts, checks, scales, drains and replaces replicas: HAProxy asks Serve's port of a replica whether that is
healthy, and Serve's autoscaling is told of these requests (`deployments.port_requests`). What it gives up: Serve's own
metrics of each request (``ray_serve_deployment_...``; those of the ingress, ``ray_serve_num_http_...``, stay) and
Serve's context of one. A HAProxy on another node than the replica reaches it by Serve's port, as ever.

The two meet in a directory: a replica listens at a socket there that has the replica's name, and whenever Serve writes
HAProxy's configuration, `deployments.ingress` puts the sockets that it finds in the place of addresses.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.data_port import OwnServer
from deployments.ingress import ROUTE_PREFIX, SHORT_PATH

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX = ROUTE_PREFIX.encode()


class ShortPath(OwnServer):
    """Serves an application at the socket of a replica.

    Parameters
    ----------
    app, limit
        As for `OwnServer`.
    path : Path
        Of the socket, in a directory of this user alone.
    """

    def __init__(self, app: ASGIApp, path: Path, limit: int) -> None:
        async def below(scope: Scope, receive: Receive, send: Send) -> None:
            # HAProxy adds it last, in the place of any that came.
            prefix = next((value for name, value in reversed(scope["headers"]) if name == _PREFIX), b"")
            scope["root_path"] = prefix.decode("latin-1").rstrip("/")
            await app(scope, receive, send)

        self._path = path
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        super().__init__(below, listener, limit)

    async def close(self) -> None:
        """Stop accepting connections, and return when the requests under way are answered."""
        self._path.unlink(missing_ok=True)
        await super().close()


def socket_path() -> Path | None:
    """Return where HAProxy looks for this replica's socket; None where it does not look for any, and outside Serve."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    directory = os.environ.get(SHORT_PATH)
    if not directory or not Path(directory).is_dir():
        return None
    try:
        replica = serve.get_replica_context().replica_id
    except RayServeException:
        return None
    return Path(directory, replica.unique_id)  # which ends the replica's name in HAProxy's configuration
