"""The models application over HTTP, as a client of it sees it."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from compute import Config
from deployments.models_api import RULES
from deployments.tokens import Role, TokenStore
from registry import ModelRegistry, Signature, capture_signature, encode, get_model_registry

FRAME = pd.DataFrame(
    {
        "distance": np.tile([200.0, 700.0, 1400.0, 2500.0], 50),
        "carrier": np.tile(["AA", "UA", "B6", "AA", "UA"], 40),
        "weekend": np.tile([True, False], 100),
        "day": pd.to_datetime("2013-01-01") + pd.to_timedelta(np.arange(200), unit="D"),
    }
)
ROWS: list[dict[str, Any]] = json.loads(FRAME.to_json(orient="records", date_format="iso"))
DELAY = FRAME["distance"] / 100 + (FRAME["carrier"] == "UA") * 30 + FRAME["weekend"] * 5


@pytest.fixture(scope="module")
def registry(ray_cluster: str, served_config: Config) -> ModelRegistry:
    return get_model_registry(served_config)


@pytest.fixture(scope="module")
def signature() -> Signature:
    return capture_signature(FRAME, target="delay", target_values=DELAY, task="regression")


def _booster(signature: Signature, rounds: int = 10) -> Any:
    import xgboost

    types = ["c" if column.dtype == "category" else "q" for column in signature.columns]
    names = [column.name for column in signature.columns]
    data = xgboost.DMatrix(
        encode(FRAME, signature), label=DELAY, feature_names=names, feature_types=types, enable_categorical=True
    )
    return xgboost.train({"max_depth": 3, "nthread": 1}, data, num_boost_round=rounds)


@pytest.fixture(scope="module")
def register(registry: ModelRegistry, signature: Signature) -> Callable[..., str]:
    """Registers a model of its own: `register(name, ...)`."""

    def make(name: str | None = None, rounds: int = 3, **options: Any) -> str:
        return registry.register_model(
            _booster(signature, rounds),
            "xgboost",
            name=name or f"model-{uuid.uuid4().hex[:8]}",
            signature=signature,
            **options,
        )

    return make


@pytest.fixture(scope="module")
def delays(register: Callable[..., str]) -> str:
    return register("delays", 10, tags=["flights"], metrics={"rmse": 1.5})


@pytest.fixture
def http(models_url: str, client: Callable[..., httpx.Client]) -> httpx.Client:
    return client(models_url)


def _problem(response: httpx.Response, status: int, **context: Any) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    for key, value in context.items():
        assert body["context"][key] == value
    return body


# Predictions


def test_predictions_are_those_of_the_model(http: httpx.Client, registry: ModelRegistry, delays: str) -> None:
    expected = registry.load_model(delays).predict(FRAME)
    for size in (1, 64, 65, 200):
        for body in (
            {"rows": ROWS[:size]},
            {"columns": {name: [row[name] for row in ROWS[:size]] for name in FRAME.columns}},
        ):
            response = http.post(f"/{delays}/predict", json=body)
            assert response.status_code == 200, response.text
            answer = response.json()
            assert np.array_equal(np.array(answer["predictions"], dtype=expected.dtype), expected[:size])
            assert (answer["model_id"], answer["name"], answer["version"]) == (delays, "delays", 1)


def test_a_model_is_named_by_id_name_version_or_alias(
    http: httpx.Client, registry: ModelRegistry, register: Callable[..., str]
) -> None:
    first, second = register("named", 2), register("named", 3)
    registry.set_alias("named", "stable", 1)
    for reference, model_id in [(first, first), ("named", second), ("named:1", first), ("named@stable", first)]:
        answer = http.post(f"/{reference}/predict", json={"rows": ROWS[:1]}).json()
        assert answer["model_id"] == model_id
    for reference in ("named:3", "named:x", "named@gone", "unnamed", "m-0", "named@", ":", "@", "%00", "a%0ab", "é"):
        _problem(http.post(f"/{reference}/predict", json={"rows": ROWS[:1]}), 404)


def test_a_moved_alias_takes_effect_within_a_second_and_no_request_fails(
    http: httpx.Client, registry: ModelRegistry, register: Callable[..., str]
) -> None:
    first, second = register("moved", 2), register("moved", 3)
    registry.set_alias("moved", "champion", 1)
    assert http.post("/moved/predict", json={"rows": ROWS[:1]}).json()["model_id"] == first
    registry.set_alias("moved", "champion", 2)
    moved = time.monotonic()
    while True:
        asked = time.monotonic()
        response = http.post("/moved/predict", json={"rows": ROWS[:1]})
        assert response.status_code == 200
        if response.json()["model_id"] == second:
            break
        assert asked - moved < 1.0
        time.sleep(0.01)


def test_a_model_that_an_alias_points_to_is_deleted_by_force_only(
    http: httpx.Client, registry: ModelRegistry, register: Callable[..., str]
) -> None:
    model_id = register("pointed")
    registry.set_alias("pointed", "champion", 1)
    _problem(http.delete(f"/{model_id}"), 409)
    assert http.delete(f"/{model_id}", params={"force": "true"}).status_code == 204
    _problem(http.post("/pointed/predict", json={"rows": ROWS[:1]}), 404)


def test_a_deleted_model_is_gone(http: httpx.Client, registry: ModelRegistry, register: Callable[..., str]) -> None:
    here, elsewhere = register(), register()
    for model_id in (here, elsewhere):
        assert http.post(f"/{model_id}/predict", json={"rows": ROWS[:1]}).status_code == 200
    assert http.delete(f"/{here}").status_code == 204
    _problem(http.post(f"/{here}/predict", json={"rows": ROWS[:1]}), 404)
    _problem(http.get(f"/{here}"), 404)
    _problem(http.delete(f"/{here}"), 404)
    registry.delete_model(elsewhere)
    time.sleep(1.0)
    _problem(http.post(f"/{elsewhere}/predict", json={"rows": ROWS[:1]}), 404)


@pytest.mark.parametrize("size", [2, 100])
@pytest.mark.parametrize(
    ("feature", "value"),
    [
        ("distance", "far"),
        ("distance", [1]),
        ("distance", {"x": 1}),
        ("distance", 10**400),
        ("weekend", "yes"),
        ("weekend", 2),
        ("day", "soon"),
        ("day", {}),
        ("carrier", []),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_row(
    http: httpx.Client, delays: str, feature: str, value: object, size: int
) -> None:
    rows = [*ROWS[: size - 1], {**ROWS[0], feature: value}]
    body = _problem(http.post(f"/{delays}/predict", json={"rows": rows}), 422, feature=feature, row=size - 1)
    assert feature in body["detail"]
    columns = {name: [row[name] for row in rows] for name in FRAME.columns}
    _problem(http.post(f"/{delays}/predict", json={"columns": columns}), 422, feature=feature, row=size - 1)


def test_a_missing_feature_is_named(http: httpx.Client, delays: str) -> None:
    short = {name: value for name, value in ROWS[0].items() if name != "carrier"}
    _problem(http.post(f"/{delays}/predict", json={"rows": [ROWS[0], short]}), 422, feature="carrier", row=1)
    columns = {name: [value] for name, value in short.items()}
    _problem(http.post(f"/{delays}/predict", json={"columns": columns}), 422, feature="carrier")


def test_unknown_categories_nulls_and_other_columns_are_scored(
    http: httpx.Client, registry: ModelRegistry, delays: str
) -> None:
    rows = [
        {**ROWS[0], "carrier": "never seen"},
        {**ROWS[0], "distance": None, "carrier": None},
        {**ROWS[0], "more": 1},
    ]
    answer = http.post(f"/{delays}/predict", json={"rows": rows}).json()
    expected = registry.load_model(delays).predict(rows)
    assert np.array_equal(np.array(answer["predictions"], dtype=expected.dtype), expected)


def test_no_rows_give_no_predictions(http: httpx.Client, delays: str) -> None:
    for body in ({"rows": []}, {"columns": {}}):
        assert http.post(f"/{delays}/predict", json=body).json()["predictions"] == []
    _problem(http.post("/nothing/predict", json={"rows": []}), 404)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"rows", 400),
        (b'{"rows": [', 400),
        (b'{"rows": [{"distance": NaN}]}', 400),
        (b"\x80", 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"rows": 1}', 422),
        (b'{"rows": [1]}', 422),
        (b'{"rows": [[1, 2, 3, 4]]}', 422),
        (b'{"rows": [null]}', 422),
        (b'{"columns": {"distance": [1], "carrier": []}}', 422),
    ],
)
def test_a_body_that_is_no_json_is_400_and_other_json_422(
    http: httpx.Client, delays: str, body: bytes, status: int
) -> None:
    for content_type in ("application/json", "text/plain", ""):
        response = http.post(f"/{delays}/predict", content=body, headers={"Content-Type": content_type})
        _problem(response, status)


def test_probabilities_of_a_classifier(http: httpx.Client, registry: ModelRegistry, delays: str) -> None:
    from sklearn.linear_model import LogisticRegression

    late = np.where(DELAY > 20, "late", "in time")
    features = FRAME[["distance", "weekend"]]
    signature = capture_signature(features, target="late", target_values=pd.Series(late))
    model = LogisticRegression().fit(encode(features, signature, "float64"), late)
    model_id = registry.register_model(model, "linear", name="late", signature=signature)
    loaded = registry.load_model(model_id)
    path = f"/{model_id}/predict"
    assert http.post(path, json={"rows": ROWS[:9]}).json()["predictions"] == list(loaded.predict(features[:9]))
    answer = http.post(path, params={"proba": "true"}, json={"rows": ROWS[:9]}).json()
    assert np.allclose(answer["predictions"], loaded.predict(features[:9], proba=True))
    assert answer["classes"] == ["in time", "late"]
    _problem(http.post(path, params={"proba": "perhaps"}, json={"rows": []}), 422)
    _problem(http.post("/delays/predict", params={"proba": "true"}, json={"rows": ROWS[:1]}), 422, field="proba")


def test_requests_at_once_for_many_models_are_all_answered_right(
    models_url: str, tokens: dict[Role, str], registry: ModelRegistry, register: Callable[..., str]
) -> None:
    ids = [register(rounds=rounds) for rounds in (1, 2, 4)]
    expected = {model_id: registry.load_model(model_id).predict(FRAME[:5]).tolist() for model_id in ids}

    def ask(index: int) -> bool:
        model_id = ids[index % len(ids)]
        response = http.post(f"/{model_id}/predict", json={"rows": ROWS[:5]})
        assert response.status_code == 200, response.text
        return bool(np.allclose(response.json()["predictions"], expected[model_id], rtol=1e-6))

    with (
        httpx.Client(base_url=models_url, headers={"Authorization": f"Bearer {tokens[Role.READ]}"}, timeout=30) as http,
        ThreadPoolExecutor(16) as threads,
    ):
        assert all(threads.map(ask, range(120)))


def test_the_body_limits_are_those_of_the_configuration(http: httpx.Client, delays: str) -> None:
    large = json.dumps({"rows": ROWS * 200}).encode()
    assert len(large) > 2**20
    _problem(http.post(f"/{delays}/predict", content=large), 413, limit=2**20)
    chunks = (large[start : start + 65536] for start in range(0, len(large), 65536))
    _problem(http.post(f"/{delays}/predict", content=chunks), 413, limit=2**20)
    assert http.post(f"/{delays}/predict", json={"rows": ROWS[:1]}).status_code == 200


# Records


def test_a_record_is_shown_with_its_revision(http: httpx.Client, registry: ModelRegistry, delays: str) -> None:
    response = http.get(f"/{delays}")
    assert response.json() == registry.get_model(delays).model_dump(mode="json")
    etag = response.headers["etag"]
    assert http.get("/delays").json()["model_id"] == delays
    assert http.get(f"/{delays}", headers={"If-None-Match": etag}).status_code == 304
    assert http.get(f"/{delays}", headers={"If-None-Match": '"0"'}).status_code == 200
    head = http.head(f"/{delays}")
    assert (head.status_code, head.headers["etag"], head.content) == (200, etag, b"")


def test_a_change_names_the_revision_it_was_made_on(http: httpx.Client, register: Callable[..., str]) -> None:
    path = f"/{register()}"
    etag = http.get(path).headers["etag"]
    changed = http.patch(path, json={"status": "deprecated", "metrics": {"rmse": 0.5}}, headers={"If-Match": etag})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["status"], changed.json()["metrics"]) == ("deprecated", {"rmse": 0.5})
    assert changed.headers["etag"] != etag
    for stale in (etag, '"999"', "W/" + changed.headers["etag"], "nonsense", ""):
        _problem(http.patch(path, json={"status": "active"}, headers={"If-Match": stale}), 412)
    assert http.get(path).json() == changed.json()
    for step, conditions in enumerate(("", "*", '"0", {}')):
        current = http.get(path).headers["etag"]
        headers = {"If-Match": conditions.format(current)} if conditions else {}
        answer = http.patch(path, json={"step": step}, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["metadata"]["step"] == step
    _problem(http.delete(path, headers={"If-Match": current}), 412)
    assert http.delete(path, headers={"If-Match": answer.headers["etag"]}).status_code == 204


def test_of_many_changes_on_one_revision_one_wins(
    models_url: str, tokens: dict[Role, str], register: Callable[..., str]
) -> None:
    path = f"/{register()}"
    headers = {"Authorization": f"Bearer {tokens[Role.WRITE]}"}
    with httpx.Client(base_url=models_url, headers=headers, timeout=30) as http, ThreadPoolExecutor(8) as threads:
        etag = http.get(path).headers["etag"]
        statuses = list(
            threads.map(
                lambda writer: http.patch(path, json={"writer": writer}, headers={"If-Match": etag}).status_code,
                range(8),
            )
        )
    assert sorted(statuses) == [200] + [412] * 7


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 422),
        (b'"x"', 422),
        (b'{"status": "finished"}', 422),
        (b'{"tags": "production"}', 422),
        (b'{"metrics": {"rmse": "small"}}', 422),
        (b'{"metrics": {"rmse": NaN}}', 400),
        (b'{"version": 7}', 409),
        (b'{"model_id": "m-1"}', 409),
        (b'{"artifact": {}}', 409),
    ],
)
def test_a_bad_change_changes_nothing(http: httpx.Client, delays: str, body: bytes, status: int) -> None:
    before = http.get(f"/{delays}").json()
    _problem(http.patch(f"/{delays}", content=body), status)
    assert http.get(f"/{delays}").json() == before


def test_models_are_listed_by_what_is_asked_for_page_by_page(http: httpx.Client, register: Callable[..., str]) -> None:
    name = f"listed-{uuid.uuid4().hex[:8]}"
    ids = [register(name, tags=["even" if index % 2 == 0 else "odd", "all"]) for index in range(5)]
    http.patch(f"/{ids[0]}", json={"status": "archived"})

    def listed(**query: Any) -> list[str]:
        response = http.get("/", params={"name": name, **query})
        assert response.status_code == 200, response.text
        return [model["model_id"] for model in response.json()["models"]]

    assert set(listed()) == set(ids)
    assert set(listed(tags="even")) == {ids[0], ids[2], ids[4]}
    assert set(listed(tags="even,all")) == set(listed(tags=["even", "all"])) == {ids[0], ids[2], ids[4]}
    assert set(listed(status="active", tags="even")) == {ids[2], ids[4]}
    assert listed(model_type="lightgbm") == []

    pages, cursor = [], None
    while True:
        body = http.get("/", params={"name": name, "limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        pages.append([model["model_id"] for model in body["models"]])
        cursor = body["next_cursor"]
        if cursor is None:
            break
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [model_id for page in pages for model_id in page] == listed()
    assert http.get("", params={"name": name}).status_code == 200  # `/models` is `/models/`


def test_models_are_searched(http: httpx.Client, register: Callable[..., str]) -> None:
    name = f"searched-{uuid.uuid4().hex[:8]}"
    ids = [register(name, metrics={"rmse": float(index)}) for index in range(3)]
    response = http.get("/search", params={"q": f"name = '{name}' and metrics.rmse > 0.5"})
    assert response.status_code == 200, response.text
    assert {model["model_id"] for model in response.json()["models"]} == set(ids[1:])
    body = http.get("/search", params={"q": f"name = '{name}'", "limit": 2}).json()
    rest = http.get("/search", params={"q": f"name = '{name}'", "limit": 2, "cursor": body["next_cursor"]}).json()
    assert {model["model_id"] for model in body["models"] + rest["models"]} == set(ids)
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    "query",
    [
        "/?limit=0",
        "/?limit=501",
        "/?limit=x",
        "/?status=finished",
        "/?cursor=nonsense",
        "/search?q=name%20%3D",
        "/search?q=%27",
        "/search?sort=nonsense%20sideways",
        "/search?limit=-1",
        "/search?cursor=nonsense",
    ],
)
def test_a_bad_query_is_422(http: httpx.Client, query: str) -> None:
    _problem(http.get(query), 422)


# Uploads


@pytest.fixture(scope="module")
def model_file(signature: Signature, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upload") / "model.ubj"
    _booster(signature).save_model(path)
    return path


def test_an_uploaded_model_is_registered_and_predicts(
    http: httpx.Client, model_file: Path, signature: Signature, registry: ModelRegistry
) -> None:
    fields = {
        "model_type": "xgboost",
        "name": "uploaded",
        "tags": "a, b",
        "metadata": '{"description": "by hand"}',
        "metrics": '{"rmse": 2}',
        "signature": signature.model_dump_json(),
    }
    with model_file.open("rb") as file:
        response = http.post("/upload", files={"file": ("../../evil.pkl", file)}, data=fields)
    assert response.status_code == 201, response.text
    record = response.json()
    assert (record["name"], record["tags"], record["metadata"]) == ("uploaded", ["a", "b"], {"description": "by hand"})
    assert response.headers["location"] == f"/models/{record['model_id']}"
    assert record["artifact"]["size"] == model_file.stat().st_size
    answer = http.post(f"/{record['model_id']}/predict", json={"rows": ROWS[:3]}).json()
    expected = registry.load_model("delays").predict(FRAME[:3])
    assert np.allclose(answer["predictions"], expected)


def test_an_upload_repeated_under_its_key_is_one_model(http: httpx.Client, model_file: Path) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    made = {
        http.post(
            "/upload",
            files={"file": model_file.read_bytes()},
            data={"model_type": "xgboost", "name": "once"},
            headers=headers,
        ).json()["model_id"]
        for _ in range(2)
    }
    assert len(made) == 1


class _Touch:
    """Leaves a mark on the disk when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def _pickles(mark: Path) -> Iterator[tuple[str, bytes]]:
    import cloudpickle
    import joblib

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"protocol {protocol}", pickle.dumps(_Touch(mark), protocol=protocol)
    yield "cloudpickle", cloudpickle.dumps(_Touch(mark))
    for compress in (0, ("zlib", 3), ("gzip", 3)):
        buffer = io.BytesIO()
        joblib.dump(_Touch(mark), buffer, compress=compress)
        yield f"joblib {compress}", buffer.getvalue()
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(_Touch(mark)))
    yield "zip", buffer.getvalue()


