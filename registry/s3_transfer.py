"""Large objects on S3: read in ranges and written in parts, several at once, in bounded memory."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from compute.errors import StorageError
from registry.s3_client import Refused, S3Client

logger = logging.getLogger(__name__)

RANGE = 8 << 20
RANGES_AHEAD = 6
PART = 16 << 20
"""S3 takes 10,000 parts of one object: 160 GB."""
PARTS_AT_ONCE = 4


class RangeReader(io.RawIOBase):
    """The bytes of an object from the beginning to the end, fetched a few ranges ahead.

    All ranges are of the object as it was when it was opened: one that was replaced meanwhile is refused.

    Parameters
    ----------
    client : S3Client
        Sends the requests.
    bucket, key : str
        The object.
    """

    def __init__(self, client: S3Client, bucket: str, key: str) -> None:
        self._client = client
        self._place = {"Bucket": bucket, "Key": key}
        self._ahead: deque[Future[bytes]] = deque()
        self._buffer = memoryview(b"")
        first, self._size, self._etag = client.run(self._first())
        self._next = len(first)
        self._ahead.append(_done(first))
        self._fetch_ahead()

    @property
    def size(self) -> int:
        """Bytes of the whole object."""
        return self._size

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, target: Any) -> int:
        """Read what is there, at most as much as fits."""
        if not self._buffer:
            if not self._ahead:
                return 0
            self._buffer = memoryview(self._ahead.popleft().result())
            self._fetch_ahead()
        count = min(len(target), len(self._buffer))
        target[:count] = self._buffer[:count]
        self._buffer = self._buffer[count:]
        return count

    def close(self) -> None:
        """Give up what was asked for ahead."""
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        super().close()

    def _fetch_ahead(self) -> None:
        while self._next < self._size and len(self._ahead) < RANGES_AHEAD:
            end = min(self._next + RANGE, self._size)
            self._ahead.append(self._client.start(self._range(self._next, end)))
            self._next = end

    async def _first(self) -> tuple[bytes, int, str]:
        async def attempt() -> tuple[bytes, int, str]:
            try:
                answer = await self._client.request("get_object", **self._place, Range=f"bytes=0-{RANGE - 1}")
            except Refused as error:
                if error.status != 416:
                    raise
                answer = await self._client.request("get_object", **self._place)  # it is empty
            data = await read_body(answer)
            total = answer.get("ContentRange", "").rpartition("/")[2]
            return data, int(total) if total.isdecimal() else len(data), answer["ETag"]

        return await self._client.insist("read", self._place["Key"], attempt)

    async def _range(self, start: int, end: int) -> bytes:
        async def attempt() -> bytes:
            answer = await self._client.request(
                "get_object", **self._place, Range=f"bytes={start}-{end - 1}", IfMatch=self._etag
            )
            data = await read_body(answer)
            if len(data) != end - start:
                raise ConnectionError(f"{len(data)} bytes came instead of {end - start}")
            return data

        try:
            return await self._client.insist("read", self._place["Key"], attempt)
        except Refused as error:  # it was replaced or removed after it was opened
            raise self._client.failure("read", self._place["Key"], error) from error


async def read_body(answer: Any) -> bytes:
    """Return the whole body of an answer to ``get_object``; one that was cut short raises."""
    async with answer["Body"] as body:
        data: bytes = await body.read()
    if len(data) != answer["ContentLength"]:
        raise ConnectionError(f"{len(data)} bytes came instead of {answer['ContentLength']}")
    return data


def upload(client: S3Client, bucket: str, key: str, chunks: Iterable[bytes]) -> None:
    """Write a stream as one object, which appears when it is whole; nothing does when the stream raises."""
    place = {"Bucket": bucket, "Key": key}
    parts = _joined(chunks)
    first = next(parts, b"")
    second = next(parts, None)
    if second is None:
        client.run(_put(client, place, first, md5(first)))
        return
    mark = uuid.uuid4().hex
    upload_id = client.run(_create_upload(client, place, mark))
    sending: deque[Future[dict[str, Any]]] = deque()
    sent: list[dict[str, Any]] = []
    try:
        for number, part in enumerate(_chain(first, second, parts), start=1):
            if len(sending) == PARTS_AT_ONCE:
                sent.append(sending.popleft().result())
            # The digest is made here: on the loop, it would hold up the requests of other threads.
            sending.append(client.start(_put_part(client, place, upload_id, number, part, md5(part))))
        sent.extend(future.result() for future in sending)
        client.run(_complete(client, place, upload_id, mark, sent))
    except BaseException:
        for future in sending:
            future.cancel()
        try:
            client.run(_abort(client, place, upload_id))
        except StorageError as error:  # what went wrong first is what the caller has to know
            logger.warning("event=s3_upload_left key=%s upload_id=%s error=%s", key, upload_id, error)
        raise


async def _put(client: S3Client, place: dict[str, str], data: bytes, digest: str) -> None:
    async def attempt() -> None:
        await client.request("put_object", **place, Body=data, ContentMD5=digest)

    await _insist(client, "write", place, attempt)


async def _create_upload(client: S3Client, place: dict[str, str], mark: str) -> str:
    async def attempt() -> str:
        answer = await client.request("create_multipart_upload", **place, Metadata={"upload": mark})
        return str(answer["UploadId"])

    return str(await _insist(client, "write", place, attempt))


async def _put_part(
    client: S3Client, place: dict[str, str], upload_id: str, number: int, data: bytes, digest: str
) -> dict[str, Any]:
    async def attempt() -> dict[str, Any]:
        answer = await client.request(
            "upload_part", **place, UploadId=upload_id, PartNumber=number, Body=data, ContentMD5=digest
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    part: dict[str, Any] = await _insist(client, "write", place, attempt)
    return part


async def _complete(
    client: S3Client, place: dict[str, str], upload_id: str, mark: str, parts: list[dict[str, Any]]
) -> None:
    async def attempt() -> None:
        try:
            await client.request(
                "complete_multipart_upload", **place, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        except Refused as error:
            if error.code != "NoSuchUpload":
                raise
            # The answer to an earlier attempt may have been lost: then the object is there, and bears our mark.
            if (await client.request("head_object", **place))["Metadata"].get("upload") != mark:
                raise

    # Putting the parts together takes some servers a minute, in which they say nothing.
    await _insist(client, "write", place, attempt, timeouts=12)


async def _abort(client: S3Client, place: dict[str, str], upload_id: str) -> None:
    async def attempt() -> None:
        try:
            await client.request("abort_multipart_upload", **place, UploadId=upload_id)
        except Refused as error:
            if error.code != "NoSuchUpload":
                raise

    await _insist(client, "write", place, attempt)


async def _insist(client: S3Client, verb: str, place: dict[str, str], attempt: Any, timeouts: int = 2) -> Any:
    try:
        return await client.insist(verb, place["Key"], attempt, timeouts=timeouts)
    except Refused as error:
        raise client.failure(verb, place["Key"], error) from error


def md5(data: bytes) -> str:
    """Return the Content-MD5 of a body, by which the server sees that it came through whole."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _joined(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Give the same bytes in parts of equal size, the last one smaller."""
    pending = bytearray()
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            taken = view[: PART - len(pending)]
            pending += taken
            view = view[len(taken) :]
            if len(pending) == PART:
                yield bytes(pending)
                pending.clear()
    if pending:
        yield bytes(pending)


def _chain(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest


def _done(data: bytes) -> Future[bytes]:
    future: Future[bytes] = Future()
    future.set_result(data)
    return future
