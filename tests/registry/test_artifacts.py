"""The bytes of models: damaged ones are never served, on either store, and collected ones are written anew."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from compute.errors import Corrupt, DataNotFound
from registry import Artifact, FileStore, ModelRegistry, ObjectStore
from registry.artifacts import ArtifactStore
from registry.journal import Journal
from registry.models import ModelTable

FEATURES = np.random.default_rng(3).normal(size=(50, 4))
TARGET = FEATURES @ np.arange(4.0)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_artifact_is_never_served(registry: ModelRegistry, store: ObjectStore, damage: str) -> None:
    # A model of its own for each case: one that this process has loaded is not read again.
    model = Ridge().fit(FEATURES, TARGET * {"flip": 2, "cut": 3, "remove": 4}[damage] + os.getpid() + id(registry))
    model_id = registry.register_model(model, "ridge")
    artifact = registry.get_model(model_id).artifact
    key = ArtifactStore(store).key(artifact)
    data = store.get(key)
    if damage == "remove":
        store.delete(key)
    else:
        store.put(key, data[:-1] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(Corrupt, match=artifact.digest.removeprefix("sha256:")):
        registry.load_model(model_id)
    again = registry.register_model(model, "ridge")  # writes the bytes anew
    np.testing.assert_array_equal(
        registry.load_model(model_id).predict(FEATURES), registry.load_model(again).predict(FEATURES)
    )


def test_bytes_collected_during_a_registration_are_written_anew(registry: ModelRegistry, store: ObjectStore) -> None:
    """The key of the first generation is never used again."""
    model = Ridge().fit(FEATURES, TARGET + id(registry))
    first = registry.get_model(registry.register_model(model, "ridge")).artifact
    registry.delete_model(registry.list_models()[0].model_id)
    journal: Journal[ModelTable] = Journal(store, "models", ModelTable)
    journal.execute(lambda table: ([{"kind": "condemned", "digests": {first.digest: 7}, "at": ""}], None))
    store.delete(ArtifactStore(store).key(first))
    record = registry.get_model(registry.register_model(model, "ridge"))
    assert record.artifact == Artifact(digest=first.digest, size=first.size, generation=7)
    assert ArtifactStore(store).key(record.artifact).endswith(f"{first.digest.removeprefix('sha256:')}.7")
    np.testing.assert_array_equal(registry.load_model(record.model_id).predict(FEATURES), model.predict(FEATURES))


class CountingStore(FileStore):
    """Tells how large the pieces are that are written."""

    largest = 0

    def put(self, key: str, data: bytes | Iterator[bytes]) -> None:  # type: ignore[override]
        assert not isinstance(data, bytes)

        def counted() -> Iterator[bytes]:
            for chunk in data:
                self.largest = max(self.largest, len(chunk))
                yield chunk

        super().put(key, counted())


def test_files_are_stored_in_pieces(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "store")
    data = os.urandom(5 * 2**20)
    (tmp_path / "model").write_bytes(data)
    artifact = ArtifactStore(store).write_file(tmp_path / "model")
    assert artifact == Artifact(digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size=len(data))
    assert 0 < store.largest <= 2**20
    assert ArtifactStore(store).read(artifact) == data
    with ArtifactStore(store).file(artifact) as path:
        assert path == store.local_path(ArtifactStore(store).key(artifact))  # no copy is made


def test_a_file_that_changes_while_it_is_stored_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"a" * 3 * 2**20)

    class ChangingStore(FileStore):
        def put(self, key: str, data: bytes | Iterator[bytes]) -> None:  # type: ignore[override]
            path.write_bytes(b"b" * 3 * 2**20)
            super().put(key, data)

    store = ChangingStore(tmp_path / "store")
    with pytest.raises(Corrupt, match="other bytes"):
        ArtifactStore(store).write_file(path)
    assert list(store.list()) == []
    with pytest.raises(DataNotFound, match="there is no file"):
        ArtifactStore(store).write_file(tmp_path / "nothing")
