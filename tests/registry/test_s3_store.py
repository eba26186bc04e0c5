"""The object store on S3: the contract, what the server and the line to it can do to it, and its memory."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from compute.config import S3
from compute.errors import ConfigurationError, KeyExists, KeyNotFound, StorageError
from registry import ObjectStore
from registry.s3_store import S3Store
from registry.s3_transfer import PART, RANGE
from tests.contracts.object_store import ObjectStoreContract
from tests.fault_proxy import FAULTS, Fault, FaultProxy, proxy
from tests.seaweed import BUCKET, SeaweedServer


@pytest.fixture
def place() -> str:
    return f"s3://{BUCKET}/t-{uuid.uuid4().hex}"


@pytest.fixture
def store(s3_server: SeaweedServer, place: str) -> S3Store:
    return S3Store(place, s3_server.options())


@pytest.fixture
def faulty(s3_server: SeaweedServer) -> Iterator[FaultProxy]:
    with proxy(s3_server.endpoint_url) as made:
        yield made


class TestS3Store(ObjectStoreContract):
    @pytest.fixture
    def store(self, s3_server: SeaweedServer, place: str) -> ObjectStore:
        return S3Store(place, s3_server.options())

    @pytest.fixture
    def again(self, s3_server: SeaweedServer, place: str) -> ObjectStore:
        return S3Store(place, s3_server.options())


@pytest.mark.parametrize("size", [RANGE - 1, RANGE, RANGE + 1, PART, PART + 1, 3 * PART + 17])
def test_large_objects_go_in_parts_and_come_in_ranges(store: S3Store, tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    store.put("large", (data[start : start + 700_001] for start in range(0, size, 700_001)))
    assert store.stat("large").size == size
    store.download("large", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data
    with store.open("large") as file:
        head, rest = file.read(5), file.read()
    assert (head, rest) == (data[:5], data[5:])


def test_an_object_that_is_replaced_while_it_is_read_is_refused(store: S3Store) -> None:
    store.put("large", bytes(RANGE * 10))
    with store.open("large") as file:
        file.read(10)
        store.put("large", b"\1" * (RANGE * 10))
        with pytest.raises(StorageError, match="cannot read"):
            file.read()


def test_a_stream_that_breaks_after_many_parts_leaves_nothing(store: S3Store, s3_server: SeaweedServer) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(2 * PART)
        raise RuntimeError("the client went away")

    with pytest.raises(RuntimeError, match="went away"):
        store.put("large", chunks())
    assert list(store.list()) == []
    assert uploads(s3_server, store) == []


def test_an_upload_that_fails_for_good_leaves_nothing(
    s3_server: SeaweedServer, faulty: FaultProxy, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.s3_client.TRIES", 2)
    store = S3Store(place, s3_server.options(faulty.url))
    for verb, part in (("PUT", "partNumber=2"), ("POST", "uploadId")):
        faulty.plan = lambda method, path, verb=verb, part=part: "fail" if method == verb and part in path else None
        with pytest.raises(StorageError, match="cannot write"):
            store.put("large", [bytes(PART), b"end"])
        assert list(store.list()) == []
        assert uploads(s3_server, store) == []


def test_what_went_wrong_first_is_told_when_the_upload_cannot_be_given_up(
    s3_server: SeaweedServer, faulty: FaultProxy, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.s3_client.TRIES", 1)
    store = S3Store(place, s3_server.options(faulty.url))

    def chunks() -> Iterator[bytes]:
        yield bytes(2 * PART)
        faulty.plan = lambda _method, _path: "drop"
        raise RuntimeError("the client went away")

    with pytest.raises(RuntimeError, match="went away"):
        store.put("large", chunks())


def test_an_upload_that_someone_ended_is_not_taken_for_done(
    s3_server: SeaweedServer, faulty: FaultProxy, place: str
) -> None:
    store = S3Store(place, s3_server.options(faulty.url))
    store.put("large", [b"old" + bytes(PART)])

    def end(method: str, path: str) -> None:
        if method == "POST" and "uploadId" in path:
            for upload in uploads(s3_server, store):
                client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])

    client = s3_server.client()
    faulty.plan = end
    with pytest.raises(StorageError, match="NoSuchUpload"):
        store.put("large", [b"new" + bytes(PART)])  # of the same size as what is there
    faulty.plan = lambda _method, _path: None
    client.close()
    with store.open("large") as file:
        assert file.read(3) == b"old"


def uploads(server: SeaweedServer, store: S3Store) -> list[dict[str, str]]:
    """Return what S3 keeps of uploads that were begun and not ended."""
    client = server.client()
    try:
        answer = client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{store.uri.removeprefix(f's3://{BUCKET}/')}/")
        return list(answer.get("Uploads", []))
    finally:
        client.close()


@pytest.mark.slow
def test_many_keys_are_listed_page_by_page(store: S3Store) -> None:
    threads = [
        threading.Thread(target=lambda part=part: [store.put(f"log/{n:05d}", b"") for n in range(part, 1200, 8)])
        for part in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(store.list("log/")) == [f"log/{number:05d}" for number in range(1200)]
    assert list(store.list("log/", after="log/00050")) == [f"log/{number:05d}" for number in range(51, 1200)]


_CHILD = """
import os, pickle, sys
from registry.s3_store import S3Store
store = S3Store(sys.argv[1], pickle.loads(bytes.fromhex(sys.argv[2])))
store.put("parent", b"1")
pid = os.fork()
if pid == 0:
    assert store.get("parent") == b"1"
    store.put("child", b"2")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert store.get("child") == b"2"
