"""A proxy between a client and an S3 server that breaks requests as it is told to."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal[
    "drop",  # the line breaks before the server hears of the request
    "lose",  # the server does it, and the line breaks before it answers
    "busy",  # 503 SlowDown, not done
    "fail",  # 500, not done
    "lie",  # done, and answered with 500
    "delay",  # done a little later
    "late",  # the line breaks, and the server does it a while after that
    "truncate",  # done, and the body of the answer ends in the middle
    "corrupt",  # a byte of the body of the request is changed on the way
]
FAULTS: tuple[Fault, ...] = ("drop", "lose", "busy", "fail", "lie", "delay", "late", "truncate", "corrupt")
DELAY = 0.05

Plan = Callable[[str, str], Fault | None]
"""Takes the method and the path of a request, and says what is to happen to it."""

Amend = Callable[[str, str, dict[str, str], bytes], dict[str, str]]
"""Takes the method, the path, the headers and the body of a request, and gives the headers to send on."""


class FaultProxy:
    """Listens on a free port of the loopback; see `proxy`.

    Attributes
    ----------
    plan : Plan
        May be changed at any time.
    amend : Amend, optional
        What stands between client and server may change requests that are otherwise sound.
    requests : list of (method, path)
        All that came.
    """

    def __init__(self, upstream: str, plan: Plan) -> None:
        self.plan = plan
        self.amend: Amend | None = None
        self.requests: list[tuple[str, str]] = []
        parts = urlsplit(upstream)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with suppress(ConnectionError, TimeoutError, http.client.HTTPException):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def do_any(self) -> None:
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.requests.append((self.command, self.path))
                fault = proxy.plan(self.command, self.path)
                if fault == "drop":
                    self.close_connection = True
                elif fault == "busy":
                    self.answer(503, "SlowDown")
                elif fault == "fail":
                    self.answer(500, "InternalError")
                elif fault == "late":
                    self.close_connection = True
                    threading.Thread(target=self.forward_late, args=(body,), daemon=True).start()
                else:
                    if fault == "delay":
                        time.sleep(DELAY)
                    elif fault == "corrupt" and body:
                        body = body[:-1] + bytes([body[-1] ^ 1])
                    status, headers, data = self.forward(body)
                    if fault == "lie":
                        self.answer(500, "InternalError")
                    elif fault == "lose":
                        self.close_connection = True
                    else:
                        self.relay(status, headers, data, truncate=fault == "truncate")

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any  # noqa: N815

            def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
                try:
                    headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                    if proxy.amend:
                        headers = proxy.amend(self.command, self.path, headers, body)
                    connection.request(self.command, self.path, body=body, headers=headers)
                    response = connection.getresponse()
                    return response.status, response.getheaders(), response.read()
                finally:
                    connection.close()

            def forward_late(self, body: bytes) -> None:
                time.sleep(DELAY)
                with suppress(OSError, http.client.HTTPException):
                    self.forward(body)

            def relay(self, status: int, headers: list[tuple[str, str]], data: bytes, *, truncate: bool) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                length = {name.lower(): value for name, value in headers}.get("content-length")
                self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(data)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                if truncate:
                    data = data[: len(data) // 2]
                    self.close_connection = True
                self.wfile.write(data)

            def answer(self, status: int, code: str) -> None:
                data = f"<Error><Code>{code}</Code><Message>made by the test</Message></Error>".encode()
                self.relay(status, [("Content-Type", "application/xml")], data, truncate=False)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def proxy(upstream: str, plan: Plan = lambda _method, _path: None) -> Iterator[FaultProxy]:
    """Run a proxy in front of a server."""
    made = FaultProxy(upstream, plan)
    try:
        yield made
    finally:
        made.close()
