"""The Open Inference Protocol V2 over HTTP, as its clients see it: `tritonclient`, and plain requests."""

from __future__ import annotations

import importlib
import json
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from compute import Config
from deployments.inference_app import InferenceAppArgs, build
from deployments.tokens import Role
from jobs import train_model
from registry import ModelRegistry, get_model_registry

FRAME = pd.DataFrame(
    {
        "distance": np.tile([200.0, 700.0, 1400.0, 2500.0], 50),
        "seats": np.arange(200) % 7,
        "carrier": np.tile(["AA", "UA", "B6", "AA", "UA"], 40),
        "weekend": np.tile([True, False], 100),
        "day": pd.to_datetime("2013-01-01") + pd.to_timedelta(np.arange(200), unit="D"),
    }
)
DELAY = FRAME["distance"] / 100 + (FRAME["carrier"] == "UA") * 30 + FRAME["weekend"] * 5 + FRAME["seats"]
DATATYPES = {"distance": "FP64", "seats": "INT64", "carrier": "BYTES", "weekend": "BOOL", "day": "BYTES"}


@pytest.fixture(scope="module")
def registry(ray_cluster: str, served_config: Config) -> ModelRegistry:
    return get_model_registry(served_config)


@pytest.fixture(scope="module")
def trained(ray_cluster: str, served_config: Config) -> Callable[..., str]:
    """Trains a model of its own: `trained(model_type, target)`; gives its name."""

    def train(model_type: str = "xgboost", target: Any = DELAY, frame: pd.DataFrame = FRAME, **options: Any) -> str:
        name = options.pop("name", None) or f"{model_type}-{uuid.uuid4().hex[:8]}"
        params = {} if model_type == "linear" else {"n_estimators": 10}
        train_model(
            frame.assign(y=target), "y", model_type=model_type, name=name, model_params=params, config=served_config,
            distribute_data=False, **options,
        )  # fmt: skip
        return name

    return train


@pytest.fixture(scope="module")
def delays(trained: Callable[..., str]) -> str:
    return trained(name="v2-delays")


@pytest.fixture
def http(inference_url: str, client: Callable[..., httpx.Client]) -> httpx.Client:
    return client(inference_url)


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its own dependencies do on import
        return importlib.import_module("tritonclient.http")


def tensors(frame: pd.DataFrame) -> list[dict[str, Any]]:
    texts = frame.assign(day=frame["day"].dt.strftime("%Y-%m-%d")) if "day" in frame else frame
    return [
        {"name": name, "datatype": DATATYPES[name], "shape": [len(frame)], "data": texts[name].tolist()}
        for name in frame.columns
    ]


