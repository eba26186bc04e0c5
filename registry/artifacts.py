"""The bytes of models on the object store: named by their content, written before any record names them, immutable."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from compute import load_config
from compute.errors import Corrupt, DataNotFound, KeyNotFound
from registry.node_cache import NodeCache
from registry.records import Artifact
from registry.store import ObjectStore

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_FILL = 8 << 20
"""At a time into the cache: each turn costs a change between the threads that fetch, digest and write."""


class ArtifactStore:
    """Artifacts under ``blobs/sha256/<two digits>/<digest>``, with ``.<generation>`` after the first collection.

    Parameters
    ----------
    store : ObjectStore
        Where they lie.
    cache : NodeCache, optional
        Where `file` puts what lies on another machine; by default that of the configuration.

    Examples
    --------
    >>> import tempfile
    >>> from registry.file_store import FileStore
    >>> artifacts = ArtifactStore(FileStore(tempfile.mkdtemp()))
    >>> artifact = artifacts.write(b"model")
    >>> artifacts.read(artifact)
    b'model'
    """

    def __init__(self, store: ObjectStore, cache: NodeCache | None = None) -> None:
        self._store = store
        self._cache = cache

    def write(self, data: bytes, generation: int = 0) -> Artifact:
        """Store bytes, unless the very same are there; the generation is 0 until these bytes were collected."""
        artifact = Artifact(digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size=len(data), generation=generation)
        if not self._intact(artifact):
            self._store.put(self.key(artifact), data)
        return artifact

    def write_file(self, path: Path, generation: int = 0) -> Artifact:
        """Store the content of a file, a chunk at a time.

        Raises
        ------
        Corrupt
            When the file changes while it is read.
        """
        try:
            with path.open("rb") as file:
                digest, size = hashlib.sha256(), 0
                for chunk in _chunks(file):
                    digest.update(chunk)
                    size += len(chunk)
                artifact = Artifact(digest=f"sha256:{digest.hexdigest()}", size=size, generation=generation)
                if not self._intact(artifact):
                    file.seek(0)
                    # The stream raises when the bytes are others than before, and then nothing is stored.
                    self._store.put(self.key(artifact), _verified(_chunks(file), artifact, str(path)))
        except FileNotFoundError as error:
            raise DataNotFound(f"there is no file {path}", context={"path": str(path)}) from error
        return artifact

    def read(self, artifact: Artifact) -> bytes:
        """Return the bytes.

        Raises
        ------
        Corrupt
            When they are not what was written, or are gone.
        """
        return b"".join(self.stream(artifact))

    def stream(self, artifact: Artifact, chunk: int = _CHUNK) -> Iterator[bytes]:
        """Give the bytes a chunk at a time; raises `Corrupt` at the end when they are not what was written."""
        key = self.key(artifact)
        try:
            file = self._store.open(key)
        except KeyNotFound as error:
            raise Corrupt(
                f"the artifact {key} is gone from {self._store.uri}",
                hint="Restore it from a backup of the store, or register the model again.",
                context={"key": key},
            ) from error
        with file:
            yield from _verified(_chunks(file, chunk), artifact, f"{key} in {self._store.uri}")

    @contextmanager
    def file(self, artifact: Artifact) -> Iterator[Path]:
        """Give a file with the bytes, for a library that reads from a path; it is there until the context ends.

        On a directory it is the very file of the store, else one in the cache of this node.

        Raises
        ------
        Corrupt
            When the bytes are not what was written, or are gone.
        """
        path = self._store.local_path(self.key(artifact))
        if path is not None:
            for _ in self.stream(artifact):
                pass
            yield path
            return
        cache = self._cache if self._cache is not None else NodeCache.of(load_config())
        with cache.file(artifact.digest, artifact.size, lambda: self.stream(artifact, _FILL)) as cached:
            yield cached

    def key(self, artifact: Artifact) -> str:
        """Return the key of an artifact."""
        digest = artifact.digest.removeprefix("sha256:")
        generation = f".{artifact.generation}" if artifact.generation else ""
        return f"blobs/sha256/{digest[:2]}/{digest}{generation}"

    def _intact(self, artifact: Artifact) -> bool:
        """Whether the artifact is there as it should be; a damaged one is written anew."""
        try:
            if self._store.size(self.key(artifact)) != artifact.size:
                return False
            for _ in self.stream(artifact):
                pass
        except KeyNotFound:
            return False
        except Corrupt:
            logger.exception("event=artifact_damaged digest=%s action=write_again", artifact.digest)
            return False
        return True


def _chunks(file: BinaryIO, size: int = _CHUNK) -> Iterator[bytes]:
    while chunk := file.read(size):
        yield chunk


def _verified(chunks: Iterable[bytes], artifact: Artifact, place: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    # Beside the one that reads and writes: for a model of 100 MB the digest takes as long as either.
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as hasher:
        last: Future[None] | None = None
        for chunk in chunks:
            if artifact.size <= _CHUNK:
                digest.update(chunk)
            else:
                if last is not None:
                    last.result()
                last = hasher.submit(digest.update, chunk)
            yield chunk
    if f"sha256:{digest.hexdigest()}" != artifact.digest:
        raise Corrupt(
            f"{place} has other bytes than were written: sha256:{digest.hexdigest()} instead of {artifact.digest}",
            hint="Restore it from a backup of the store, or register the model again.",
            context={"digest": artifact.digest, "found": f"sha256:{digest.hexdigest()}"},
        )
