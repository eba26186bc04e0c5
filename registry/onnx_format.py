"""ONNX files: graphs of operators that an interpreter runs. What reaches beyond the file, or beyond ONNX, is refused.

onnx and onnxruntime are imported when a model of theirs is met.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compute.errors import UnsupportedFormat
from registry.onnx_model import OnnxModel

if TYPE_CHECKING:
    import onnx

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
_MAX_BYTES = 2**31 - 1
"""What protobuf can hold in one message; larger models have weights in other files, which are not taken."""
_MAX_DEPTH = 16
_HINT = "Save a whole model: onnx.save(model, 'model.onnx', save_as_external_data=False)."
_VARINT, _LENGTH = 0, 2
# The fields of onnx.ModelProto (onnx.proto3), with how each is written.
_FIELDS = {1: _VARINT, 5: _VARINT} | dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), _LENGTH)
_IR_VERSION, _GRAPH = 1, 7
_MAX_IR_VERSION = 1_000


def is_onnx(head: bytes) -> bool:
    r"""Tell from the first bytes of a file whether it is an ONNX model; such files have no signature.

    They are a protobuf message that begins with the version of the format; what follows has to be fields that the
    message has, up to the graph or the end of what is here.

    Examples
    --------
    >>> is_onnx(b"\x08\x08\x12\x08skl2onnx\x3a\x90\x01..."), is_onnx(b"\x08\x08 is no model")
    (True, False)
    """
    position, seen = 0, 0
    while position < len(head):
        tag, position = _varint(head, position)
        field, kind = tag >> 3, tag & 7
        if _FIELDS.get(field) != kind or (not seen and field != _IR_VERSION):
            return False
        seen += 1
        if field == _GRAPH:
            return True
        value, position = _varint(head, position)
        if value < 0:
            return seen > 1
        if field == _IR_VERSION and not 1 <= value <= _MAX_IR_VERSION:
            return False
        if kind == _LENGTH:
            position += value
    return seen > 1 and position > len(head)  # a long description comes before the graph


def dump_onnx(model: Any, path: Path) -> None:
    """Write a model; the same model gives the same bytes.

    Raises
    ------
    UnsupportedFormat
        When it is larger than one file can be.
    """
    if model.ByteSize() > _MAX_BYTES:
        raise _too_large(model.ByteSize())
    path.write_bytes(model.SerializeToString(deterministic=True))


def load_onnx(path: Path, threads: int | None = None) -> OnnxModel:
    """Return the model, checked.

    Raises
    ------
    UnsupportedFormat
        When it is not whole, needs other files or operators, or is no function from rows to predictions.
    """
    import onnxruntime
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    if (size := path.stat().st_size) > _MAX_BYTES:
        raise _too_large(size)
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UnsupportedFormat(f"the file is not a whole ONNX model: {error!s:.200}", hint=_HINT) from error
    _check(model)
    try:
        classes = find_classes(model)
    except ValueError as error:
        raise UnsupportedFormat(f"the labels of the ONNX model cannot be read: {error!s:.200}", hint=_HINT) from error
    del model  # the session reads the file by itself
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # its errors have no class in common
        raise UnsupportedFormat(f"the ONNX model cannot be run: {error!s:.300}", hint=_HINT) from error
    return OnnxModel(session, classes)


def find_classes(model: onnx.ModelProto) -> tuple[int | str, ...] | None:
    """Return the labels that a classifier gives, in the order of its probabilities; None when it does not say.

    Converters write them to the operator that classifies, or to a constant that the best position is looked up in.
    """
    found: list[tuple[int | str, ...]] = []
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("classlabels_ints", "classlabels_int64s"):
                found.append(tuple(attribute.ints))
            elif attribute.name == "classlabels_strings":
                found.append(tuple(value.decode() for value in attribute.strings))
        if node.op_type == "ArrayFeatureExtractor" and node.input and node.input[0] in constants:
            found.append(_labels(constants[node.input[0]]))
    return next((classes for classes in reversed(found) if len(set(classes)) == len(classes) > 1), None)


def _labels(tensor: onnx.TensorProto) -> tuple[int | str, ...]:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.STRING:
        return tuple(value.decode() for value in tensor.string_data)
    if tensor.data_type in (TensorProto.INT32, TensorProto.INT64):
        return tuple(numpy_helper.to_array(tensor).ravel().tolist())
    return ()


def _check(model: onnx.ModelProto) -> None:
    if not model.graph.node or not model.graph.output:
        raise UnsupportedFormat("the file is not a whole ONNX model: it has no graph", hint=_HINT)
    if model.functions:
        raise UnsupportedFormat(
            "the ONNX model has functions of its own", hint="Inline them: onnx.inliner.inline_local_functions(model)."
        )
    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.domain not in _DOMAINS:
                raise UnsupportedFormat(
                    f"the ONNX model needs the operator {node.op_type[:80]!r} of {node.domain[:80]!r}",
                    hint="Only the operators of ONNX itself are run: ai.onnx and ai.onnx.ml.",
                    context={"domain": node.domain[:80], "operator": node.op_type[:80]},
                )
        for tensor in _tensors(graph):
            if tensor.external_data or tensor.data_location == tensor.EXTERNAL:
                raise UnsupportedFormat(
                    f"the ONNX model keeps {tensor.name[:80]!r} in another file, which is not read", hint=_HINT
                )


def _graphs(root: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Give the graph and those inside its operators, such as the body of a loop."""
    pending = [(root, 0)]
    while pending:
        graph, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise UnsupportedFormat(f"the graphs of the ONNX model nest more than {_MAX_DEPTH} deep")
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                inner = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
                pending.extend((each, depth + 1) for each in inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a number as protobuf writes it; -1 when the bytes end within it."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            return -1, position
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    return -1, position


def _too_large(size: int) -> UnsupportedFormat:
    return UnsupportedFormat(f"the ONNX model has {size:,} bytes, more than the {_MAX_BYTES:,} that one file can have")
