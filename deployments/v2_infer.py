"""Requests and responses of the Open Inference Protocol V2, from bytes and to bytes; no HTTP and no models in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from compute.errors import BadRequest, InvalidField
from deployments.v2_tensors import Tensor, check_header, from_bytes, from_json, to_bytes

_BINARY_LEAF = "binary_data"


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What is asked: the inputs by name, and the outputs that are wanted, each with whether in binary; None for all.

    ``binary`` is the form of outputs that say nothing about it; ``parameters`` are those of the request as a whole.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, bool] | None
    id: str | None
    binary: bool
    parameters: Mapping[str, Any]


class InferBody(NamedTuple):
    """The bytes of a response; the length of its JSON, when tensors in binary follow."""

    body: bytes
    json_length: int | None


def read_request(body: bytes, json_length: str | None) -> InferRequest:
    """Return what a request asks for.

    Parameters
    ----------
    body : bytes
        JSON, then the tensors that are sent in binary, in the order of the inputs.
    json_length : str or None
        The header ``Inference-Header-Content-Length``.

    Raises
    ------
    BadRequest, InvalidField
        Naming the tensor.

    Examples
    --------
    >>> request = read_request(b'{"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [3]}]}', None)
    >>> request.inputs["x"].values
    array([3])
    """
    length = len(body) if json_length is None else _length(json_length, len(body))
    try:
        value = orjson.loads(memoryview(body)[:length])
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}", hint="Send JSON in UTF-8; NaN is null.") from None
    if not isinstance(value, dict):
        raise InvalidField("the body is not a JSON object", hint='Send {"inputs": [...]}.')
    inputs = _inputs(value.get("inputs"), memoryview(body)[length:])
    known = value.get("id")
    if known is not None and not isinstance(known, str):
        raise InvalidField(f"the id is {known!r:.80}", hint="An id is text.", context={"field": "id"})
    parameters = _parameters(value)
    binary = _flag(parameters, "binary_data_output", "the request")
    return InferRequest(inputs, wanted_outputs(value.get("outputs"), default=binary), known, binary, parameters)


def write_response(
    request: InferRequest,
    model: str,
    version: str,
    outputs: Sequence[Tensor],
    parameters: Mapping[str, str],
) -> InferBody:
    """Return the bytes of a response, with the tensors in binary that were asked for so."""
    described: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for tensor in outputs:
        entry: dict[str, Any] = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}
        if request.binary if request.outputs is None else request.outputs[tensor.name]:
            raw = to_bytes(tensor.datatype, tensor.values)
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            entry["data"] = tensor.values
        described.append(entry)
    answer: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        answer["id"] = request.id
    answer["parameters"] = parameters
    answer["outputs"] = described
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tail:
        return InferBody(head, None)
    return InferBody(b"".join([head, *tail]), len(head))


def _inputs(inputs: object, tail: memoryview) -> dict[str, Tensor]:
    if not isinstance(inputs, list) or not inputs:
        raise InvalidField(
            "the request has no inputs",
            hint='Send {"inputs": [{"name": ..., "shape": ..., "datatype": ..., "data": ...}]}.',
            context={"field": "inputs"},
        )
    tensors: dict[str, Tensor] = {}
    place = 0
    for entry in inputs:
        if not isinstance(entry, dict):
            raise InvalidField("an input is not a JSON object", context={"field": "inputs"})
        name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
        count = check_header(name, datatype, shape)
        assert isinstance(name, str)
        assert isinstance(datatype, str)
        assert isinstance(shape, list)
        if name in tensors:
            raise two_inputs(name)
        size = _parameters(entry).get("binary_data_size")
        if (size is None) == ("data" not in entry):
            raise InvalidField(
                f"the tensor {name[:80]!r} needs either data or binary_data_size",
                hint="The latter among its parameters, with the bytes after the JSON.",
                context={"tensor": name[:80]},
            )
        if size is None:
            values = from_json(name, datatype, shape, entry["data"])
        else:
            if type(size) is not int or not 0 <= size <= len(tail) - place:
                raise InvalidField(
                    f"the tensor {name[:80]!r} has the binary_data_size {size!r:.80}, "
                    f"and {len(tail) - place} bytes are left after the JSON",
                    hint="The header Inference-Header-Content-Length tells where they begin.",
                    context={"tensor": name[:80]},
                )
            values = from_bytes(name, datatype, count, tail[place : place + size])
            place += size
        tensors[name] = Tensor(name, datatype, tuple(shape), values)
    if place != len(tail):
        raise InvalidField(f"{len(tail) - place} bytes follow the last tensor", hint="See binary_data_size.")
    return tensors


def two_inputs(name: str) -> InvalidField:
    """Return the error of a request with two inputs of one name."""
    return InvalidField(f"there are two inputs named {name[:80]!r}", context={"tensor": name[:80]})


def wanted_outputs(outputs: object, *, default: bool) -> dict[str, bool] | None:
    """Return the outputs that a request names, each with whether in binary; None when it names none."""
    if outputs is None or outputs == []:
        return None
    if not isinstance(outputs, list):
        raise InvalidField("outputs is not a list", context={"field": "outputs"})
    wanted: dict[str, bool] = {}
    for entry in outputs:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name in wanted:
            raise InvalidField(
                f"outputs has {name!r:.80}, which is no name, or there twice",
                hint='Write [{"name": "predict"}].',
                context={"field": "outputs"},
            )
        parameters = _parameters(entry)
        wanted[name] = _flag(parameters, _BINARY_LEAF, name) if _BINARY_LEAF in parameters else default
    return wanted


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidField("parameters is not a JSON object", context={"field": "parameters"})
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, owner: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InvalidField(f"{name} of {owner[:80]} is {value!r:.80}, not true or false", context={"field": name})
    return value


def _length(text: str, size: int) -> int:
    if not text.isdecimal() or len(text) > 20 or int(text) > size:
        raise BadRequest(
            f"the header Inference-Header-Content-Length is {text[:40]!r}, and the body has {size} bytes",
            hint="It is the length of the JSON before the tensors.",
        )
    return int(text)
