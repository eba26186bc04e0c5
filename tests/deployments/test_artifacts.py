"""Files of models over HTTP: what goes in comes out, in part or whole, and nothing that is damaged comes out whole."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from compute import Config
from compute.errors import UploadNotFound
from deployments.parts import PartUploads
from deployments.tokens import Role
from registry import ArtifactStore, FileStore, ModelRegistry, get_model_registry, open_store


@pytest.fixture(scope="module")
def registry(ray_cluster: str, served_config: Config) -> ModelRegistry:
    return get_model_registry(served_config)


@pytest.fixture
def http(models_url: str, client: Callable[..., httpx.Client]) -> httpx.Client:
    return client(models_url, Role.WRITE)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import xgboost

    random = np.random.default_rng(0)
    data = xgboost.DMatrix(random.random((500, 4)), label=random.random(500))
    path = tmp_path_factory.mktemp("models") / "model.ubj"
    xgboost.train({"max_depth": 6, "nthread": 1}, data, num_boost_round=40).save_model(path)
    assert path.stat().st_size > 100_000
    return path


def _digest(data: bytes, algorithm: str = "sha256") -> str:
    return base64.b64encode(hashlib.new(algorithm, data).digest()).decode()


def _upload(http: httpx.Client, data: Any, headers: dict[str, str] | None = None, **query: Any) -> httpx.Response:
    octets = {"Content-Type": "application/octet-stream", **(headers or {})}
    return http.post("/upload", params={"model_type": "xgboost", **query}, content=data, headers=octets)


@pytest.fixture(scope="module")
def model_id(registry: ModelRegistry, model_file: Path) -> str:
    return registry.register_file(model_file, "xgboost", name="files")


# In


def test_a_file_is_uploaded_as_the_body_with_its_fields_in_the_query(http: httpx.Client, model_file: Path) -> None:
    data = model_file.read_bytes()
    name = f"raw-{uuid.uuid4().hex[:8]}"
    fields = {"name": name, "tags": "a, b", "metadata": '{"owner": "ops"}', "lineage": '{"job": "7"}'}
    for content in (data, (data[start : start + 10_000] for start in range(0, len(data), 10_000))):
        response = _upload(http, content, metrics='{"rmse": 2}', **fields)
        assert response.status_code == 201, response.text
    record = response.json()
    assert (record["name"], record["version"], record["tags"]) == (name, 2, ["a", "b"])
    assert (record["metadata"], record["lineage"], record["metrics"]) == ({"owner": "ops"}, {"job": "7"}, {"rmse": 2.0})
    assert record["artifact"]["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert response.headers["location"] == f"/models/{record['model_id']}"
    assert http.get(f"/{record['model_id']}/artifact").content == data


@pytest.mark.parametrize(
    ("query", "field"),
    [({"metadata": "{"}, "metadata"), ({"metrics": '{"a": NaN}'}, "metrics"), ({"lineage": "[" * 5000}, "lineage")],
)
def test_json_in_a_field_is_blamed_on_the_field(
    http: httpx.Client, model_file: Path, query: dict[str, str], field: str
) -> None:
    response = _upload(http, model_file.read_bytes(), **query)
    assert (response.status_code, response.json()["context"]["field"]) == (400, field)
    assert response.json()["detail"].startswith(f"the field '{field}' is not JSON")


@pytest.mark.parametrize("query", [{"name": "../x"}, {"status": "active"}, {"metadata": "[]"}, {"model_type": ""}])
def test_bad_fields_in_the_query_are_refused(http: httpx.Client, model_file: Path, query: dict[str, str]) -> None:
    response = _upload(http, model_file.read_bytes(), **query)
    assert (response.status_code, response.json()["code"]) == (422, "invalid-field")


def test_the_digest_of_the_content_is_checked(http: httpx.Client, model_file: Path) -> None:
    data = model_file.read_bytes()
    right = f"sha-256=:{_digest(data)}:"
    for header in (
        right,
        f"sha-512=:{_digest(data, 'sha512')}:",
        f"sha-512=:{_digest(data, 'sha512')}:, {right}",
        f"md5=:AAAA:, unixsum=:AAAA:, {right};x=1",
        f'new-hash="text, with a comma", sha3-1, {right}',  # unknown ones are ignored
    ):
        assert _upload(http, data, {"Content-Digest": header}).status_code == 201, header
    before = len(http.get("/", params={"limit": 500}).json()["models"])
    wrong = f"sha-256=:{_digest(data + b'x')}:"
    for header in (wrong, f"sha-512=:{_digest(data, 'sha512')}:, {wrong}"):
        refused = _upload(http, data, {"Content-Digest": header})
        assert refused.status_code == 400
        context = refused.json()["context"]
        assert (context["promised"], context["found"]) == (wrong, right)
        assert wrong in refused.json()["detail"]
        assert right in refused.json()["detail"]
    # Who promises nothing that is known here would be misled by a success.
    for header in (
        "",
        "garbage",
        "md5=:AAAA:",
        'new-hash="text"',
        "sha-256=abc",
        "sha-256=:abc:",
        "sha-256",
        f"sha-256={_digest(data)}",
        "=",
        "sha-256=:####:",
    ):
        assert _upload(http, data, {"Content-Digest": header}).status_code == 400, header
    assert len(http.get("/", params={"limit": 500}).json()["models"]) == before


def test_the_digest_of_a_form_is_that_of_the_whole_body(http: httpx.Client, model_file: Path) -> None:
    request = http.build_request(
        "POST", "/upload", files={"file": model_file.read_bytes()}, data={"model_type": "xgboost"}
    )
    body = request.read()
    for content, status in ((body, 201), (b"x", 400)):
        headers = {"Content-Type": request.headers["content-type"], "Content-Digest": f"sha-256=:{_digest(content)}:"}
        assert http.post("/upload", content=body, headers=headers).status_code == status


def test_a_repeated_upload_is_one_model_and_another_content_a_conflict(http: httpx.Client, model_file: Path) -> None:
    data, key = model_file.read_bytes(), {"Idempotency-Key": uuid.uuid4().hex}
    made = {_upload(http, data, key, name="once").json()["model_id"] for _ in range(3)}
    assert len(made) == 1
    assert _upload(http, data, key, name="another").status_code == 409


def test_what_is_too_large_is_refused_early_and_late(http: httpx.Client) -> None:
    assert _upload(http, b"\0" * (8 * 2**20 + 1)).status_code == 413
    assert _upload(http, (b"\0" * 2**20 for _ in range(9))).status_code == 413
    announced = http.build_request("POST", "/upload?model_type=xgboost", headers={"Content-Length": str(10**12)})
    with socket.create_connection((announced.url.host, announced.url.port)) as connection:
        authorization = http.headers["authorization"]
        head = (
            f"POST /models/upload?model_type=x HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {authorization}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {10**12}\r\n\r\n"
        )
        connection.sendall(head.encode())  # and not a byte of the body
        connection.settimeout(10)
        assert b" 413 " in connection.recv(1000).split(b"\r\n")[0]


def _left() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("tablework-upload-*"))


def test_a_client_that_goes_away_leaves_nothing(http: httpx.Client, model_file: Path) -> None:
    before = _left()
    count = len(http.get("/", params={"limit": 500}).json()["models"])
    url = http.base_url
    with socket.create_connection((url.host, url.port)) as connection:
        head = (
            f"POST /models/upload?model_type=x HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: {http.headers['authorization']}\r\n"
            "Content-Type: application/octet-stream\r\nContent-Length: 5000000\r\n\r\n"
        )
        connection.sendall(head.encode() + model_file.read_bytes()[:100_000])
        deadline = time.monotonic() + 10
        while _left() == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    while _left() != before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(http.get("/", params={"limit": 500}).json()["models"]) == count


# In parts


def test_a_file_is_uploaded_in_parts_of_any_order(http: httpx.Client, model_file: Path) -> None:
    data = model_file.read_bytes()
    begun = http.post("/uploads")
    assert (begun.status_code, begun.json()["max_part"]) == (201, 2**20)
    path = begun.headers["location"].removeprefix("/models")
    parts = [data[start : start + 50_000] for start in range(0, len(data), 50_000)]
    for number in range(len(parts), 0, -1):
        headers = {"Content-Digest": f"sha-256=:{_digest(parts[number - 1])}:"}
        for content in (b"again", parts[number - 1]):
            status = http.put(f"{path}/{number}", content=content, headers=headers).status_code
            assert status == (204 if content == parts[number - 1] else 400)
    name = f"parts-{uuid.uuid4().hex[:8]}"
    fields = {"parts": len(parts), "model_type": "xgboost", "name": name, "tags": ["a"], "metrics": {"rmse": 1}}
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    wrong = http.post(path, json={**fields, "digest": f"sha256:{'0' * 64}"})
    assert (wrong.status_code, wrong.json()["context"]["found"]) == (400, digest)
    missing = http.post(path, json={**fields, "parts": len(parts) + 2})
    assert (missing.status_code, missing.json()["context"]["missing"]) == (409, [len(parts) + 1, len(parts) + 2])
    for bad in ({"parts": 0}, {"parts": True}, {"parts": None}, {"digest": "x"}, {"status": "active"}, {"name": "a/b"},
                {"model_type": None}, {"signature": 1}, {"tags": "x"}):  # fmt: skip
        refused = http.post(path, json={**fields, **bad})
        assert refused.status_code == 422, (bad, refused.text)
    made = http.post(path, json={**fields, "digest": digest})
    assert made.status_code == 201, made.text
    assert (made.json()["artifact"]["digest"], made.json()["tags"]) == (digest, ["a"])
    assert http.post(path, json=fields).json() == made.json()  # the answer may have been lost
    assert http.post(path, json={**fields, "digest": digest}).json() == made.json()
    for other in ({"digest": f"sha256:{'0' * 64}"}, {"name": "another"}, {"parts": 1}, {"metrics": {"rmse": 2}}):
        refused = http.post(path, json={**fields, **other})
        assert (refused.status_code, refused.json()["context"]["model_id"]) == (409, made.json()["model_id"])
    assert http.put(f"{path}/1", content=parts[0]).status_code == 409
    assert http.get("/", params={"name": name}).json()["models"] == [made.json()]
    assert http.get(f"/{name}/artifact").content == data
    assert http.delete(path).status_code == 204
    assert http.post(path, json=fields).status_code == 404


def test_parts_have_a_size_and_a_sum(http: httpx.Client) -> None:
    path = http.post("/uploads").headers["location"].removeprefix("/models")
    assert http.put(f"{path}/1", content=b"x" * (2**20 + 1)).status_code == 413
    for number in range(1, 9):
        assert http.put(f"{path}/{number}", content=b"x" * 2**20).status_code == 204
    assert http.put(f"{path}/8", content=b"y" * 2**20).status_code == 204
    refused = http.put(f"{path}/9", content=b"x")
    assert (refused.status_code, refused.json()["context"]["limit"]) == (413, 8 * 2**20)
    for number in ("0", "10001", "-1"):
        assert http.put(f"{path}/{number}", content=b"x").status_code == 422
    http.delete(path)


@pytest.mark.parametrize("upload_id", [f"u-{'0' * 32}", "u-1", "..%2f..%2fx", "a%00b", "x" * 90])
def test_an_upload_that_was_not_begun_is_not_there(http: httpx.Client, upload_id: str) -> None:
    for method, path in (("PUT", f"/uploads/{upload_id}/1"), ("POST", f"/uploads/{upload_id}")):
        body = b'{"parts": 1, "model_type": "x"}'
        assert http.request(method, path, content=body).status_code == 404, (method, path)


def test_uploads_that_were_given_up_are_removed(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    uploads = PartUploads(store, 1000)
    old, recent = uploads.begin(), uploads.begin()
    for upload_id in (old, recent):
        uploads.put(upload_id, 1, b"x")
    for file in tmp_path.rglob(f"*{old}/*"):
        os.utime(file, (0, 0))
    os.utime(tmp_path / "uploads" / recent / "begun", (0, 0))  # it has a part that is new
    uploads.begin()
    assert {key.split("/")[1] for key in store.list("uploads/")} >= {recent}
    with pytest.raises(UploadNotFound):
        uploads.put(old, 2, b"x")


# Out


def test_the_file_comes_back_with_its_digest(http: httpx.Client, model_id: str, model_file: Path) -> None:
    data = model_file.read_bytes()
    for reference in (model_id, "files", "files:1"):
        response = http.get(f"/{reference}/artifact")
        assert (response.status_code, response.content) == (200, data)
    digest = f"sha-256=:{_digest(data)}:"
    assert response.headers["content-length"] == str(len(data))
    assert response.headers["etag"] == f'"sha256:{hashlib.sha256(data).hexdigest()}"'
    assert response.headers["repr-digest"] == response.headers["content-digest"] == digest
    assert response.headers["content-disposition"] == 'attachment; filename="files-1.ubj"'
    head = http.head(f"/{model_id}/artifact")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(data))
    for none_match in (response.headers["etag"], "*", f'W/{response.headers["etag"]}, "x"'):
        same = http.get(f"/{model_id}/artifact", headers={"If-None-Match": none_match})
        assert (same.status_code, same.content) == (304, b"")
    assert http.get("/nothing/artifact").status_code == 404
    assert http.get("/files:9/artifact").status_code == 404


def test_a_part_of_the_file(http: httpx.Client, model_id: str, model_file: Path) -> None:
    data = model_file.read_bytes()
    size = len(data)
    for asked, start, end in (
        ("0-0", 0, 1),
        ("10-19", 10, 20),
        (f"{size - 1}-", size - 1, size),
        (f"100-{size * 2}", 100, size),
        ("-7", size - 7, size),
        (f"-{size * 2}", 0, size),
    ):
        response = http.get(f"/{model_id}/artifact", headers={"Range": f"bytes={asked}"})
        assert (response.status_code, response.content) == (206, data[start:end]), asked
        assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        assert response.headers["repr-digest"] == f"sha-256=:{_digest(data)}:"
        assert "content-digest" not in response.headers
    for ignored in ("bytes=5-4", "bytes=0-1,5-6", "lines=1-2", "bytes=-", "bytes=x-y", ""):
        response = http.get(f"/{model_id}/artifact", headers={"Range": ignored})
        assert (response.status_code, len(response.content)) == (200, size), ignored
    for outside in (f"{size}-", f"{size}-{size + 1}", "-0"):
        response = http.get(f"/{model_id}/artifact", headers={"Range": f"bytes={outside}"})
        assert (response.status_code, response.headers["content-range"]) == (416, f"bytes */{size}")
    etag = response = http.get(f"/{model_id}/artifact").headers["etag"]
    for condition, status in ((etag, 206), ('"other"', 200)):
        headers = {"Range": "bytes=0-9", "If-Range": condition}
        assert http.get(f"/{model_id}/artifact", headers=headers).status_code == status


@pytest.fixture
def damage(
    registry: ModelRegistry, served_config: Config, model_file: Path, tmp_path: Path
) -> Iterator[Callable[[int], str]]:
    """Makes models whose file has one bit flipped near its end, after it was registered: `damage(size)`."""
    import xgboost

    store = open_store(served_config.storage.uri, served_config)
    keys = []

    def make(size: int) -> str:
        booster = xgboost.Booster(model_file=model_file)
        booster.set_attr(mark=uuid.uuid4().hex + "x" * size)
        booster.save_model(tmp_path / "model.ubj")
        model_id = registry.register_file(tmp_path / "model.ubj", "xgboost", name="damaged")
        keys.append(ArtifactStore(store).key(registry.get_model(model_id).artifact))
        data = bytearray(store.get(keys[-1]))
        data[-10] ^= 1
        store.put(keys[-1], bytes(data))
        return model_id

    yield make
    for key in keys:
        store.delete(key)


def test_a_damaged_file_never_comes_whole(http: httpx.Client, damage: Callable[[int], str]) -> None:
    small, large = damage(0), damage(5_000_000)
    for headers in ({}, {"Range": "bytes=0-9"}):
        response = http.get(f"/{small}/artifact", headers=headers)
        assert (response.status_code, response.json()["code"]) == (500, "corrupt")
    received = []
    with http.stream("GET", f"/{large}/artifact") as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            received.extend(map(len, response.iter_raw()))
    assert 0 < sum(received) < int(response.headers["content-length"])
    assert http.get(f"/{large}/artifact", headers={"Range": "bytes=0-9"}).status_code == 500


def test_a_file_that_is_gone_is_a_problem(
    http: httpx.Client, damage: Callable[[int], str], registry: ModelRegistry, served_config: Config
) -> None:
    damaged = damage(0)
    store = open_store(served_config.storage.uri, served_config)
    store.delete(ArtifactStore(store).key(registry.get_model(damaged).artifact))
    for headers in ({}, {"Range": "bytes=0-9"}):
        response = http.get(f"/{damaged}/artifact", headers=headers)
        assert (response.status_code, response.json()["code"]) == (500, "corrupt")
