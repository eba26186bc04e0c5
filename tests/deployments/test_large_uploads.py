"""A model of many gigabytes over HTTP: in and out, with the memory of each process on its way watched."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from compute import load_config
from deployments.models_app import ModelsAppArgs, build
from deployments.tokens import Role, TokenStore
from registry import open_store

GIB = 2**30
SIZE = 3 * GIB
"""Of a model that is registered: to try it takes a process of twice its size, which 10 GiB are too much for here."""
LARGER = 10 * GIB
"""Of a file that is no model."""
ALLOWED = 1100
"""MiB that a process on the way may take on top of what it has when idle, whatever the size of the file: four parts of
64 MiB at once, each held four times on its way through Serve."""
_CHUNK = 8 * 2**20


def _write_model(path: Path, size: int) -> str:
    """Write a linear model of so many bytes as skops does, without holding it; returns its digest."""
    import skops.io
    from sklearn.linear_model import LinearRegression

    count = size // 8
    model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    model.n_features_in_ = count
    model.coef_ = np.zeros(7)  # stands for the large one
    small = path.with_suffix(".small")
    skops.io.dump(model, small)
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for member in source.infolist():
            data = source.read(member)
            with target.open(member.filename, "w", force_zip64=True) as file:
                if b"(7,)" not in data[:128]:
                    file.write(data)
                    continue
                header = {"descr": "<f8", "fortran_order": False, "shape": (count,)}
                np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
                piece = np.random.default_rng(0).random(_CHUNK // 8).tobytes()
                for start in range(0, count * 8, _CHUNK):
                    file.write(piece[: count * 8 - start])
    small.unlink()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Watch:
    """The largest memory of processes, by what they are called, while it runs."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def peaks_mib(self) -> dict[str, int]:
        return {kind: peak >> 20 for kind, peak in self.peaks.items()}

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            for process in psutil.process_iter():
                try:
                    name = " ".join(process.cmdline())
                    kind = next(
                        (kind for kind in ("Proxy", "ServeReplica:large", "registry.trial") if kind in name), None
                    )
                    if kind is not None:
                        memory = process.memory_info()
                        used = memory.rss - memory.shared  # without the object store, which all share
                        self.peaks[kind] = max(self.peaks.get(kind, 0), used)
                except psutil.Error:
                    continue


@pytest.fixture
def large(serve: Any, models_url: str, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """An application that takes 12 GiB: its address, and a token."""
    file = tmp_path / "config.json"
    values = {"storage": {"uri": str(tmp_path / "state")}, "security": {"max_upload": "12g"}}
    file.write_text(json.dumps(values))
    config = load_config(file)
    token = TokenStore(open_store(config.storage.uri, config)).create("large", Role.ADMIN, None)
    serve.run(build(ModelsAppArgs(config_path=str(file))), name="large", route_prefix="/large")
    yield models_url.removesuffix("/models") + "/large", token.secret
    serve.delete("large")


class _Sender:
    """Sends pieces of a file as parts, four at a time."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        begun = http.post("/uploads").raise_for_status()
        self.path = begun.headers["location"].removeprefix("/large")
        self.size = begun.json()["max_part"]
        self.parts = 0

    def send(self, total: int, read: Callable[[int, int], bytes]) -> None:
        self.parts = -(-total // self.size)

        def send(part: int) -> None:
            data = read(part * self.size, min(self.size, total - part * self.size))
            digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
            headers = {"Content-Digest": f"sha-256=:{digest}:"}
            self._http.put(f"{self.path}/{part + 1}", content=data, headers=headers).raise_for_status()

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(send, range(self.parts)))


def _client(large: tuple[str, str]) -> httpx.Client:
    url, secret = large
    return httpx.Client(base_url=url, timeout=1200, headers={"Authorization": f"Bearer {secret}"})


def _idle(http: httpx.Client) -> dict[str, int]:
    http.get("/").raise_for_status()
    with _Watch() as watch:
        time.sleep(2)
    return watch.peaks_mib()


def _check(watch: _Watch, idle: dict[str, int], **figures: object) -> None:
    peaks = watch.peaks_mib()
    sys.stderr.write(json.dumps({**figures, "idle_mib": idle, "peaks_mib": peaks}) + "\n")
    for process in ("Proxy", "ServeReplica:large"):
        assert peaks[process] - idle[process] < ALLOWED, process


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_model_of_gigabytes_goes_in_and_comes_out(large: tuple[str, str], tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 5 * SIZE or psutil.virtual_memory().available < 3 * SIZE:
        pytest.skip("the machine has too little disk or memory")
    path = tmp_path / "model.skops"
    digest = _write_model(path, SIZE)

    def read(start: int, size: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)

    with _client(large) as http:
        idle = _idle(http)
        with _Watch() as watch:
            started = time.perf_counter()
            sender = _Sender(http)
            sender.send(path.stat().st_size, read)
            sent = time.perf_counter() - started
            fields = {"parts": sender.parts, "digest": f"sha256:{digest}", "model_type": "linear"}
            made = http.post(sender.path, json=fields)
        assert made.status_code == 201, made.text
        assert made.json()["artifact"]["size"] == path.stat().st_size
        _check(watch, idle, bytes=SIZE, sent=round(sent, 1), registered=round(time.perf_counter() - started, 1))

        found, started = hashlib.sha256(), time.perf_counter()
        with http.stream("GET", f"/{made.json()['model_id']}/artifact") as response:
            for piece in response.iter_raw():
                found.update(piece)
        sys.stderr.write(json.dumps({"downloaded": round(time.perf_counter() - started, 1)}) + "\n")
        assert found.hexdigest() == digest


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_gigabytes_go_through_in_bounded_memory(large: tuple[str, str], tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 3 * LARGER:
        pytest.skip("the machine has too little disk")
    noise = b"not a model" + np.random.default_rng(0).bytes(64 * 2**20)
    with _client(large) as http:
        idle = _idle(http)
        with _Watch() as watch:
            started = time.perf_counter()
            sender = _Sender(http)
            sender.send(LARGER, lambda start, size: noise[:size])
            sent = time.perf_counter() - started
            refused = http.post(sender.path, json={"parts": sender.parts, "model_type": "linear"})
        assert refused.status_code == 415, refused.text
        assert http.delete(sender.path).status_code == 204
        _check(watch, idle, bytes=LARGER, sent=round(sent, 1), refused=round(time.perf_counter() - started, 1))
