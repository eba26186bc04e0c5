"""The Open Inference Protocol V2 over gRPC, as `tritonclient` sees it."""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import httpx
import numpy as np
import pandas as pd
import psutil
import pytest

from compute import Config
from deployments.access import PUBLIC
from deployments.grpc_port import methods
from deployments.inference_app import InferenceAppArgs, build
from deployments.tokens import Role
from deployments.v2_messages import COMPILED, SERVICE, message_classes
from jobs import train_model
from registry import ModelRegistry, get_model_registry, pick_arm

NUMBERS = {
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "UINT8": "uint8", "UINT16": "uint16",
    "UINT32": "uint32", "UINT64": "uint64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
FRAME = pd.DataFrame({"hours": np.arange(120.0) % 24, "kind": np.tile(["a", "b", "c"], 40)})


@pytest.fixture(scope="module")
def registry(ray_cluster: str, served_config: Config) -> ModelRegistry:
    return get_model_registry(served_config)


def _train(name: str, frame: pd.DataFrame, config: Config) -> None:
    train_model(frame, "y", name=name, model_params={"n_estimators": 5}, config=config, distribute_data=False)


@pytest.fixture(scope="module")
def model(registry: ModelRegistry, served_config: Config) -> str:
    name = f"grpc-{uuid.uuid4().hex[:8]}"
    late = np.where(FRAME["hours"] > 12, "late", "early")
    _train(name, FRAME.assign(y=late), served_config)
    return name


@pytest.fixture(scope="module")
def numeric(registry: ModelRegistry, served_config: Config) -> str:
    name = f"grpc-{uuid.uuid4().hex[:8]}"
    frame = pd.DataFrame({"u": np.arange(60.0) % 5, "v": np.arange(60.0) % 7})
    _train(name, frame.assign(y=frame["u"]), served_config)
    return name


@pytest.fixture(scope="module")
def port(serve: Any, deploy: Callable[[str], str], served_config_path: Path) -> Iterator[int]:
    """Where a replica of its own answers."""
    deploy("index")  # Serve itself
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    args = InferenceAppArgs(config_path=str(served_config_path), grpc_port=port, cpus=0.02)
    serve.run(build(args), name="grpc", route_prefix="/grpc")
    yield port
    serve.delete("grpc")


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its own dependencies do on import
        return importlib.import_module("tritonclient.grpc")


@pytest.fixture
def server(triton: ModuleType, port: int) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client


@pytest.fixture
def headers(tokens: dict[Role, str]) -> dict[str, str]:
    return {"authorization": f"Bearer {tokens[Role.WRITE]}"}


def _inputs(triton: ModuleType, frame: pd.DataFrame) -> list[Any]:
    hours = triton.InferInput("hours", [len(frame)], "FP64")
    hours.set_data_from_numpy(frame["hours"].to_numpy())
    kind = triton.InferInput("kind", [len(frame)], "BYTES")
    kind.set_data_from_numpy(frame["kind"].to_numpy(dtype=object))
    return [hours, kind]


def test_a_client_of_the_protocol_finds_and_asks_a_model(
    triton: ModuleType, server: Any, headers: dict[str, str], model: str, registry: ModelRegistry
) -> None:
    assert server.is_server_live()
    assert server.is_server_ready()
    assert "model_repository" in server.get_server_metadata(headers=headers).extensions
    assert server.is_model_ready(model, headers=headers)
    metadata = server.get_model_metadata(model, headers=headers)
    assert {each.name: each.datatype for each in metadata.inputs} == {"hours": "FP64", "kind": "BYTES"}
    assert [list(each.shape) for each in metadata.outputs] == [[-1], [-1, 2]]
    server.load_model(model, headers=headers)
    server.unload_model(model, headers=headers)
    assert model in {entry.name for entry in server.get_model_repository_index(headers=headers).models}

    loaded = registry.load_model(model)
    for version in ("", "1"):
        answer = server.infer(
            model, _inputs(triton, FRAME), model_version=version, headers=headers, request_id="42",
            outputs=[triton.InferRequestedOutput("predict_proba"), triton.InferRequestedOutput("predict")],
        )  # fmt: skip
        assert answer.get_response().id == "42"
        assert [output.name for output in answer.get_response().outputs] == ["predict_proba", "predict"]
        assert answer.as_numpy("predict").astype(str).tolist() == loaded.predict(FRAME).tolist()
        assert np.array_equal(answer.as_numpy("predict_proba"), loaded.predict(FRAME, proba=True))


def _stub(port: int, name: str) -> Any:
    """A method of the server, called with our own messages."""
    classes = message_classes()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    return channel.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=classes[f"{name}Request"].SerializeToString,
        response_deserializer=classes[f"{name}Response"].FromString,
    )


