"""Requests and responses of the Open Inference Protocol V2 as gRPC messages; the rest of the server knows none.

The messages are made from a compiled description of ``open_inference.proto`` in a pool of their own: code that `protoc`
generates registers its names for the whole process, where they would clash with those of any client of the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from compute.errors import InvalidField
from deployments.v2_infer import InferRequest, two_inputs, wanted_outputs
from deployments.v2_service import Inferred
from deployments.v2_tensors import Tensor, check_header, from_bytes, from_json, to_bytes

COMPILED = Path(__file__).with_name("open_inference.binpb")
SERVICE = "inference.GRPCInferenceService"

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the elements of a datatype are, unless they come raw; FP16 always does."""


def message_classes() -> dict[str, type[Any]]:
    r"""Return the classes of the messages by their names.

    Examples
    --------
    >>> message_classes()["ServerLiveResponse"](live=True).SerializeToString()
    b'\x08\x01'
    """
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(COMPILED.read_bytes()).file:
        pool.Add(file)
    found = message_factory.GetMessageClassesForFiles(["open_inference.proto"], pool)
    return {name.removeprefix("inference."): kind for name, kind in found.items()}


def read_infer(message: Any) -> InferRequest:
    """Return what a ``ModelInferRequest`` asks for.

    Raises
    ------
    InvalidField
        Naming the tensor, with the texts of the REST form.
    """
    raw = message.raw_input_contents
    if not message.inputs:
        raise InvalidField("the request has no inputs", hint="Send one for each feature.", context={"field": "inputs"})
    if raw and len(raw) != len(message.inputs):
        raise InvalidField(
            f"there are {len(raw)} raw_input_contents for {len(message.inputs)} inputs",
            hint="Send all inputs raw, in their order, or none.",
            context={"field": "raw_input_contents"},
        )
    tensors: dict[str, Tensor] = {}
    for place, given in enumerate(message.inputs):
        name, datatype, shape = given.name, given.datatype, list(given.shape)
        count = check_header(name, datatype, shape)
        if name in tensors:
            raise two_inputs(name)
        if raw:
            if given.HasField("contents"):
                raise InvalidField(f"the tensor {name[:80]!r} comes twice: raw, and in contents")
            values = from_bytes(name, datatype, count, memoryview(raw[place]))
        else:
            values = from_json(name, datatype, shape, _contents(name, datatype, given.contents))
        tensors[name] = Tensor(name, datatype, tuple(shape), values)
    outputs = wanted_outputs([{"name": output.name} for output in message.outputs], default=bool(raw))
    return InferRequest(tensors, outputs, message.id or None, bool(raw), parameters(message.parameters))


def write_infer(request: InferRequest, answer: Inferred, kind: type[Any]) -> Any:
    """Return the ``ModelInferResponse``; raw when the request was, else with contents.

    Parameters
    ----------
    request : InferRequest
        What was asked.
    answer : Inferred
        What to say.
    kind : type
        The class of the message.
    """
    record, outputs = answer
    message = kind(model_name=record.name, model_version=str(record.version), id=request.id or "")
    message.parameters["model_id"].string_param = record.model_id
    for tensor in outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if request.binary:
            message.raw_output_contents.append(to_bytes(tensor.datatype, tensor.values))
            continue
        values = tensor.values.tolist() if isinstance(tensor.values, np.ndarray) else tensor.values
        if tensor.datatype == "BYTES":
            values = [str(value).encode() for value in values]
        getattr(output.contents, _CONTENTS[tensor.datatype]).extend(values)
    return message


def parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a message as plain values."""
    return {
        name: getattr(value, chosen)
        for name, value in given.items()
        if (chosen := value.WhichOneof("parameter_choice")) is not None
    }


def _contents(name: str, datatype: str, contents: Any) -> list[Any]:
    if datatype not in _CONTENTS:
        raise InvalidField(
            f"the tensor {name[:80]!r} of {datatype} has no raw contents",
            hint="That is the only form of this datatype over gRPC.",
            context={"tensor": name[:80]},
        )
    values = list(getattr(contents, _CONTENTS[datatype]))
    others = [field.name for field, _ in contents.ListFields() if field.name != _CONTENTS[datatype]]
    if others:
        raise InvalidField(
            f"the tensor {name[:80]!r} of {datatype} has its elements in {others[0]}",
            hint=f"They belong into {_CONTENTS[datatype]}.",
            context={"tensor": name[:80]},
        )
    if datatype != "BYTES":
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise InvalidField(f"the tensor {name[:80]!r} is not UTF-8", hint="Texts are UTF-8.") from None