def outputs(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {output["name"]: output for output in answer["outputs"]}


def same(output: dict[str, Any], expected: Any) -> bool:
    return np.array_equal(np.array(output["data"], dtype=expected.dtype), expected)


def test_a_client_of_the_protocol_finds_and_asks_a_model(
    triton: ModuleType, inference_url: str, tokens: dict[Role, str], delays: str, registry: ModelRegistry
) -> None:
    headers = {"Authorization": f"Bearer {tokens[Role.READ]}"}
    with triton.InferenceServerClient(inference_url.removeprefix("http://").removesuffix("/v2")) as server:
        assert server.is_server_live()
        assert server.is_server_ready()
        assert "binary_tensor_data" in server.get_server_metadata(headers=headers)["extensions"]
        assert server.is_model_ready(delays, headers=headers)
        assert not server.is_model_ready("never-made", headers=headers)
        metadata = server.get_model_metadata(delays, headers=headers)
        assert {each["name"]: each["datatype"] for each in metadata["inputs"]} == DATATYPES
        assert metadata["versions"] == ["1"]
        assert metadata["outputs"] == [{"name": "predict", "datatype": "FP32", "shape": [-1]}]
        assert delays in {entry["name"] for entry in server.get_model_repository_index(headers=headers)}

        expected = registry.load_model(delays).predict(FRAME)
        for binary in (True, False):
            inputs = []
            for tensor in tensors(FRAME):
                asked = triton.InferInput(tensor["name"], tensor["shape"], tensor["datatype"])
                kinds = {"BYTES": object, "BOOL": bool, "INT64": "int64", "FP64": "float64"}
                asked.set_data_from_numpy(np.array(tensor["data"], dtype=kinds[tensor["datatype"]]), binary_data=binary)
                inputs.append(asked)
            wanted = [triton.InferRequestedOutput("predict", binary_data=binary)]
            # A copy of the headers: the client adds to them.
            answer = server.infer(delays, inputs, outputs=wanted, headers={**headers}, request_id="42")
            assert np.array_equal(answer.as_numpy("predict"), expected)
            assert answer.get_response()["id"] == "42"


@pytest.mark.parametrize("model_type", ["xgboost", "lightgbm", "random_forest", "linear"])
def test_classes_and_probabilities_are_those_of_the_model(
    http: httpx.Client, trained: Callable[..., str], registry: ModelRegistry, model_type: str
) -> None:
    name = trained(model_type, np.where(DELAY > 20, "late", np.where(DELAY > 10, "soon", "early")))
    model = registry.load_model(name, threads=1)
    for rows in (1, 64, 65, 200):
        answer = http.post(f"/models/{name}/infer", json={"inputs": tensors(FRAME.head(rows))})
        assert answer.status_code == 200, answer.text
        found = outputs(answer.json())
        assert found["predict"]["data"] == model.predict(FRAME.head(rows)).tolist()
        assert found["predict"]["datatype"] == "BYTES"
        chances = np.array(found["predict_proba"]["data"]).reshape(found["predict_proba"]["shape"])
        assert np.allclose(chances, model.predict(FRAME.head(rows), proba=True), atol=1e-6)
    only = http.post(
        f"/models/{name}/infer", json={"inputs": tensors(FRAME.head(1)), "outputs": [{"name": "predict_proba"}]}
    ).json()
    assert list(outputs(only)) == ["predict_proba"]
    described = http.get(f"/models/{name}").json()
    assert described["outputs"][1]["shape"] == [-1, 3]


def test_two_classes_of_numbers_are_numbers(http: httpx.Client, trained: Callable[..., str]) -> None:
    name = trained(target=(DELAY > 20).astype(int))
    found = outputs(http.post(f"/models/{name}/infer", json={"inputs": tensors(FRAME)}).json())
    assert found["predict"]["datatype"] == "INT64"
    assert set(found["predict"]["data"]) == {0, 1}
    flags = trained(target=DELAY > 20)
    found = outputs(http.post(f"/models/{flags}/infer", json={"inputs": tensors(FRAME)}).json())
    assert found["predict"]["datatype"] == "BOOL"
    assert set(found["predict"]["data"]) == {True, False}


def test_features_that_are_all_numbers_may_come_as_one_matrix(
    http: httpx.Client, trained: Callable[..., str], registry: ModelRegistry
) -> None:
    numbers = FRAME[["distance", "seats", "weekend"]]
    name = trained(frame=numbers)
    expected = registry.load_model(name).predict(numbers)
    matrix = numbers.to_numpy("float64")
    asked = {"name": "anything", "datatype": "FP64", "shape": list(matrix.shape)}
    for data in (matrix.tolist(), matrix.reshape(-1).tolist()):
        answer = http.post(f"/models/{name}/infer", json={"inputs": [{**asked, "data": data}]})
        assert same(outputs(answer.json())["predict"], expected)
    head = json.dumps({"inputs": [{**asked, "parameters": {"binary_data_size": matrix.nbytes}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = http.post(f"/models/{name}/infer", content=head + matrix.tobytes(), headers=headers)
    assert same(outputs(answer.json())["predict"], expected)
    columns = [{**each, "shape": [200, 1]} for each in tensors(numbers)]
    answer = http.post(f"/models/{name}/infer", json={"inputs": columns})
    assert same(outputs(answer.json())["predict"], expected)


def test_values_that_are_not_known_are_null(http: httpx.Client, delays: str, registry: ModelRegistry) -> None:
    frame = FRAME.head(3).assign(distance=[None, 700.0, None], carrier=["UA", None, "new"])
    expected = registry.load_model(delays).predict(frame)
    asked = tensors(FRAME.head(3))
    asked[0]["data"], asked[2]["data"] = [None, 700.0, None], ["UA", None, "new"]
    answer = http.post(f"/models/{delays}/infer", json={"inputs": asked})
    assert same(outputs(answer.json())["predict"], expected)


def test_a_version_is_a_number_or_an_alias_and_champion_goes_first(
    http: httpx.Client, trained: Callable[..., str], registry: ModelRegistry
) -> None:
    name = trained(name="v2-versions")
    trained(name=name)
    body = {"inputs": tensors(FRAME.head(1))}

    def version(path: str) -> str:
        answer = http.post(f"/models/{path}/infer", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_name"] == name
        found: str = answer.json()["model_version"]
        return found

    assert version(name) == "2"
    assert version(f"{name}/versions/1") == "1"
    registry.set_alias(name, "stable", 1)
    assert version(f"{name}/versions/stable") == version(f"{name}@stable") == "1"
    model_id = registry.resolve(f"{name}:1").model_id
    assert version(model_id) == "1"
    assert http.get(f"/models/{name}/versions/1").json()["versions"] == ["1", "2"]
    assert http.get(f"/models/{name}/versions/3/ready").status_code == 404


def test_nothing_is_sent_for_no_rows(http: httpx.Client, delays: str) -> None:
    answer = http.post(f"/models/{delays}/infer", json={"inputs": tensors(FRAME.head(0))}).json()
    assert outputs(answer)["predict"] == {"name": "predict", "shape": [0], "datatype": "FP32", "data": []}


def _with(number: int, **changes: Any) -> dict[str, Any]:
    inputs = tensors(FRAME.head(2))
    inputs[number] = {**inputs[number], **changes}
    return {"inputs": inputs}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no inputs"),
        (b'{"inputs": [{"name": "distance", "shape": [1], "datatype": "FP64", "data": [NaN]}]}', "NaN is null"),
        ({"inputs": tensors(FRAME.head(2))[1:]}, "'distance' is not among"),
        (_with(0, name="Distance"), "'distance' is not among"),
        ({"inputs": [*tensors(FRAME.head(2)), {**tensors(FRAME.head(2))[0], "name": "more"}]}, "no feature 'more'"),
        (_with(0, shape=[3]), "the shape [3] means 3"),
        (_with(0, shape=[1], data=[1.0]), "'seats' has the shape [2]"),
        (_with(0, datatype="fp64"), "the datatype 'fp64'"),
        (_with(0, datatype="BYTES", data=["far", "near"]), "'far' in row 0, where a number is needed"),
        (_with(2, datatype="INT64", data=[[1], [2], [3]]), "has 3 elements"),
        (_with(4, data=["2013-01-01", "soon"]), "'soon' in row 1"),
        (_with(0, data=[1e300, 1.0]), "a finite float32 is needed"),
        ({**_with(0), "outputs": [{"name": "predict_proba"}]}, "no output 'predict_proba'"),
        ({**_with(0), "id": 7}, "the id is 7"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(http: httpx.Client, delays: str, body: Any, said: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = http.post(f"/models/{delays}/infer", content=content)
    assert answer.status_code == 400, answer.text
    assert answer.json().keys() == {"error"}
    assert said in answer.json()["error"]


def test_every_refusal_has_the_shape_of_the_protocol(
    http: httpx.Client, inference_url: str, client: Callable[..., httpx.Client], delays: str
) -> None:
    body = {"inputs": tensors(FRAME.head(1))}
    path = f"/models/{delays}/infer"
    refusals = [
        (404, http.post("/models/never-made/infer", json=body)),
        (404, http.post(f"/models/{delays}/versions/9/infer", json=body)),
        (404, http.get("/nothing")),
        (405, http.get(path)),
        (401, client(inference_url, None).post(path, json=body)),
        (403, client(inference_url, "read").post(f"/repository/models/{delays}/load")),
        (413, http.post(path, content=b" " * 2**21)),
        (400, http.post(path, json=body, headers={"Inference-Header-Content-Length": "many"})),
        (400, http.post(path, json=body, headers={"X-Request-Timeout": "soon"})),
        (400, http.post(path, json=body, headers={"Content-Encoding": "gzip"})),
        (421, http.post(path, json=body, headers={"Host": "elsewhere.example"})),
    ]
    for status, answer in refusals:
        assert answer.status_code == status, answer.text
        assert answer.json().keys() == {"error"}, answer.text
        assert answer.json()["error"]


def test_models_are_loaded_and_let_go_by_the_repository_extension(
    http: httpx.Client, trained: Callable[..., str], registry: ModelRegistry
) -> None:
    name = trained()
    for action in ("load", "load", "unload", "unload"):
        assert http.post(f"/repository/models/{name}/{action}").status_code == 200
    assert http.post(f"/models/{name}/infer", json={"inputs": tensors(FRAME.head(1))}).status_code == 200
    assert http.post("/repository/models/never-made/load").status_code == 404
    registry.update_model_metadata(registry.resolve(name).model_id, {"status": "archived"})
    for body, there in ((None, True), ({}, True), ({"ready": True}, False)):
        index = http.post("/repository/index", json=body).json() if body is not None else http.post(
            "/repository/index"
        ).json()  # fmt: skip
        states = {entry["name"]: entry["state"] for entry in index}
        assert states.get(name) == ("UNAVAILABLE" if there else None)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_data_port_is_shared_by_replicas_and_no_request_is_lost_when_they_change(
    serve: Any, deploy: Callable[[str], str], tokens: dict[Role, str], delays: str, served_config_path: Any
) -> None:
    deploy("index")  # Serve itself
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    args = InferenceAppArgs(config_path=str(served_config_path), data_port=port, replicas=2, cpus=0.02)
    serve.run(build(args), name="direct", route_prefix="/direct")
    url, body = f"http://127.0.0.1:{port}/v2/models/{delays}/infer", {"inputs": tensors(FRAME.head(1))}
    headers = {"Authorization": f"Bearer {tokens[Role.READ]}"}
    refused = httpx.post(url, json=body)
    assert (refused.status_code, list(refused.json())) == (401, ["error"])
    assert refused.headers["x-request-id"]

    stop, statuses, lost = threading.Event(), [], []

    def ask() -> None:
        with httpx.Client(headers=headers, timeout=30) as client:
            while not stop.is_set():
                try:
                    statuses.append(client.post(url, json=body).status_code)
                except httpx.TransportError as error:  # a connection that was closed before the request was taken
                    lost.append(error)
                    time.sleep(0.01)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    serve.run(build(args.model_copy(update={"cache_models": 7})), name="direct", route_prefix="/direct")
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    assert len(statuses) > 50
    # What is left is what no server can help: a client that sends while its idle connection is being closed.
    assert len(lost) <= 2 * len(threads)
    serve.delete("direct")
    with pytest.raises(httpx.ConnectError):
        httpx.post(url, json=body, headers=headers)