def _metadata(headers: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(headers.items())


@pytest.mark.parametrize("datatype", NUMBERS)
def test_numbers_of_every_datatype_come_raw_or_as_contents(
    port: int, headers: dict[str, str], numeric: str, registry: ModelRegistry, datatype: str
) -> None:
    values = np.array([[1, 2], [3, 4], [4, 6]], dtype=NUMBERS[datatype])
    expected = registry.load_model(numeric).predict(pd.DataFrame(values.astype("float64"), columns=["u", "v"]))
    request = message_classes()["ModelInferRequest"](model_name=numeric)
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[3, 2])
    request.raw_input_contents.append(values.tobytes())
    infer = _stub(port, "ModelInfer")
    answer = infer(request, metadata=_metadata(headers))
    assert np.array_equal(np.frombuffer(answer.raw_output_contents[0], "float32"), expected)
    assert answer.model_version == "1"

    del request.raw_input_contents[:]
    field = {"i": "int_contents", "u": "uint_contents"}.get(values.dtype.kind, "fp32_contents")
    field = {"INT64": "int64_contents", "UINT64": "uint64_contents", "FP64": "fp64_contents"}.get(datatype, field)
    getattr(tensor.contents, field).extend(values.reshape(-1).tolist())
    if datatype == "FP16":
        with pytest.raises(grpc.RpcError, match="no raw contents"):
            infer(request, metadata=_metadata(headers))
        return
    answer = infer(request, metadata=_metadata(headers))
    assert list(answer.outputs[0].contents.fp32_contents) == expected.tolist()
    assert not answer.raw_output_contents


def test_texts_and_flags_come_as_contents(
    port: int, headers: dict[str, str], model: str, registry: ModelRegistry
) -> None:
    request = message_classes()["ModelInferRequest"](model_name=model)
    request.inputs.add(name="hours", datatype="FP64", shape=[2]).contents.fp64_contents.extend([1.0, 23.0])
    kinds = request.inputs.add(name="kind", datatype="BYTES", shape=[2])
    kinds.contents.bytes_contents.extend([b"a", b"b"])
    answer = _stub(port, "ModelInfer")(request, metadata=_metadata(headers))
    assert list(answer.outputs[0].contents.bytes_contents) == [b"early", b"late"]
    assert len(answer.outputs[1].contents.fp32_contents) == 4
    kinds.contents.bytes_contents[0] = b"\xff"
    with pytest.raises(grpc.RpcError, match="not UTF-8") as refused:
        _stub(port, "ModelInfer")(request, metadata=_metadata(headers))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_refusal_has_the_text_of_the_rest_form_and_a_status(
    triton: ModuleType,
    server: Any,
    port: int,
    headers: dict[str, str],
    model: str,
    inference_url: str,
    client: Callable[..., httpx.Client],
) -> None:
    http = client(inference_url)
    known = FRAME.head(2)
    hours = {"name": "hours", "datatype": "FP64", "shape": [2], "data": [1.0, 2.0]}
    for name, version, inputs, body, code in (
        ("never-made", "", _inputs(triton, known), {"inputs": [hours]}, "StatusCode.NOT_FOUND"),
        (model, "7", _inputs(triton, known), {"inputs": [hours]}, "StatusCode.NOT_FOUND"),
        (model, "", _inputs(triton, known)[:1], {"inputs": [hours]}, "StatusCode.INVALID_ARGUMENT"),
    ):
        with pytest.raises(importlib.import_module("tritonclient.utils").InferenceServerException) as caught:
            server.infer(name, inputs, model_version=version, headers=headers)
        path = f"/models/{name}/versions/{version}/infer" if version else f"/models/{name}/infer"
        assert caught.value.message() == http.post(path, json=body).json()["error"]
        assert caught.value.status() == code

    request = message_classes()["ModelInferRequest"](model_name=model)
    for change, said in (
        (lambda: None, "no inputs"),
        (lambda: request.inputs.add(name="hours", datatype="FP128", shape=[1]), "datatype 'FP128'"),
        (lambda: request.inputs[0].MergeFrom(type(request.inputs[0])(datatype="FP64")), "does not"),
        (lambda: request.raw_input_contents.extend([b"1234", b""]), "2 raw_input_contents for 1 inputs"),
        (lambda: request.raw_input_contents.pop(), "has 4 bytes"),
    ):
        change()
        with pytest.raises(grpc.RpcError) as refused:
            _stub(port, "ModelInfer")(request, metadata=_metadata(headers))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, refused.value.details()
        assert said in refused.value.details() or said == "does not"


