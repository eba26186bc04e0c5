"""Requests to addresses that a client named: only to hosts that the operator lists, and never past them.

A name is looked up once, what was found is checked, and that very address is connected to: a name that points elsewhere
a moment later (DNS rebinding) gains nothing. Redirects are not followed, proxies of the environment not used, and the
whole exchange has one time limit.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from compute.errors import InvalidField, UriNotAllowed

TIMEOUT = 15.0
"""Seconds for one exchange, from the connection to the last byte."""
_MAX_URL = 2_000
_MAX_ANSWER = 64 * 1024
_VISIBLE = re.compile(r"[!-\[\]-~]+")  # ASCII without spaces, control characters and the backslash

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Unreachable(Exception):
    """The other side did not answer as HTTP does; says why."""


class Answer(NamedTuple):
    """What came back."""

    status: int
    retry_after: float | None


def check_url(url: object, hosts: Sequence[str]) -> SplitResult:
    """Return the parts of a URL that may be called.

    Parameters
    ----------
    url : str
        As a client gave it.
    hosts : sequence of str
        Names, addresses and networks: ``security.webhook_hosts``.

    Raises
    ------
    InvalidField
        When it is no URL of HTTP.
    UriNotAllowed
        When its host is not listed.

    Examples
    --------
    >>> check_url("https://hooks.example/models?team=7", ["hooks.example"]).path
    '/models'
    >>> check_url("http://10.1.2.3:8080/", ["10.0.0.0/8"]).port
    8080
    """
    if not isinstance(url, str) or len(url) > _MAX_URL or not _VISIBLE.fullmatch(url):
        raise _bad_url(url, f"It is a text of at most {_MAX_URL} visible ASCII characters.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad_url(url, f"It cannot be read: {error}.") from error
    if parts.scheme not in ("http", "https") or not host or parts.fragment or port == 0:
        raise _bad_url(url, "It is like https://hooks.example/models, without a fragment.")
    if parts.username is not None or parts.password is not None:
        raise _bad_url(url, "It carries no user name and no password: they would be seen in listings.")
    address = _address(host)
    if (address is not None and _listed(address, hosts)) or (address is None and host in _names(hosts)):
        return parts
    raise _refused(f"the host {host[:200]!r} may not be called", host)


def post(url: str, body: bytes, headers: Mapping[str, str], hosts: Sequence[str], timeout: float = TIMEOUT) -> Answer:
    """Send a body, and return the status of the answer; what the answer says is of no interest.

    Raises
    ------
    UriNotAllowed
        When the host is not listed, or its name points to a private address that is not.
    Unreachable
        When there is no answer in time.
    """
    parts = check_url(url, hosts)
    assert parts.hostname is not None  # `check_url` looked
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = http.client.HTTPConnection(parts.hostname, port)
    cut = threading.Event()
    watch: threading.Timer | None = None
    try:
        plain = socket.create_connection(_look_up(parts.hostname, port, hosts), timeout=timeout)
        # A time-out of the socket alone begins anew with every byte that comes.
        watch = threading.Timer(timeout, _cut, (plain, cut))
        watch.daemon = True
        watch.start()
        connection.sock = plain
        if parts.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, {**headers, "Connection": "close"})
        response = connection.getresponse()
        response.read(_MAX_ANSWER)
        if cut.is_set():  # half a head can look like a whole one
            raise TimeoutError
        return Answer(response.status, _seconds(response.headers.get("Retry-After")))
    except (OSError, http.client.HTTPException) as error:
        if cut.is_set() or isinstance(error, TimeoutError):
            raise Unreachable(f"no answer within {timeout:g} s") from error
        raise Unreachable(f"{type(error).__name__}: {error}"[:300]) from error
    finally:
        if watch is not None:
            watch.cancel()
        connection.close()


def _look_up(host: str, port: int, hosts: Sequence[str]) -> tuple[str, int]:
    """Return an address of the host that may be connected to."""
    found = [
        _plain(ipaddress.ip_address(entry[4][0])) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ]
    allowed = [
        address for address in found if (address.is_global and not address.is_multicast) or _listed(address, hosts)
    ]
    if not allowed:
        raise _refused(f"the host {host[:200]!r} is at {found[0]}, a private address", str(found[0]))
    return str(allowed[0]), port


def _listed(address: Address, hosts: Sequence[str]) -> bool:
    return any(address in network for network in map(_network, hosts) if network is not None)


def _names(hosts: Sequence[str]) -> set[str]:
    return {entry.lower() for entry in hosts if _network(entry) is None}


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None


def _address(host: str) -> Address | None:
    try:
        return _plain(ipaddress.ip_address(host))
    except ValueError:
        return None


def _plain(address: Address) -> Address:
    """Return the address of version 4 that one of version 6 stands for."""
    return getattr(address, "ipv4_mapped", None) or address


def _cut(connection: socket.socket, cut: threading.Event) -> None:
    cut.set()
    with suppress(OSError):  # it was closed at this very moment
        connection.shutdown(socket.SHUT_RDWR)


def _seconds(header: str | None) -> float | None:
    return float(header) if header is not None and re.fullmatch(r"\d{1,6}", header) else None


def _bad_url(url: object, rule: str) -> InvalidField:
    return InvalidField(f"url {url!r:.200} is not allowed", hint=rule, context={"field": "url"})


def _refused(what: str, host: str) -> UriNotAllowed:
    return UriNotAllowed(
        what,
        hint=f"The operator adds {host[:200]} to security.webhook_hosts of the configuration, which has names, "
        "addresses and networks; a private address has to be there even when its name is.",
        context={"key": "security.webhook_hosts", "host": host[:200]},
    )
