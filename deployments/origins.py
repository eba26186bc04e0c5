"""Host and Origin: whom a request is for, and which page sent it.

A page that a browser shows may have its own name pointed at 127.0.0.1 (DNS rebinding) and then talk to a server that
trusts its network. The Host header gives that away, and the Origin header gives away every page that is not ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from compute.errors import BadRequest, Forbidden, Misdirected

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\[\]:/?#@\s\\]+)(?::(?P<port>\d{1,5}))?")


def check_host(values: Sequence[bytes], allowed: Sequence[str]) -> str:
    """Return the Host of a request if it is one that we answer to.

    Parameters
    ----------
    values : sequence of bytes
        Every Host header of the request.
    allowed : sequence of str
        Names and addresses, without port; IPv6 in brackets.

    Raises
    ------
    BadRequest
        When there is not exactly one well-formed header.
    Misdirected
        When it names another host.

    Examples
    --------
    >>> check_host([b"LocalHost:8000"], ["localhost"]), check_host([b"[::1]:8000"], ["[::1]"])
    ('localhost:8000', '[::1]:8000')
    """
    match = _HOST.fullmatch(values[0].decode("latin-1")) if len(values) == 1 else None
    if match is None:
        raise BadRequest("the request must have exactly one well-formed Host header")
    name = match["name"].lower()
    if name not in {entry.lower() for entry in allowed}:
        raise Misdirected(
            f"this server does not answer for host {name[:80]!r}",
            hint="The operator adds names to security.allowed_hosts.",
            context={"host": name[:80]},
        )
    return match[0].lower()


def check_origin(values: Sequence[bytes], host: str, allowed: Sequence[str]) -> str | None:
    """Return the origin of the page a request comes from if it is another one and allowed, else None.

    Raises
    ------
    Forbidden
        When it comes from any other page.

    Examples
    --------
    >>> check_origin([b"https://app.example"], "localhost:8000", ["https://app.example"])
    'https://app.example'
    >>> check_origin([b"http://localhost:8000"], "localhost:8000", []) is None
    True
    """
    if not values:
        return None
    origin = values[0].decode("latin-1").lower()
    if len(values) == 1:
        if origin in {entry.lower().rstrip("/") for entry in allowed}:
            return origin
        # The scheme is left out: behind a proxy that ends TLS, the page's is https and ours is http.
        scheme, _, authority = origin.partition("://")
        if scheme in ("http", "https") and authority == host and urlsplit(origin).netloc == host:
            return None
    raise Forbidden(
        f"pages of origin {origin[:80]!r} may not call this server",
        hint="The operator adds origins to security.allowed_origins.",
        context={"origin": origin[:80]},
    )


def preflight_headers(origin: str) -> dict[str, str]:
    """Return what a browser needs to know before it lets an allowed page call us."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "Access-Control-Allow-Headers": "Authorization, Content-Digest, Content-Type, Idempotency-Key, If-Match, "
        "If-None-Match, If-Range, Last-Event-ID, Range",
        "Access-Control-Max-Age": "600",
        "Vary": "Origin",
    }


def response_headers(origin: str) -> dict[str, str]:
    """Return what lets the allowed page read an answer."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": "Content-Digest, Content-Range, ETag, Location, Repr-Digest, Retry-After, "
        "X-Request-ID",
        "Vary": "Origin",
    }
