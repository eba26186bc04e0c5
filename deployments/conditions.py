"""Conditional requests (RFC 9110): entity tags, If-Match, If-None-Match, and ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from starlette.exceptions import HTTPException

from compute.errors import RevisionMismatch
from registry import ModelRecord

_TAGS = re.compile(r'(W/)?("[^"]*")')
_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE)


class Range(NamedTuple):
    """The bytes from the start to before the end."""

    start: int
    end: int


def etag(record: ModelRecord) -> str:
    """Return the entity tag of a record: its revision."""
    return f'"{record.revision}"'


def is_current(header: str | None, tag: str) -> bool:
    """Whether If-None-Match says that the client has what the tag names.

    Examples
    --------
    >>> is_current('W/"1", "2"', '"1"'), is_current('"3"', '"1"'), is_current(None, '"1"')
    (True, False, False)
    """
    return header is not None and (header.strip() == "*" or tag in {found for _, found in _TAGS.findall(header)})


def expected_revision(header: str | None, record: ModelRecord) -> int | None:
    """Return the revision that If-Match asks for, None for any; the registry compares it and changes in one step.

    Raises
    ------
    RevisionMismatch
        When the record is at another already. If-Match compares strongly, so weak tags match nothing.
    """
    if header is None or header.strip() == "*":
        return None
    if etag(record) not in {found for weak, found in _TAGS.findall(header) if not weak}:
        raise RevisionMismatch(
            f"{record.model_id} is at revision {record.revision}, not at {header[:80]}",
            hint="Get the record again, and send its ETag as If-Match.",
            context={"model_id": record.model_id, "revision": record.revision},
        )
    return record.revision


def asked_range(headers: Mapping[str, str], size: int, tag: str) -> Range | None:
    """Return the part that a request asks for, None for all.

    Several ranges at once, and units other than bytes, get all: the specification lets a server ignore them.

    Raises
    ------
    HTTPException
        416, when the part begins behind the end.

    Examples
    --------
    >>> asked_range({"range": "bytes=2-"}, 10, '"x"'), asked_range({"range": "bytes=-3"}, 10, '"x"')
    (Range(start=2, end=10), Range(start=7, end=10))
    >>> asked_range({"range": "bytes=2-", "if-range": '"old"'}, 10, '"x"') is None
    True
    """
    match = _RANGE.fullmatch(headers.get("range", ""))
    if match is None or headers.get("if-range", tag).strip() != tag:
        return None
    first, last = match.groups()
    if not (first or last) or (first and last and int(last) < int(first)):
        return None  # malformed, hence ignored
    start, end = (int(first), int(last) + 1 if last else size) if first else (max(size - int(last), 0), size)
    if start >= size or (not first and int(last) == 0):
        raise HTTPException(
            416, f"The range lies outside the {size} bytes there are.", {"Content-Range": f"bytes */{size}"}
        )
    return Range(start, min(end, size))
