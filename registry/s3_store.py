"""An object store on S3, or on a server that speaks its protocol."""

from __future__ import annotations

import io
import re
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from compute.config import S3
from compute.errors import ConfigurationError, InvalidField, KeyExists, KeyNotFound, StorageError
from registry.s3_client import Refused, S3Client
from registry.s3_transfer import RANGE, RangeReader, md5, read_body, upload
from registry.store import StoredObject, check_key

_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
_PROBE = ".create"
"""Beside the keys of a store, none of which starts with a dot."""


class S3Store:
    """An object store in a bucket, under a prefix.

    `create` is a conditional write (``If-None-Match: *``), which the server has to know: AWS, SeaweedFS, MinIO and
    Ceph do; one that takes the condition and does not heed it is found by a probe, and refused. The bucket has to
    exist. An upload that dies with its process leaves its parts, which nothing shows and a lifecycle rule of the
    bucket (``AbortIncompleteMultipartUpload``) removes.

    Parameters
    ----------
    uri : str
        ``s3://bucket`` or ``s3://bucket/prefix``.
    options : S3
        How the server is reached; what is left out comes from AWS's own chain.
    """

    def __init__(self, uri: str, options: S3) -> None:
        parts = urlsplit(uri)
        prefix = parts.path.strip("/")
        self._bucket = parts.netloc
        try:
            self._prefix = f"{check_key(prefix)}/" if prefix else ""
        except InvalidField as error:
            raise ConfigurationError(
                f"storage.uri is {uri!r}, whose path {prefix!r} is no prefix of keys", hint=error.hint
            ) from error
        self._uri = f"s3://{self._bucket}/{prefix}".rstrip("/")
        self._options = options
        self._client = S3Client(options, self._uri)
        self._heeds_conditions = False

    @property
    def uri(self) -> str:
        """The place as an ``s3://`` URI."""
        return self._uri

    def get(self, key: str) -> bytes:
        """Return the bytes under the key."""
        return self._client.run(self._get(key))

    def open(self, key: str) -> BinaryIO:
        """Open the bytes under the key for streaming; a few ranges of them are fetched ahead."""
        place = self._place(key)
        try:
            reader = RangeReader(self._client, place["Bucket"], place["Key"])
        except Refused as error:
            raise self._translated("read", key, error) from error
        return cast("BinaryIO", io.BufferedReader(reader, buffer_size=min(RANGE, max(reader.size, 1))))

    def size(self, key: str) -> int:
        """Return the number of bytes under the key."""
        return self.stat(key).size

    def stat(self, key: str) -> StoredObject:
        """Return size and time of the bytes under the key."""
        answer = self._client.run(self._stat(key))
        return StoredObject(key, int(answer["ContentLength"]), answer["LastModified"].timestamp())

    def download(self, key: str, path: Path) -> None:
        """Write the bytes under the key into a file."""
        with self.open(key) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, RANGE)

    def local_path(self, key: str) -> Path | None:
        """Return None: the bytes are not on this machine."""
        check_key(key)
        return None

    def put(self, key: str, data: bytes | Iterable[bytes]) -> None:
        """Store bytes, or a stream of chunks, under the key."""
        place = self._place(key)
        upload(self._client, place["Bucket"], place["Key"], (data,) if isinstance(data, bytes) else data)

    def create(self, key: str, data: bytes) -> None:
        """Store the bytes unless the key is taken."""
        self._client.run(self._create(key, data))

    def list(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """Give the keys that start with the prefix, in order."""
        return (found.key for found in self.scan(prefix, after))

    def scan(self, prefix: str = "", after: str = "") -> Iterator[StoredObject]:
        """Give what `list` gives, with sizes and times."""
        parent = prefix.rpartition("/")[0]
        if parent:
            check_key(parent)
        # Not every server lists in the order of code points, as AWS does; SeaweedFS goes folder by folder.
        return iter(sorted(self._client.run(self._scan(prefix, after))))

    def delete(self, key: str) -> None:
        """Remove the key if it is there."""
        with suppress(KeyNotFound):  # not every server calls that a success, as AWS does
            self._client.run(self._delete(key))

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    async def _create(self, key: str, data: bytes) -> None:
        place = self._place(key)
        if not self._heeds_conditions:
            await self._check_conditions()
        unknown: StorageError | None = None
        try:
            if await self._put_new(place, data):
                return
        except Refused as error:
            raise self._translated("write", key, error) from error
        except StorageError as error:
            unknown = error
        # The key is taken: by another, or by us (the HTTP client beneath repeats some requests by itself). Or no answer
        # came at all. What lies there now tells.
        try:
            found = await self._get(key)
        except KeyNotFound:
            found = None
        if found == data:
            return
        if found is None and unknown is not None:
            raise StorageError(
                f"{unknown.detail}; it is not there now, and may yet appear",
                hint=unknown.hint,
                context=unknown.context,
            ) from unknown
        raise KeyExists(f"the store {self._uri} has something under {key!r}", context={"key": key})

    async def _put_new(self, place: dict[str, str], data: bytes) -> bool:
        """Write the bytes if nothing is there. False: something is, by another, or by us when an answer was lost."""

        async def attempt() -> bool:
            try:
                await self._client.request("put_object", **place, Body=data, IfNoneMatch="*", ContentMD5=md5(data))
            except Refused as error:
                if error.status != 412:
                    raise
                return False
            return True

        return await self._client.insist("write", place["Key"], attempt)

    async def _check_conditions(self) -> None:
        """Refuse a server that lets two conditional writes of one key succeed: it would lose what was acknowledged."""
        place = {"Bucket": self._bucket, "Key": self._prefix + _PROBE}
        try:
            twice = await self._put_new(place, b"") and await self._put_new(place, b"")
        except Refused as error:
            raise self._client.failure("write", place["Key"], error) from error
        if twice:
            raise ConfigurationError(
                f"the server of {self._uri} does not heed If-None-Match: writers would overwrite each other",
                hint="Keep state on a server that knows conditional writes, or in a directory (storage.uri).",
                context={"uri": self._uri},
            )
        self._heeds_conditions = True

    async def _get(self, key: str) -> bytes:
        place = self._place(key)

        async def attempt() -> bytes:
            return await read_body(await self._client.request("get_object", **place))

        try:
            return await self._client.insist("read", place["Key"], attempt)
        except Refused as error:
            raise self._translated("read", key, error) from error

    async def _stat(self, key: str) -> Any:
        place = self._place(key)

        async def attempt() -> Any:
            try:
                return await self._client.request("head_object", **place)
            except Refused:
                # Without a body, the answer does not say what is missing or wrong: the key, the bucket, the secret.
                answer = await self._client.request("get_object", **place)
            async with answer["Body"]:
                return answer

        try:
            return await self._client.insist("read", place["Key"], attempt)
        except Refused as error:
            raise self._translated("read", key, error) from error

    async def _delete(self, key: str) -> None:
        place = self._place(key)

        async def attempt() -> None:
            await self._client.request("delete_object", **place)

        try:
            await self._client.insist("delete", place["Key"], attempt)
        except Refused as error:
            raise self._translated("delete", key, error) from error

    async def _scan(self, prefix: str, after: str) -> Sequence[StoredObject]:
        arguments = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        if start := _start_after(prefix, after):
            arguments["StartAfter"] = self._prefix + start

        async def page() -> Any:
            return await self._client.request("list_objects_v2", **arguments)

        found: deque[StoredObject] = deque()
        while True:
            try:
                answer = await self._client.insist("list", arguments["Prefix"], page)
            except Refused as error:
                raise self._client.failure("list", arguments["Prefix"], error) from error
            for item in answer.get("Contents", ()):
                key = item["Key"][len(self._prefix) :]
                if key > after and key != _PROBE:
                    found.append(StoredObject(key, item["Size"], item["LastModified"].timestamp()))
            if not answer.get("IsTruncated"):
                return found
            arguments["ContinuationToken"] = answer["NextContinuationToken"]

    def _translated(self, verb: str, key: str, error: Refused) -> StorageError:
        if error.code in _ABSENT:
            return KeyNotFound(f"the store {self._uri} has nothing under {key!r}", context={"key": key})
        return self._client.failure(verb, key, error)


def _start_after(prefix: str, after: str) -> str:
    """Return a place to list from that is before what is wanted on every server, and close to it.

    Servers that hold keys in folders list, and skip, a folder with all below it where its name stands: ``a/1`` before
    ``a-b``, as text after it. Only ``-`` and ``.`` sort before ``/``, so the place is cut before these; and it ends in
    a character that no key has, just below the next one, so that it never is the name of a folder itself.

    Examples
    --------
    >>> _start_after("log/", "log/00042.json"), _start_after("log/", "log/a-b/c"), _start_after("log/", "")
    ('log/00041~', 'log/`~', '')
    """
    folder = prefix[: prefix.rfind("/") + 1]
    if not after.startswith(folder):
        return ""
    name = re.split(r"[-./]", after[len(folder) :], maxsplit=1)[0]
    if not name:
        return ""
    below = chr(ord(name[-1]) - 1)
    return f"{folder}{name[:-1]}{'.' if below == '/' else below}~"