def test_pickles_are_refused_and_never_unpickled(http: httpx.Client, tmp_path: Path) -> None:
    mark = tmp_path / "unpickled"
    before = len(http.get("/", params={"limit": 500}).json()["models"])
    for kind, content in _pickles(mark):
        response = http.post("/upload", files={"file": ("model.ubj", content)}, data={"model_type": "xgboost"})
        assert response.status_code == 415, (kind, response.text)
        _problem(response, 415)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Touch(mark)))
    assert mark.exists()  # so it would have been seen
    assert len(http.get("/", params={"limit": 500}).json()["models"]) == before


@pytest.mark.parametrize("content", [b"", b"\0", b"not a model", b"{}", b"PK\3\4", b"{L\0\0\0\0\0\0\0\1"])
def test_what_is_no_model_is_refused(http: httpx.Client, content: bytes) -> None:
    response = http.post("/upload", files={"file": ("m", content)}, data={"model_type": "xgboost"})
    assert response.status_code in (415, 422), response.text


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model_type": ""},
        {"model_type": "xgboost", "metadata": "[]"},
        {"model_type": "xgboost", "metrics": '{"x": "y"}'},
        {"model_type": "xgboost", "signature": "{}"},
        {"model_type": "xgboost", "status": "active"},
        {"model_type": "xgboost", "name": "../../x"},
        {"model_type": "xgboost", "name": ["a", "b"]},
    ],
)
def test_bad_fields_of_an_upload_are_refused(http: httpx.Client, model_file: Path, fields: dict[str, Any]) -> None:
    with model_file.open("rb") as file:
        _problem(http.post("/upload", files={"file": file}, data=fields), 422)


