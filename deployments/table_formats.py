"""Which format a request has, and which ones its answer may have: Content-Type and Accept."""

from __future__ import annotations

from typing import Literal

from compute.errors import UnsupportedFormat
from jobs import BodyFormat

Format = Literal["json"] | BodyFormat

MEDIA_TYPES: dict[str, Format] = {
    "application/json": "json",
    "text/csv": "csv",
    "application/vnd.apache.arrow.stream": "arrow",
    "application/vnd.apache.parquet": "parquet",
}


def format_of(content_type: str | None) -> Format:
    """Return the format of a body; JSON when the header says nothing of use, as many clients leave it so.

    Raises
    ------
    UnsupportedFormat
        When it names another format.

    Examples
    --------
    >>> format_of("text/csv; charset=utf-8"), format_of(None)
    ('csv', 'json')
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in ("", "application/x-www-form-urlencoded", "application/octet-stream", "text/plain"):
        return "json"  # what curl and others send by themselves
    if kind not in MEDIA_TYPES:
        raise UnsupportedFormat(
            f"rows cannot be sent as {kind[:80]!r}",
            hint=f"Send {', '.join(MEDIA_TYPES)}.",
            context={"known": list(MEDIA_TYPES)},
        )
    return MEDIA_TYPES[kind]


def wanted_format(accept: str | None) -> Format:
    """Return the format that a client likes best of those there are; JSON when it takes any.

    Raises
    ------
    UnsupportedFormat
        When it takes none of them.

    Examples
    --------
    >>> wanted_format("text/html, text/csv;q=0.9, */*;q=0.1"), wanted_format("*/*"), wanted_format(None)
    ('csv', 'json', 'json')
    """
    liked: list[tuple[float, int, Format]] = []
    for place, entry in enumerate((accept or "*/*").split(",")):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        weight = next((_weight(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
        found = MEDIA_TYPES.get(kind) or ("json" if kind in ("", "*/*", "application/*") else None)
        if kind == "text/*":
            found = "csv"
        if found is not None and weight > 0:
            liked.append((-weight, place, found))
    if not liked:
        raise UnsupportedFormat(
            f"predictions cannot be given as {(accept or '')[:80]!r}",
            hint=f"Accept one of {', '.join(MEDIA_TYPES)}.",
            context={"known": list(MEDIA_TYPES)},
        )
    return min(liked)[2]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
