"""Uploads, in pieces of any size, and what is left of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from compute.errors import BadRequest, ComputeError, InvalidField, PayloadTooLarge, StorageError
from deployments.spool import sweep
from deployments.uploads import receive_upload


def _receive(
    chunks: Iterable[bytes], content_type: str, query: bytes = b""
) -> tuple[bytes, dict[str, list[str]], Path]:
    """What arrives: the file, the fields, and where the file lay."""

    async def main() -> tuple[bytes, dict[str, list[str]], Path]:
        messages = itertools.chain(
            ({"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks),
            [{"type": "http.request", "body": b"", "more_body": False}],
        )

        async def receive() -> Any:
            return next(messages)

        headers = [(b"content-type", content_type.encode("latin-1"))]
        scope = {"type": "http", "method": "POST", "query_string": query, "headers": headers}
        async with receive_upload(Request(scope, receive)) as upload:
            content = upload.path.read_bytes()
            assert upload.size == len(content)
            return content, upload.fields, upload.path

    return asyncio.run(main())


def _encode(**options: Any) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://x", **options)
    return request.read(), request.headers["content-type"]


@settings(deadline=None)
@given(
    content=st.binary(max_size=3000),
    fields=st.dictionaries(st.sampled_from(["name", "tags", "x"]), st.text(max_size=20), max_size=3),
    cuts=st.lists(st.integers(0, 4000), max_size=20),
)
def test_what_was_sent_arrives_however_it_is_cut(content: bytes, fields: dict[str, str], cuts: list[int]) -> None:
    body, content_type = _encode(files={"file": ("../../etc/passwd", content)}, data=fields)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    arrived, names, path = _receive([body[start:end] for start, end in itertools.pairwise(edges)], content_type)
    assert arrived == content
    assert names == {name: [value] for name, value in fields.items()}
    assert "passwd" not in path.name
    assert not path.exists()


def test_a_file_larger_than_a_piece_arrives_whole() -> None:
    content = bytes(range(256)) * 20_000
    body, content_type = _encode(files={"file": ("model.ubj", content)}, data={"name": "large"})
    chunks = [body[start : start + 65536] for start in range(0, len(body), 65536)]
    arrived, fields, _ = _receive(chunks, content_type)
    assert arrived == content
    assert fields == {"name": ["large"]}


def test_a_body_cut_short_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    body, content_type = _encode(files={"file": ("model", b"x" * 100)})
    for end in (0, 10, len(body) // 2, len(body) - 8):
        with pytest.raises(BadRequest):
            _receive([body[:end]], content_type)
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_is_the_file_arrives_with_the_fields_of_the_query() -> None:
    arrived, fields, path = _receive([b"a", b"bc"], "application/octet-stream", b"name=x&tags=a&tags=b%2Cc")
    assert (arrived, fields) == (b"abc", {"name": ["x"], "tags": ["a", "b,c"]})
    assert not path.exists()


def test_what_a_killed_process_left_is_removed_and_what_another_uses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = (
        "import sys, time\n"
        "from deployments.spool import spooled_file\n"
        "with spooled_file() as file:\n"
        "    file.write(b'part of a model'); file.flush()\n"
        "    print(file.name, flush=True); time.sleep(60)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        os.utime(left, (0, 0))  # older than one that is just being made
        sweep()
        assert left.exists()
        process.kill()
    assert left.exists()
    sweep()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_as_such() -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    body, content_type = _encode(files={"file": ("model", b"x" * 5_000_000)})
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="does not fit"):
            _receive([body], content_type)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def _part(name: str, value: str, extra: str = "") -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n{value}\r\n'


_FILE = _part("file", "x", '; filename="m"')


@pytest.mark.parametrize(
    ("body", "content_type", "error"),
    [
        ("{}", "application/json", BadRequest),
        ("", "", BadRequest),
        (_FILE + "--b--\r\n", "multipart/form-data", BadRequest),
        (_FILE + "--b--\r\n", "multipart/form-data; boundary=", BadRequest),
        (_FILE + "--b--\r\n", f"multipart/form-data; boundary={'b' * 300}", BadRequest),
        (_FILE + "--b--\r\n", "multipart/mixed; boundary=b", BadRequest),
        ("--b--\r\n", "multipart/form-data; boundary=b", ComputeError),
        ("garbage", "multipart/form-data; boundary=b", BadRequest),
        (_part("name", "x") + "--b--\r\n", "multipart/form-data; boundary=b", InvalidField),
        (_FILE + _FILE + "--b--\r\n", "multipart/form-data; boundary=b", InvalidField),
        (_FILE + _part("x", "x", '; filename="m"') + "--b--\r\n", "multipart/form-data; boundary=b", InvalidField),
        ("--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", BadRequest),
        ("--b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", BadRequest),
        (_FILE + _part("x", "y") * 40 + "--b--\r\n", "multipart/form-data; boundary=b", BadRequest),
        (_part("name", "x" * (2**20 + 1)) + _FILE + "--b--", "multipart/form-data; boundary=b", PayloadTooLarge),
        (
            f"--b\r\nContent-Disposition: form-data; name=file\r\nX: {'y' * 20_000}\r\n\r\nx\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
            BadRequest,
        ),
    ],
)
def test_every_other_form_is_refused(body: str, content_type: str, error: type[ComputeError]) -> None:
    with pytest.raises(error):
        _receive([body.encode()], content_type)


def test_text_that_is_not_utf8_is_refused() -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\r\n' + _FILE.encode() + b"--b--\r\n"
    with pytest.raises(InvalidField):
        _receive([body], "multipart/form-data; boundary=b")