def test_other_bodies_and_larger_files_are_refused(http: httpx.Client) -> None:
    _problem(http.post("/upload", json={"model_type": "xgboost"}), 400)
    _problem(http.post("/upload", content=b"--b--", headers={"Content-Type": "multipart/form-data"}), 400)
    too_large = {"file": ("m", b"\0" * (8 * 2**20 + 1))}
    _problem(http.post("/upload", files=too_large, data={"model_type": "xgboost"}), 413, limit=8 * 2**20)


# The door, as it stands in front of this application


def test_paths_that_lead_out_lead_nowhere(models_url: str, tokens: dict[Role, str]) -> None:
    host, port = models_url.removeprefix("http://").split("/")[0].split(":")
    import socket

    for path in (
        "/models/..%2f..%2fetc%2fpasswd",
        "/models/../../etc/passwd",
        "/models//etc/passwd",
        "/models/%2e%2e/%2e%2e/x",
        "/models/%00",
        "/models/a%00b",
        "/models/..",
        "/models/..\\..\\x",
        "/models/%ff",
        "/models//upload",
        "/modelsx/upload",
        "//models/",
        "/models/;x/predict",
    ):
        for token in (tokens[Role.READ], None):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                authorization = f"Authorization: Bearer {token}\r\n" if token else ""
                connection.sendall(
                    f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{authorization}Connection: close\r\n\r\n".encode()
                )
                status = int(connection.makefile("rb").readline().split()[1])
            assert status in ((404, 405, 422, 400) if token else (401, 404, 400)), (path, token is None, status)


