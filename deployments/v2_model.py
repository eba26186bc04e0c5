"""A registered model as the Open Inference Protocol V2 sees it: which tensors it takes and gives; no HTTP in here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compute.errors import ColumnInvalid, ColumnMissing, InvalidField
from deployments.v2_tensors import DTYPES, Tensor, Values
from registry import encode_columns

if TYPE_CHECKING:
    from registry import LoadedModel, ModelRecord, Signature

PREDICT = "predict"
PROBA = "predict_proba"
MATRIX = "input"
"""The name under which the one tensor of a model without feature names is described; any other does as well."""

_DATATYPES = {"int": "INT64", "float": "FP64", "bool": "BOOL", "category": "BYTES", "datetime": "BYTES"}
_LABELS = {"b": "BOOL", "i": "INT64", "f": "FP64"}


def describe(model: LoadedModel, versions: Sequence[int]) -> dict[str, Any]:
    """Return the metadata of a model: one input for each feature, as the training data had them.

    Parameters
    ----------
    model : LoadedModel
        Its record and what it can give.
    versions : sequence of int
        All that there are of its name.
    """
    record = model.record
    signature = record.signature
    if signature is None:
        inputs = [{"name": MATRIX, "datatype": "FP64", "shape": [-1, -1]}]
    else:
        inputs = [
            {"name": column.name, "datatype": _DATATYPES[column.dtype], "shape": [-1]} for column in signature.columns
        ]
    outputs: list[dict[str, Any]] = [{"name": PREDICT, "datatype": _label_type(model), "shape": [-1]}]
    if model.gives_probabilities and signature is not None and signature.classes is not None:
        outputs.append({"name": PROBA, "datatype": _score_type(record), "shape": [-1, len(signature.classes)]})
    return {
        "name": record.name,
        "versions": [str(version) for version in versions],
        "platform": f"{record.model_type}_{record.format}",
        "inputs": inputs,
        "outputs": outputs,
    }


def to_rows(inputs: dict[str, Tensor], model: LoadedModel) -> NDArray[Any] | list[dict[str, Any]]:
    """Return the matrix that a model takes: of a tensor for each feature, or of one for all where all are numbers.

    An estimator that takes texts gets them as they are, known or not: rows by the names of the features.

    Raises
    ------
    ColumnMissing, ColumnInvalid, InvalidField
        Naming the feature, or the tensor.
    """
    signature = model.record.signature
    if len(inputs) == 1:
        tensor = next(iter(inputs.values()))
        if signature is None or (len(tensor.shape) == 2 and tensor.name not in model.feature_names):
            return _one_matrix(tensor, signature, model)
    if signature is None:
        raise InvalidField(
            f"this model knows no feature names, and there are {len(inputs)} inputs",
            hint="Send one input of the shape [rows, features].",
            context={"field": "inputs"},
        )
    columns: dict[str, Any] = {}
    rows: int | None = None
    for tensor in inputs.values():
        if len(tensor.shape) > 1 and tensor.shape[1:] != (1,):
            raise _misshapen(tensor, "Send one tensor of the shape [rows] for each feature, or one for all features.")
        if rows is not None and rows != tensor.shape[0]:
            raise _misshapen(tensor, f"The tensors before it have {rows} rows.")
        rows = tensor.shape[0]
        columns[tensor.name] = tensor.values
    unknown = next((name for name in columns if name not in model.feature_names), None)
    missing = next((name for name in signature.feature_names if name not in columns), None)
    if missing is not None:
        raise ColumnMissing(
            f"the feature {missing!r} is not among the inputs, which are {', '.join(map(repr, list(columns)[:20]))}",
            hint="Send a tensor for every feature; null, or NaN, where a value is not known.",
            context={"feature": missing},
        )
    if unknown is not None:
        raise InvalidField(
            f"the model has no feature {unknown[:80]!r}",
            hint=f"Its features are {', '.join(signature.feature_names[:40])}.",
            context={"tensor": unknown[:80]},
        )
    matrix = encode_columns(columns, signature, model.dtype)
    if not model.takes_texts:
        return matrix
    lists = [values.tolist() if isinstance(values, np.ndarray) else list(values) for values in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def to_outputs(
    model: LoadedModel, labels: NDArray[Any] | None, chances: NDArray[Any] | None, wanted: Sequence[str]
) -> list[Tensor]:
    """Return what a model answered as tensors, in the order that is wanted."""
    tensors = []
    for name in wanted:
        if name == PROBA:
            assert chances is not None  # it was asked for
            datatype = _score_type(model.record)
            values = np.ascontiguousarray(chances, dtype=DTYPES[datatype]).reshape(-1)
            tensors.append(Tensor(name, datatype, chances.shape, values))
        else:
            assert labels is not None
            datatype = _label_type(model)
            found: Values = (
                [str(label) for label in labels.tolist()]
                if datatype == "BYTES"
                else _cast(labels, datatype).reshape(-1)
            )
            tensors.append(Tensor(name, datatype, labels.shape, found))
    return tensors


def choose_outputs(model: LoadedModel, wanted: dict[str, bool] | None) -> list[str]:
    """Return the names of the outputs: those that were asked for, or all."""
    known = [PREDICT, PROBA] if model.gives_probabilities else [PREDICT]
    unknown = next((name for name in wanted or () if name not in known), None)
    if unknown is not None:
        raise InvalidField(
            f"the model has no output {unknown[:80]!r}",
            hint=f"It has {', '.join(known)}.",
            context={"field": "outputs"},
        )
    return known if wanted is None else list(wanted)


def _one_matrix(tensor: Tensor, signature: Signature | None, model: LoadedModel) -> NDArray[Any]:
    if len(tensor.shape) != 2 or (signature is not None and tensor.shape[1] != len(signature.columns)):
        wanted = "rows, features" if signature is None else f"rows, {len(signature.columns)}"
        raise _misshapen(tensor, f"Send it as [{wanted}].")
    if not model.takes_numbers or not isinstance(tensor.values, np.ndarray):
        columns = signature.columns if signature is not None else ()
        named = next((column.name for column in columns if column.dtype in ("category", "datetime")), None)
        raise ColumnInvalid(
            f"the tensor {tensor.name[:80]!r} cannot be the matrix"
            + (f": the feature {named!r} is no number" if named is not None else ", which takes numbers"),
            hint="Send one tensor for each feature.",
            context={"tensor": tensor.name[:80]},
        )
    if tensor.values.dtype == model.dtype:
        matrix = tensor.values.reshape(tensor.shape)
    else:
        with np.errstate(over="ignore"):
            matrix = tensor.values.astype(model.dtype).reshape(tensor.shape)
    if np.isinf(matrix).any():
        row, index = (int(place[0]) for place in np.nonzero(np.isinf(matrix)))
        feature = signature.columns[index].name if signature is not None else str(index)
        raise ColumnInvalid(
            f"the feature {feature!r} is not a finite {model.dtype} in row {row}",
            hint="Send null, or NaN, where a value is not known.",
            context={"feature": feature, "row": row},
        )
    for index in model.flags:
        values = matrix[:, index]
        if not (np.isnan(values) | (values == 0) | (values == 1)).all():
            name = signature.columns[index].name if signature is not None else str(index)
            raise ColumnInvalid(f"the feature {name!r} is neither 0 nor 1 in some row", context={"feature": name})
    return matrix


def _cast(values: NDArray[Any], datatype: str) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=DTYPES[datatype])


def _score_type(record: ModelRecord) -> str:
    return "FP32" if record.format == "xgboost-ubj" else "FP64"


def _label_type(model: LoadedModel) -> str:
    signature = model.record.signature
    # Who was registered without a signature may know its labels itself.
    classes = signature.classes if signature is not None else getattr(model.model, "classes_", None)
    if classes is None:
        return _score_type(model.record)
    return _LABELS.get(np.asarray(classes).dtype.kind, "BYTES")


def _misshapen(tensor: Tensor, hint: str) -> InvalidField:
    return InvalidField(
        f"the tensor {tensor.name[:80]!r} has the shape {list(tensor.shape)}",
        hint=hint,
        context={"tensor": tensor.name[:80]},
    )