def test_every_method_asks_for_a_token_and_a_role(port: int, tokens: dict[Role, str]) -> None:
    served = methods(None)  # type: ignore[arg-type]  # none is called here
    public = {name for name, method in served.items() if method.needed == PUBLIC}
    assert public == {"ServerLive", "ServerReady"}
    for name, method in served.items():
        call, empty = _stub(port, name), message_classes()[f"{name}Request"]()
        if name in public:
            call(empty)
            continue
        for metadata in ((), (("authorization", f"Bearer tw_{'0' * 16}_{'A' * 43}"),), (("authorization", "x"),)):
            with pytest.raises(grpc.RpcError) as refused:
                call(empty, metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, name
            assert refused.value.initial_metadata() is not None
        for role in Role:
            if not role.covers(Role(method.needed)):
                with pytest.raises(grpc.RpcError) as refused:
                    call(empty, metadata=(("authorization", f"Bearer {tokens[role]}"),))
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED, (name, role)


def test_the_traffic_of_a_name_counts_here_as_well(
    triton: ModuleType, server: Any, headers: dict[str, str], model: str, registry: ModelRegistry, served_config: Config
) -> None:
    _train(model, FRAME.assign(y=np.where(FRAME["hours"] > 6, "late", "early")), served_config)
    registry.set_traffic(model, {"1": 1, "2": 1}, sticky="X-User-Id")
    time.sleep(1.0)
    try:
        for user in map(str, range(8)):
            arm = pick_arm(registry.traffic()[model].plan, model, user)  # type: ignore[arg-type]
            by_metadata = server.infer(model, _inputs(triton, FRAME), headers={**headers, "x-user-id": user})
            by_parameter = server.infer(
                model, _inputs(triton, FRAME), headers=headers, parameters={"X-User-Id": user}
            )  # fmt: skip
            assert by_metadata.get_response().model_version == by_parameter.get_response().model_version == arm
    finally:
        registry.set_traffic(model, None)


def test_it_listens_where_it_is_told_and_nowhere_else(port: int) -> None:
    listening = [each.laddr for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    found = {address.ip.removeprefix("::ffff:") for address in listening if address.port == port}
    assert found == {"127.0.0.1"}


def test_the_messages_are_those_of_other_clients(triton: ModuleType) -> None:
    theirs = triton.service_pb2.DESCRIPTOR.message_types_by_name
    for name, kind in message_classes().items():
        if "." in name:
            continue
        fields = {field.name: (field.number, field.type, field.is_repeated) for field in kind.DESCRIPTOR.fields}
        assert fields == {field.name: (field.number, field.type, field.is_repeated) for field in theirs[name].fields}, (
            name
        )


def test_what_is_compiled_is_what_is_written(tmp_path: Path) -> None:
    source = COMPILED.parent
    command = ["-m", "grpc_tools.protoc", f"-I{source}", f"--descriptor_set_out={tmp_path / 'out'}"]
    subprocess.run([sys.executable, *command, str(source / "open_inference.proto")], check=True)
    assert (tmp_path / "out").read_bytes() == COMPILED.read_bytes(), "run `make proto`"