def test_a_revoked_token_stops_working_in_a_running_replica(
    models_url: str, token_store: TokenStore, client: Callable[..., httpx.Client]
) -> None:
    new = token_store.create("short-lived", Role.READ, None)
    nobody = client(models_url, None)
    headers = {"Authorization": f"Bearer {new.secret}"}
    assert nobody.get("/", headers=headers).status_code == 200
    token_store.revoke(new.record.id)
    revoked = time.monotonic()
    while nobody.get("/", headers=headers).status_code != 401:
        assert time.monotonic() - revoked < 2
        time.sleep(0.02)


def test_the_documentation_works_behind_the_prefix(models_url: str, client: Callable[..., httpx.Client]) -> None:
    nobody = client(models_url, None)
    assert 'fetch("openapi.json")' in nobody.get("/docs").text
    schema = nobody.get("/openapi.json").json()
    assert schema["servers"][0]["url"] == "/models"
    routes = {path for _, path in RULES} | {"/health"}
    assert routes == schema["paths"].keys()
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            success = next(code for code in operation["responses"] if code.startswith("2"))
            assert success == "204" or path == "/health" or operation["responses"][success]["content"], (method, path)
            body = operation.get("requestBody", {"content": {"": {"example": 1}}})
            assert any("example" in media for media in body["content"].values()), (method, path)
    assert nobody.get("/health").json() == {"status": "ok"}