"""


def test_works_in_a_process_that_was_forked(s3_server: SeaweedServer, place: str) -> None:
    options = pickle.dumps(s3_server.options()).hex()
    subprocess.run([sys.executable, "-W", "ignore", "-c", _CHILD, place, options], check=True, timeout=60)


def test_keys_and_server_may_come_from_the_standard_chain(
    s3_server: SeaweedServer, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store = S3Store(place, S3(connect_timeout=4))
    store.create("key", b"data")
    assert store.get("key") == b"data"


# What a person has to mend


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store("s3://b/p", S3(endpoint_url="http://127.0.0.1:9", access_key_id="a", secret_access_key="b"))
    with pytest.raises(StorageError, match=r"cannot read 'p/key' at s3://b/p.*storage\.s3\.endpoint_url"):
        store.get("key")


def test_a_server_that_says_nothing_is_given_up(s3_server: SeaweedServer, place: str) -> None:
    options = s3_server.options().model_copy(update={"read_timeout": 0.5})
    store = S3Store(place, options)
    store.put("key", b"data")
    os.kill(s3_server.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        for call in (lambda: store.get("key"), lambda: store.create("new", b""), lambda: list(store.list())):
            with pytest.raises(StorageError):
                call()
        # Two time-outs each, and one look at what became of the write; not six.
        assert time.monotonic() - started < 8
    finally:
        os.kill(s3_server.pid, signal.SIGCONT)
    assert store.get("key") == b"data"


def test_wrong_credentials_are_told_without_the_secret(s3_server: SeaweedServer, place: str) -> None:
    right = s3_server.options()
    for changes, hint in (
        ({"secret_access_key": "not-the-secret"}, r"storage\.s3\.secret_access_key"),
        ({"access_key_id": "nobody"}, r"storage\.s3\.access_key_id"),
    ):
        store = S3Store(place, S3(**{**right.model_dump(), **changes}))
        with pytest.raises(StorageError, match=hint) as caught:
            store.create("key", b"data")
        assert "not-the-secret" not in f"{caught.value} {caught.value.context} {store._options!r}"
        assert not isinstance(caught.value, KeyExists)


def test_a_bucket_that_is_not_there_is_told(s3_server: SeaweedServer) -> None:
    store = S3Store("s3://no-such-bucket/p", s3_server.options())
    for call in (
        lambda: store.get("key"),
        lambda: store.open("key"),
        lambda: store.stat("key"),
        lambda: store.delete("key"),
        lambda: list(store.list()),
    ):
        with pytest.raises(StorageError, match="Create the bucket") as caught:
            call()
        assert not isinstance(caught.value, KeyNotFound)


def test_a_server_that_does_not_heed_conditions_is_refused(
    s3_server: SeaweedServer, faulty: FaultProxy, place: str
) -> None:
    def forget(method: str, path: str, headers: dict[str, str], body: bytes) -> dict[str, str]:
        """Sign the request anew, as if it had no condition."""
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        kept = {name: value for name, value in headers.items() if name.lower() in ("content-md5", "content-length")}
        request = AWSRequest(method, s3_server.endpoint_url + path, kept, body)
        S3SigV4Auth(Credentials(s3_server.access_key, s3_server.secret_key), "s3", "us-east-1").add_auth(request)
        return dict(request.headers)

    store = S3Store(place, s3_server.options(faulty.url))
    faulty.amend = forget
    store.put("key", b"old")
    with pytest.raises(ConfigurationError, match="does not heed If-None-Match"):
        store.create("key", b"new")
    faulty.amend = None
    assert store.get("key") == b"old"
    store.create("other", b"data")
    assert list(store.list()) == ["key", "other"]


@pytest.mark.parametrize("uri", ["s3://b/with space", "s3://b/a/../b", "s3://b/.hidden"])
def test_a_prefix_that_no_store_takes_is_named(uri: str) -> None:
    with pytest.raises(ConfigurationError, match=r"storage\.uri is 's3://b/"):
        S3Store(uri, S3())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"endpoint_url": "localhost:8333"}, "https"),
        ({"access_key_id": "a"}, "give both or neither"),
    ],
)
def test_options_that_cannot_be_right_are_refused(options: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        S3(**options)  # type: ignore[arg-type]


# A line that breaks


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_overcome(s3_server: SeaweedServer, faulty: FaultProxy, place: str, fault: Fault) -> None:
    store = S3Store(place, s3_server.options(faulty.url))
    seen: set[str] = set()

    def first_of_each_kind(method: str, path: str) -> Fault | None:
        kind = method + ("?" if "list-type" in path else "")
        if kind in seen:
            return None
        seen.add(kind)
        return fault

    store.create("before", b"data")
    for name, call in {
        "create": lambda: store.create("made", b"content of one writer"),
        "get": lambda: store.get("made"),
        "put": lambda: store.put("put", b"x" * 1000),
        "large": lambda: store.put("large", [bytes(PART), b"end"]),
        "open": lambda: store.open("large").read(),
        "stat": lambda: store.stat("large"),
        "list": lambda: list(store.list()),
        "delete": lambda: store.delete("put"),
    }.items():
        seen.clear()
        faulty.plan = first_of_each_kind
        call()
        faulty.plan = lambda _method, _path: None
        assert seen, name
    assert store.get("made") == b"content of one writer"
    assert store.stat("large").size == PART + 3


def test_a_server_that_stays_busy_is_an_error_that_tells_what_may_have_happened(
    s3_server: SeaweedServer, faulty: FaultProxy, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.s3_client.TRIES", 2)
    store = S3Store(place, s3_server.options(faulty.url))
    store.create("before", b"data")
    faulty.plan = lambda method, _path: "busy" if method == "PUT" else None
    with pytest.raises(StorageError, match=r"SlowDown.*may yet appear") as caught:
        store.create("key", b"data")
    assert caught.value.code == "storage-error"
    faulty.plan = lambda method, _path: "lie" if method == "PUT" else None
    store.create("other", b"data")  # it is there, whatever the server said


@pytest.mark.parametrize("seed", range(4))
def test_of_racing_creators_behind_a_bad_line_exactly_one_wins(
    s3_server: SeaweedServer, faulty: FaultProxy, place: str, seed: int
) -> None:
    chance, lock = random.Random(seed), threading.Lock()

    def now_and_then(_method: str, _path: str) -> Fault | None:
        with lock:
            return chance.choice(FAULTS) if chance.random() < 0.3 else None

    faulty.plan = now_and_then
    wins: dict[int, list[bytes]] = {key: [] for key in range(8)}
    unknown: list[tuple[int, bytes]] = []

    def race(writer: int) -> None:
        store = S3Store(place, s3_server.options(faulty.url))
        for key in wins:
            data = f"{writer} {os.urandom(8).hex()}".encode()
            try:
                store.create(f"race/{key}", data)
            except KeyExists:
                continue
            except StorageError:
                unknown.append((key, data))
                continue
            wins[key].append(data)

    threads = [threading.Thread(target=race, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    direct = S3Store(place, s3_server.options())
    for key, winners in wins.items():
        found = direct.get(f"race/{key}")
        assert winners in ([found], []), (seed, key)
        assert winners or (key, found) in unknown


# Memory

_TRANSFER = """
import hashlib, pickle, resource, sys
from pathlib import Path
from registry.s3_store import S3Store
store = S3Store(sys.argv[1], pickle.loads(bytes.fromhex(sys.argv[2])))
store.put("warm", b"")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
block, count = bytes(range(256)) * 4096, int(sys.argv[3])
sent = hashlib.sha256()
def blocks():
    for number in range(count):
        data = number.to_bytes(8, "big") + block[8:]
        sent.update(data)
        yield data
store.put("large", blocks())
got = hashlib.sha256()
with store.open("large") as file:
    while data := file.read(1 << 20):
        got.update(data)
assert got.digest() == sent.digest()
store.download("large", Path(sys.argv[4]))
print(sent.hexdigest(), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("mebibytes", [400, pytest.param(2048, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_memory_is_bounded_whatever_the_size(
    s3_server: SeaweedServer, place: str, tmp_path: Path, mebibytes: int
) -> None:
    options, target = pickle.dumps(s3_server.options()).hex(), tmp_path / "file"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _TRANSFER, place, options, str(mebibytes), str(target)],
        check=True, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    digest, grown = done.stdout.split()
    assert int(grown) < 300
    assert target.stat().st_size == mebibytes << 20
    with target.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest
    S3Store(place, s3_server.options()).delete("large")
