"""Digests of bodies in headers (RFC 9530): what a client says it sends is what must arrive."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable

from compute.errors import BadRequest

_ALGORITHMS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
"""Those that the registry of the RFC calls active. The others are ignored, as it says of unknown ones."""

# A member of a dictionary of structured fields (RFC 8941): a key, a value of any kind, parameters.
_MEMBER = re.compile(
    r'\s*(?P<key>[a-z*][a-z0-9_.*-]*)(?:=(?P<value>:[^:,]*:|"(?:[^"\\]|\\.)*"|\([^)]*\)|[^\s,;="(:]+))?(?:;[^,;]*)*\s*(?:,|$)'
)


class ContentDigest:
    """What ``Content-Digest`` promises, compared with what comes.

    Parameters
    ----------
    headers : iterable of str
        The values of the header, of which a request may have several.

    Raises
    ------
    BadRequest
        When they cannot be read, or name no algorithm that is known here.

    Examples
    --------
    >>> promised = ContentDigest(["sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:"])
    >>> promised.update(b"hello")
    >>> promised.check()
    """

    def __init__(self, headers: Iterable[str]) -> None:
        given = list(headers)
        self._promised = _parse(", ".join(given))
        if given and not self._promised:
            # RFC 9530 lets a receiver ignore what it does not know; a sender who promises nothing else would be misled.
            raise _unreadable(", ".join(given))
        self._found = {algorithm: _ALGORITHMS[algorithm]() for algorithm in self._promised}

    def update(self, data: bytes) -> None:
        """Take the next piece of the body."""
        for found in self._found.values():
            found.update(data)

    def check(self) -> None:
        """Raise `BadRequest`, with both values, when the body was another."""
        for algorithm, promised in self._promised.items():
            found = self._found[algorithm].digest()
            if found != promised:
                values = {"promised": _encode(algorithm, promised), "found": _encode(algorithm, found)}
                raise BadRequest(
                    f"the body is not the one of Content-Digest: it has {values['found']}, not {values['promised']}",
                    hint="It was changed or cut on its way: send it again. Nothing was kept.",
                    context={"algorithm": algorithm, **values},
                )


def digest_header(digest: str) -> str:
    """Return the header's value for a digest as records have them.

    Examples
    --------
    >>> digest_header("sha256:" + "00" * 32)
    'sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:'
    """
    return _encode("sha-256", bytes.fromhex(digest.removeprefix("sha256:")))


def _parse(header: str) -> dict[str, bytes]:
    promised: dict[str, bytes] = {}
    at = 0
    while at < len(header):
        member = _MEMBER.match(header, at)
        if member is None:
            raise _unreadable(header)
        at = member.end()
        if (algorithm := member["key"]) in _ALGORITHMS:
            promised[algorithm] = _decode(member["value"] or "", _ALGORITHMS[algorithm]().digest_size, header)
    return promised


def _decode(value: str, size: int, header: str) -> bytes:
    try:
        digest = base64.b64decode(value[1:-1], validate=True)
    except binascii.Error as error:
        raise _unreadable(header) from error
    if not value.startswith(":") or len(digest) != size:
        raise _unreadable(header)
    return digest


def _encode(algorithm: str, digest: bytes) -> str:
    return f"{algorithm}=:{base64.b64encode(digest).decode()}:"


def _unreadable(header: str) -> BadRequest:
    return BadRequest(
        f"the header Content-Digest cannot be read: {header[:200]!r}",
        hint="It reads sha-256=:<base64 of the digest>: or sha-512=:...: (RFC 9530).",
    )
