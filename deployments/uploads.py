"""Uploads, streamed: the file goes to the disk piece by piece, never whole into memory.

Two ways: the file as the body, with its fields in the query; or a multipart form. Starlette's own form parser also
streams, but into a file without a name, which would have to be copied to be registered.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from compute.errors import BadRequest, InvalidField, PayloadTooLarge, StorageError
from deployments.digests import ContentDigest
from deployments.spool import spooled_file

if TYPE_CHECKING:
    from starlette.requests import Request

FILE_FIELD = "file"
_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 2**20
_MAX_HEADER_BYTES = 2**14
_CHUNK = 2**20


@dataclass
class Upload:
    """What a client sent: text fields, and where the file lies until the request ends."""

    path: Path
    size: int
    fields: dict[str, list[str]]


class _Receiver(Protocol):
    """Takes the body in pieces."""

    size: int
    fields: dict[str, list[str]]

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None: ...


@asynccontextmanager
async def receive_upload(request: Request) -> AsyncIterator[Upload]:
    """Receive a file as ``application/octet-stream``, or a form with one part named ``file`` and text fields.

    The file is removed at the end, and its name as the client gave it is not used for anything.

    Raises
    ------
    BadRequest
        When the body is neither, or not the one that ``Content-Digest`` promises.
    """
    digest = ContentDigest(request.headers.getlist("content-digest"))
    with spooled_file() as file:
        receiver = _receiver(request, file)

        def write(chunk: bytes) -> None:
            digest.update(chunk)
            receiver.write(chunk)

        try:
            async for chunk in _chunks(request):
                # In a thread: the disk may be slow, and the loop has other requests.
                await asyncio.to_thread(write, chunk)
            await asyncio.to_thread(file.flush)
        except FormParserError as error:
            raise BadRequest(f"the multipart form cannot be read: {error}") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise StorageError(
                "the upload does not fit on the server's disk",
                hint="The operator frees space, or sets TMPDIR to a larger disk for the models application.",
            ) from error
        receiver.finish()
        digest.check()
        yield Upload(Path(file.name), receiver.size, receiver.fields)


def _receiver(request: Request, file: IO[bytes]) -> _Receiver:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind == b"multipart/form-data" and 0 < len(boundary) <= 256:
        return _Form(file, boundary)
    if kind == b"application/octet-stream":
        return _Body(file, _query_fields(request))
    raise BadRequest(
        "the body is neither a file nor a multipart form",
        hint="Send application/octet-stream with the fields in the query, as `curl -T model.ubj -X POST -H "
        "'Content-Type: application/octet-stream' '.../upload?model_type=xgboost'` does; or multipart/form-data, as "
        "`curl -F file=@model.ubj -F model_type=xgboost` does.",
    )


def _query_fields(request: Request) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        fields.setdefault(name, []).append(value)
    return fields


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Give the body in pieces of a size that is worth a trip to a thread."""
    pending: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        pending.append(chunk)
        size += len(chunk)
        if size >= _CHUNK:
            yield b"".join(pending)
            pending, size = [], 0
    if pending:
        yield b"".join(pending)


@dataclass
class _Body:
    """A body that is the file."""

    file: IO[bytes]
    fields: dict[str, list[str]]
    size: int = 0

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.size += len(data)

    def finish(self) -> None:
        """Do nothing: the server itself refuses a body that is shorter than announced."""


@dataclass
class _Form:
    """A multipart form, and the parser's callbacks: which part it is in, and what of it has come."""

    file: IO[bytes]
    boundary: bytes
    fields: dict[str, list[str]] = field(default_factory=dict)
    size: int = 0
    has_file: bool = False
    complete: bool = False
    _name: str = ""
    _is_file: bool = False
    _value: bytearray = field(default_factory=bytearray)
    _header: bytearray = field(default_factory=bytearray)
    _header_text: bytearray = field(default_factory=bytearray)
    _disposition: bytes = b""
    _count: int = 0

    def __post_init__(self) -> None:
        self._parser = MultipartParser(
            self.boundary,
            {
                "on_part_begin": self.begin,
                "on_header_field": self.header_field,
                "on_header_value": self.header_value,
                "on_header_end": self.header_end,
                "on_headers_finished": self.headers_finished,
                "on_part_data": self.data,
                "on_part_end": self.end,
                "on_end": self.last_boundary,
            },
        )

    def write(self, data: bytes) -> None:
        self._parser.write(data)

    def finish(self) -> None:
        if not self.complete:
            raise BadRequest("the multipart form ends before its last boundary")
        if not self.has_file:
            raise InvalidField(f"the form has no part {FILE_FIELD!r} with a file", context={"field": FILE_FIELD})

    def begin(self) -> None:
        self._disposition = b""
        self._value = bytearray()
        self._count += 1
        if self._count > _MAX_FIELDS:
            raise BadRequest(f"the form has more than {_MAX_FIELDS} parts")

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_text += data[start:end]
        self._check_header()

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._header_text)
        self._header, self._header_text = bytearray(), bytearray()

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name")
        if not name:
            raise BadRequest("a part of the form has no name")
        self._name = name.decode("utf-8", "replace")
        self._is_file = self._name == FILE_FIELD
        if self._is_file and self.has_file:
            raise InvalidField("the form has more than one file", context={"field": FILE_FIELD})
        if not self._is_file and b"filename" in options:
            raise InvalidField(
                f"the part {self._name[:80]!r} is a file; only {FILE_FIELD!r} may be one", context={"field": FILE_FIELD}
            )
        self.has_file = self.has_file or self._is_file

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.file.write(memoryview(data)[start:end])
            self.size += end - start
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            raise PayloadTooLarge(
                f"the field {self._name[:80]!r} is larger than {_MAX_FIELD_BYTES} bytes", context={"field": self._name}
            )

    def end(self) -> None:
        if self._is_file:
            return
        try:
            text = self._value.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidField(f"the field {self._name[:80]!r} is not UTF-8", context={"field": self._name}) from None
        self.fields.setdefault(self._name, []).append(text)

    def last_boundary(self) -> None:
        self.complete = True

    def _check_header(self) -> None:
        if len(self._header) + len(self._header_text) > _MAX_HEADER_BYTES:
            raise BadRequest("a header of a part of the form is too long")
