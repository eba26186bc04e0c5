"""A multipart upload, streamed: the file goes to the disk piece by piece, never whole into memory.

Starlette's own form parser also streams, but into a file without a name, which would have to be copied to be
registered.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from compute.errors import BadRequest, InvalidField, PayloadTooLarge

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


@asynccontextmanager
async def receive_upload(request: Request) -> AsyncIterator[Upload]:
    """Receive a form with one part named ``file`` and text fields; the file is removed at the end.

    Its name as the client gave it is not used for anything.

    Raises
    ------
    BadRequest
        When the body is not such a form.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= 256:
        raise BadRequest(
            "the body is not a multipart form",
            hint="Send multipart/form-data, as `curl -F file=@model.ubj -F model_type=xgboost` does.",
        )
    with tempfile.NamedTemporaryFile(prefix="upload-") as file:
        form = _Form(file.file)
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_finished,
                "on_part_data": form.data,
                "on_part_end": form.end,
                "on_end": form.finish,
            },
        )
        try:
            async for chunk in _chunks(request):
                # In a thread: the disk may be slow, and the loop has other requests.
                await asyncio.to_thread(parser.write, chunk)
            await asyncio.to_thread(file.flush)
        except FormParserError as error:
            raise BadRequest(f"the multipart form cannot be read: {error}") from None
        if not form.complete:
            raise BadRequest("the multipart form ends before its last boundary")
        if not form.has_file:
            raise InvalidField(f"the form has no part {FILE_FIELD!r} with a file", context={"field": FILE_FIELD})
        yield Upload(Path(file.name), form.size, form.fields)


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
class _Form:
    """The parser's callbacks: which part it is in, and what of it has come."""

    file: IO[bytes]
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

    def finish(self) -> None:
        self.complete = True

    def _check_header(self) -> None:
        if len(self._header) + len(self._header_text) > _MAX_HEADER_BYTES:
            raise BadRequest("a header of a part of the form is too long")
