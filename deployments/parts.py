"""Files that come in parts, each a request of its own; knows no HTTP.

Serve's proxy and replicas take a body as fast as the client sends it, and hold what is not written yet: for a file of
many gigabytes that is most of it. A part is answered when it lies on the store, so no more than a part is ever held;
and after a broken connection only a part is sent again, to any replica.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compute.errors import BadRequest, Conflict, InvalidField, KeyNotFound, PayloadTooLarge, UploadNotFound
from deployments.spool import spooled_file
from registry import ObjectStore, StoredObject

MAX_PARTS = 10_000
ABANDONED = 24 * 3600.0
"""Seconds without a new part after which an upload is given up."""

_PREFIX = "uploads"
_ID = re.compile(r"u-[0-9a-f]{32}")
_CHUNK = 2**20


class PartUploads:
    """Uploads under way, on the store: ``uploads/<id>/<part>``.

    Parameters
    ----------
    store : ObjectStore
        Where the parts lie.
    max_bytes : int
        Of the parts of one upload together.

    Examples
    --------
    >>> import tempfile
    >>> from registry import FileStore
    >>> uploads = PartUploads(FileStore(tempfile.mkdtemp()), 100)
    >>> upload_id = uploads.begin()
    >>> uploads.put(upload_id, 2, b"del"), uploads.put(upload_id, 1, b"mo")
    (None, None)
    >>> with uploads.joined(upload_id, 2, None) as path:
    ...     path.read_bytes()
    b'model'
    """

    def __init__(self, store: ObjectStore, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes

    def begin(self) -> str:
        """Return the id of a new upload; those that were given up are removed."""
        self.sweep()
        upload_id = f"u-{secrets.token_hex(16)}"
        self._store.put(f"{_PREFIX}/{upload_id}/begun", b"")
        return upload_id

    def put(self, upload_id: str, part: int, data: bytes) -> None:
        """Store a part, in place of what was sent as this part before.

        Raises
        ------
        Conflict
            When the upload is finished.
        """
        if (done := self._done(upload_id)) is not None:
            raise Conflict(
                f"{upload_id} is finished: it is the model {done['model_id']}",
                hint="Begin another upload for other bytes.",
                context={"upload_id": upload_id, "model_id": done["model_id"]},
            )
        if not 1 <= part <= MAX_PARTS:
            raise InvalidField(f"there is no part {part}", hint=f"It is 1 to {MAX_PARTS}.", context={"field": "part"})
        key = f"{_PREFIX}/{upload_id}/{part:05d}"
        size = sum(found.size for found in self._parts(upload_id) if found.key != key) + len(data)
        if size > self._max_bytes:
            raise PayloadTooLarge(
                f"the parts are larger than the {self._max_bytes} bytes that are accepted",
                hint="The operator sets security.max_upload.",
                context={"limit": self._max_bytes},
            )
        self._store.put(key, data)

    @contextmanager
    def joined(self, upload_id: str, count: int, digest: str | None) -> Iterator[Path]:
        """Give a file with the parts 1 to the count, one after another.

        Raises
        ------
        Conflict
            When one of them is missing.
        BadRequest
            When they do not have the digest.
        """
        there = {found.key for found in self._parts(upload_id)}
        keys = [f"{_PREFIX}/{upload_id}/{part:05d}" for part in range(1, count + 1)]
        if missing := [part for part, key in enumerate(keys, 1) if key not in there]:
            raise Conflict(
                f"part {missing[0]} of {count} is missing", hint="Send it.", context={"missing": missing[:100]}
            )
        found = hashlib.sha256()
        with spooled_file() as file:
            for key in keys:
                with self._store.open(key) as part:
                    while chunk := part.read(_CHUNK):
                        found.update(chunk)
                        file.write(chunk)
            file.flush()
            if digest is not None and digest != f"sha256:{found.hexdigest()}":
                raise BadRequest(
                    f"the parts together are sha256:{found.hexdigest()}, not {digest}",
                    hint="One was changed on its way: send them with Content-Digest, again.",
                    context={"found": f"sha256:{found.hexdigest()}", "promised": digest},
                )
            yield Path(file.name)

    def finish(self, upload_id: str, model_id: str, request: Mapping[str, Any]) -> None:
        """Note which model came of it, for one who asks the same again, and remove the parts."""
        done = {"model_id": model_id, "request": request}
        self._store.put(f"{_PREFIX}/{upload_id}/done", json.dumps(done).encode())
        for found in self._parts(upload_id):
            self._store.delete(found.key)

    def result(self, upload_id: str, request: Mapping[str, Any]) -> str | None:
        """Return the id of the model that came of it, if one did.

        Raises
        ------
        Conflict
            When it came of another request: with another digest, say, or another name.
        """
        done = self._done(upload_id)
        if done is None:
            return None
        before = done["request"]
        if other := sorted(key for key in {*before, *request} if before.get(key) != request.get(key)):
            raise Conflict(
                f"{upload_id} is finished, with another value of {', '.join(other)}",
                hint=f"It is the model {done['model_id']}; change that, or begin another upload.",
                context={"upload_id": upload_id, "model_id": done["model_id"], "fields": other},
            )
        return str(done["model_id"])

    def abandon(self, upload_id: str) -> None:
        """Remove an upload."""
        _check_id(upload_id)
        for found in self._store.scan(f"{_PREFIX}/{upload_id}/"):
            self._store.delete(found.key)

    def sweep(self) -> None:
        """Remove the uploads that were given up."""
        newest: dict[str, float] = defaultdict(float)
        for found in self._store.scan(f"{_PREFIX}/"):
            upload_id = found.key.split("/")[1]
            newest[upload_id] = max(newest[upload_id], found.modified)
        for upload_id, modified in newest.items():
            if time.time() - modified > ABANDONED:
                self.abandon(upload_id)

    def _done(self, upload_id: str) -> dict[str, Any] | None:
        _check_id(upload_id)
        try:
            done: dict[str, Any] = json.loads(self._store.get(f"{_PREFIX}/{upload_id}/done"))
        except KeyNotFound:
            return None
        return done

    def _parts(self, upload_id: str) -> list[StoredObject]:
        _check_id(upload_id)
        there = list(self._store.scan(f"{_PREFIX}/{upload_id}/"))
        if not there:
            raise _not_found(upload_id)
        return [found for found in there if found.key[-5:].isdecimal()]


def _check_id(upload_id: str) -> None:
    if not _ID.fullmatch(upload_id):
        raise _not_found(upload_id)


def _not_found(upload_id: str) -> UploadNotFound:
    return UploadNotFound(
        f"there is no upload {upload_id[:100]!r}",
        hint="It was abandoned, or never begun: begin one with POST /models/uploads.",
        context={"upload_id": upload_id[:100]},
    )
