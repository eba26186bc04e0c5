"""Artifacts on their way out: read a piece at a time, and never given whole when they are damaged; knows no HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from compute.errors import Corrupt, KeyNotFound
from registry import Artifact, ArtifactStore, ObjectStore, StoredObject

_CHUNK = 2**20
_REMEMBERED = 1_000


class Downloads:
    """Reads artifacts for those who download them.

    A part of an artifact says nothing about its digest. So an artifact is read whole and compared before the first part
    of it is given, and again when the object on the store is another than then.

    Parameters
    ----------
    store : ObjectStore
        Where they lie.

    Examples
    --------
    >>> import tempfile
    >>> from registry import FileStore
    >>> store = FileStore(tempfile.mkdtemp())
    >>> artifact = ArtifactStore(store).write(b"a model")
    >>> b"".join(Downloads(store).read(artifact, 2, 7))
    b'model'
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._artifacts = ArtifactStore(store)
        self._lock = threading.Lock()
        self._whole: dict[str, StoredObject] = {}
        """Objects that were found to be whole, by their keys."""

    def read(self, artifact: Artifact, start: int, end: int) -> Iterator[bytes]:
        """Give the bytes from the start to before the end.

        Raises
        ------
        Corrupt
            Before the last piece, when they are not what was registered.
        """
        if (start, end) == (0, artifact.size):
            yield from _last_withheld(self._artifacts.stream(artifact))
            return
        self._check(artifact)
        with self._store.open(self._artifacts.key(artifact)) as file:
            file.seek(start)
            while start < end:
                chunk = file.read(min(_CHUNK, end - start))
                if not chunk:
                    raise Corrupt(f"{self._artifacts.key(artifact)} became shorter while it was read")
                start += len(chunk)
                yield chunk

    def _check(self, artifact: Artifact) -> None:
        """See that the artifact is whole, by reading all of it if it was not seen before."""
        key = self._artifacts.key(artifact)
        with self._lock:
            known = self._whole.get(key)
        try:
            found = self._store.stat(key)
        except KeyNotFound:
            found = None
        if found is not None and found == known:
            return
        for _ in self._artifacts.stream(artifact):  # which also knows what to say of one that is gone
            pass
        if found is None:
            return  # it came back this very moment
        with self._lock:
            if len(self._whole) >= _REMEMBERED:
                self._whole.clear()
            self._whole[key] = found


def _last_withheld(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Give each chunk when the next one has come, so the last one only after the end was found to be right."""
    before = b""
    for chunk in chunks:
        if before:
            yield before
        before = chunk
    if before:
        yield before
