"""A model of many gigabytes over HTTP: in and out, with the memory of each process on its way watched."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
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
SIZE = int(float(os.environ.get("LARGE_UPLOAD_GIB", "10")) * GIB)
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
def large(serve: Any, models_url: str, tmp_path: Path) -> Iterator[tuple[str, str, Path]]:
    """An application that takes 12 GiB: its address, a token, and where it keeps its state."""
    file = tmp_path / "config.json"
    values = {"storage": {"uri": str(tmp_path / "state")}, "security": {"max_upload": "12g"}}
    file.write_text(json.dumps(values))
    config = load_config(file)
    token = TokenStore(open_store(config.storage.uri, config)).create("large", Role.ADMIN, None)
    serve.run(build(ModelsAppArgs(config_path=str(file))), name="large", route_prefix="/large")
    yield models_url.removesuffix("/models") + "/large", token.secret, tmp_path / "state"
    serve.delete("large")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_model_of_many_gigabytes_goes_in_and_comes_out(large: tuple[str, str, Path], tmp_path: Path) -> None:
    url, secret, _ = large
    if shutil.disk_usage(tmp_path).free < 4 * SIZE or psutil.virtual_memory().available < 2.5 * SIZE:
        pytest.skip("the machine has too little disk or memory; LARGE_UPLOAD_GIB says how large the model is")
    path = tmp_path / "model.skops"
    digest = _write_model(path, SIZE)
    size = path.stat().st_size

    def pieces() -> Iterator[bytes]:
        with path.open("rb") as file:
            while piece := file.read(2**20):
                yield piece

    authorization = {"Authorization": f"Bearer {secret}"}
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size),
        "Content-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:",
    }
    with httpx.Client(base_url=url, timeout=1200, headers=authorization) as http:
        http.get("/", timeout=60).raise_for_status()
        with _Watch() as idle:
            time.sleep(2)
        figures: dict[str, object] = {"bytes": size, "idle_mib": idle.peaks_mib()}
        with _Watch() as watch:
            started = time.perf_counter()
            answer = http.post("/upload", params={"model_type": "linear"}, content=pieces(), headers=headers)
        figures |= {"upload_seconds": round(time.perf_counter() - started, 1), "upload_mib": watch.peaks_mib()}
        assert answer.status_code == 201, answer.text
        assert answer.json()["artifact"] == {"digest": f"sha256:{digest}", "size": size, "generation": 0}

        found, started = hashlib.sha256(), time.perf_counter()
        with _Watch() as watch, http.stream("GET", f"/{answer.json()['model_id']}/artifact") as response:
            for piece in response.iter_raw():
                found.update(piece)
        figures |= {"download_seconds": round(time.perf_counter() - started, 1), "download_mib": watch.peaks_mib()}
    sys.stderr.write(json.dumps(figures) + "\n")
    assert found.hexdigest() == digest