# Handles


def test_another_program_predicts_through_a_handle(
    models_url: str, ray_cluster: str, registry: ModelRegistry, delays: str
) -> None:
    program = f"""
        import json, warnings, ray
        ray.init(address={ray_cluster!r}, namespace="another", log_to_driver=False)
        from ray import serve
        from compute.errors import ColumnMissing
        models = serve.get_app_handle("models")
        answer = models.predict.remote("delays", json.loads({json.dumps(json.dumps(ROWS[:3]))})).result(timeout_s=60)
        try:
            models.predict.remote("delays", [{{}}]).result(timeout_s=60)
        except ColumnMissing as error:
            answer["refused"] = error.cause.context["feature"]
        print(json.dumps(answer))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout.splitlines()[-1])
    assert np.allclose(answer["predictions"], registry.load_model(delays).predict(FRAME[:3]))
    assert (answer["model_id"], answer["refused"]) == (delays, "distance")


def test_a_slow_request_holds_up_no_other(http: httpx.Client, models_url: str, tokens: dict[Role, str]) -> None:
    """A client that sends its body drop by drop occupies nobody but itself."""
    release = threading.Event()

    def drops() -> Iterator[bytes]:
        yield b'{"rows": '
        release.wait(20)
        yield b"[]}"

    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(
            httpx.post,
            f"{models_url}/delays/predict",
            content=drops(),
            headers={"Authorization": f"Bearer {tokens[Role.READ]}"},
            timeout=30,
        )
        for _ in range(5):
            assert http.post("/delays/predict", json={"rows": ROWS[:1]}, timeout=5).status_code == 200
        assert not slow.done()
        release.set()
        assert slow.result().json()["predictions"] == []
