"""The bytes of the journal: log entries and snapshots, each with a format version and a checksum over all of it."""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from compute.errors import Corrupt, InvalidField

FORMAT = 1
"""The version that is written. A later one keeps a reader for this."""

Event = dict[str, Any]

# One line of JSON, in exactly this spelling, so that the checksum can cover the bytes as they are.
_ENTRY = re.compile(
    rb'\{"format":(?P<format>\d+),"sequence":(?P<sequence>\d+),"batch":"(?P<batch>[0-9a-f]{32})",'
    rb'"sha256":"(?P<sha256>[0-9a-f]{64})","events":(?P<events>\[.*\])\}\n',
    re.DOTALL,
)
_HEADER = re.compile(
    rb'\{"format":(?P<format>\d+),"sequence":(?P<sequence>\d+),"items":(?P<items>\d+),"sha256":"(?P<sha256>[0-9a-f]{64})"\}\n'
)
_ANY_FORMAT = re.compile(rb'\{"format":(?P<format>\d+)[,}]')


def encode_json(value: object) -> bytes:
    """Return compact JSON; refuse what JSON has no word for.

    Examples
    --------
    >>> encode_json({"rmse": 1.5, "name": "délai"}).decode()
    '{"rmse":1.5,"name":"délai"}'
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:  # UnicodeEncodeError is a ValueError
        raise InvalidField(f"not a value that JSON can carry: {error}") from error


def encode_entry(sequence: int, events: list[bytes]) -> bytes:
    """Return the bytes of a log entry; no two are the same, so a writer can tell its own from another's.

    Examples
    --------
    >>> decode_entry(encode_entry(7, [encode_json({"kind": "noted"})]), 7, "log/7")
    [{'kind': 'noted'}]
    """
    batch, body = uuid.uuid4().hex, b"[" + b",".join(events) + b"]"
    return (
        f'{{"format":{FORMAT},"sequence":{sequence},"batch":"{batch}","sha256":"'.encode()
        + _checksum(FORMAT, sequence, batch, body).encode()
        + b'","events":'
        + body
        + b"}\n"
    )


def decode_entry(data: bytes, sequence: int, key: str) -> list[Event]:
    """Return the events of a log entry.

    Raises
    ------
    Corrupt
        Naming the entry, when it is truncated, altered, in the wrong place or of an unknown format.
    """
    match = _ENTRY.fullmatch(data)
    if not match:
        _refuse_format(data, key)
        raise _corrupt(key, f"it is truncated or garbled ({len(data)} bytes)")
    if int(match["format"]) != FORMAT:
        _refuse_format(data, key)
    if int(match["sequence"]) != sequence:
        raise _corrupt(key, f"it holds the entry {int(match['sequence'])}")
    if _checksum(FORMAT, sequence, match["batch"].decode(), match["events"]) != match["sha256"].decode():
        raise _corrupt(key, "its checksum does not match")
    events: list[Event] = json.loads(match["events"])
    return events


def encode_snapshot(sequence: int, items: Iterable[object]) -> Iterator[bytes]:
    """Give the chunks of a snapshot: a line of header, then a line for each item, all compressed.

    Examples
    --------
    >>> data = b"".join(encode_snapshot(7, [{"a": 1}, {"b": 2}]))
    >>> list(decode_snapshot(data, 7, "snapshots/7"))
    [{'a': 1}, {'b': 2}]
    """
    digest, count, lines = hashlib.sha256(f"{FORMAT} {sequence}\n".encode()), 0, []
    compressor = zlib.compressobj(level=1)
    for item in items:  # a line at a time: encoding all at once would hold the interpreter's lock for a second
        line = encode_json(item) + b"\n"
        digest.update(line)
        count += 1
        lines.append(compressor.compress(line))
    lines.append(compressor.flush())
    header = f'{{"format":{FORMAT},"sequence":{sequence},"items":{count},"sha256":"{digest.hexdigest()}"}}\n'
    yield header.encode()
    yield from filter(None, lines)


def decode_snapshot(data: bytes, sequence: int, key: str) -> Iterator[Any]:
    """Give the items of a snapshot, after its checksum was verified.

    Raises
    ------
    Corrupt
        As `decode_entry`.
    """
    header, newline, body = data.partition(b"\n")
    match = _HEADER.fullmatch(header + newline)
    if not match or int(match["format"]) != FORMAT:
        _refuse_format(header + newline, key)
        raise _corrupt(key, "its header is garbled")
    if int(match["sequence"]) != sequence:
        raise _corrupt(key, f"it holds the state after entry {int(match['sequence'])}")
    try:
        text = zlib.decompress(body)
    except zlib.error as error:
        raise _corrupt(key, f"it is truncated or garbled ({error})") from error
    if hashlib.sha256(f"{FORMAT} {sequence}\n".encode() + text).hexdigest() != match["sha256"].decode():
        raise _corrupt(key, "its checksum does not match")
    return (json.loads(line) for line in io.BytesIO(text))


def _checksum(version: int, sequence: int, batch: str, body: bytes) -> str:
    return hashlib.sha256(f"{version} {sequence} {batch}\n".encode() + body).hexdigest()


def _refuse_format(data: bytes, key: str) -> None:
    match = _ANY_FORMAT.match(data)
    if match and int(match["format"]) != FORMAT:
        raise Corrupt(
            f"{key} is of format {int(match['format'])}; this release reads format {FORMAT}",
            hint="It was written by a newer release: run that one, or restore the object.",
            context={"key": key, "format": int(match["format"])},
        )


def _corrupt(key: str, reason: str) -> Corrupt:
    return Corrupt(
        f"{key} is damaged: {reason}",
        hint="Nothing after it can be trusted: restore this object from a backup of the store.",
        context={"key": key},
    )
