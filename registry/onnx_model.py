"""An ONNX model as an estimator: it takes a matrix, or a table of named features, and predicts.

onnxruntime is imported by the time a model is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compute.errors import CapabilityMissing, ColumnInvalid, UnsupportedFormat
from registry.signature import Column, Signature

_NUMBERS = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(bool)": "bool",
}  # fmt: skip
_TEXT = "tensor(string)"
_MAX_COLUMNS = 10_000
_LABELS = ("tensor(int64)", "tensor(int32)", "tensor(bool)", _TEXT)


@dataclass(frozen=True)
class _Input:
    """One tensor that the model takes: some of the features."""

    name: str
    kind: str
    width: int
    flat: bool


class OnnxModel:
    """A model that `onnxruntime` runs, with the interface of scikit-learn's estimators.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Its inputs are one tensor of shape (rows, features), or several of (rows, 1) or (rows,), one for each feature;
        its outputs are a label, probabilities (a tensor, or a sequence of maps), or a number.
    classes : tuple, optional
        The labels, in the order of the probabilities.

    Attributes
    ----------
    session : onnxruntime.InferenceSession
        What runs it.
    classes_ : tuple or None
        The labels; None for a regression.
    """

    def __init__(self, session: Any, classes: tuple[int | str, ...] | None = None) -> None:
        self.session = session
        self._inputs = [_read_input(value, len(session.get_inputs())) for value in session.get_inputs()]
        outputs = session.get_outputs()
        self._label = next((value.name for value in outputs if value.type in _LABELS), None)
        self._scores = next(
            (v.name for v in outputs if v.type.startswith("seq(map(") or _NUMBERS.get(v.type, "").startswith("float")),
            None,
        )
        if self._label is None and (self._scores is None or outputs[0].type.startswith("seq(")):
            kinds = ", ".join(value.type for value in outputs)
            raise UnsupportedFormat(f"the ONNX model gives no predictions: its outputs are {kinds:.200}")
        self.classes_ = classes if self._label is not None else None

    @property
    def n_features_in_(self) -> int:
        """Number of features."""
        return sum(value.width for value in self._inputs)

    @cached_property
    def feature_names_in_(self) -> tuple[str, ...] | None:
        """Names of the features, when there are several tensors or texts; None for a matrix of numbers."""
        if len(self._inputs) == 1 and self._inputs[0].kind != _TEXT:
            return None
        return tuple(column.name for column in self._columns)

    def signature(self, task: Any, classes: Any) -> Signature | None:
        """Describe what it takes, as far as it says: texts have no known categories, and nothing is null but floats.

        None when it takes more than 10,000 features, or two would have one name: it takes a matrix then.
        """
        if self.n_features_in_ > _MAX_COLUMNS or len({column.name for column in self._columns}) < len(self._columns):
            return None
        return Signature(columns=tuple(self._columns), task=task, classes=classes)

    def predict(self, table: Any) -> NDArray[Any]:
        """Return the label or the number of each row.

        Parameters
        ----------
        table : ndarray of shape (rows, features), or DataFrame with the features by name
        """
        name = self._label if self._label is not None else self._scores
        found: NDArray[Any] = np.asarray(self._run(name, table))
        return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found

    def predict_proba(self, table: Any) -> NDArray[np.float64]:
        """Return the probability of each class, in the order of `classes_`.

        Raises
        ------
        CapabilityMissing
            When the model gives none.
        """
        if self._label is None or self._scores is None:
            raise self._no_probabilities()
        scores = self._run(self._scores, table)
        if isinstance(scores, list):
            order = self.classes_ if self.classes_ is not None else tuple(sorted(scores[0]))
            scores = [[row[label] for label in order] for row in scores]
        chances = np.asarray(scores, dtype="float64").reshape(len(scores), -1)
        if chances.shape[1] == 1:  # of the second class
            chances = np.hstack([1 - chances, chances])
        if np.isnan(chances).any():
            row = int(np.nonzero(np.isnan(chances).any(axis=1))[0][0])
            raise ColumnInvalid(
                f"the ONNX model has no number for row {row}: a value is missing there, or too large for its type",
                hint="Leave such rows out.",
                context={"row": row},
            )
        if not np.allclose(chances.sum(axis=1), 1, atol=1e-3):
            raise self._no_probabilities()
        return chances

    def try_out(self) -> None:
        """Predict two rows of zeros and empty texts, to see that the model gives two predictions.

        Raises
        ------
        UnsupportedFormat
            When it does not.
        """
        feed: dict[str, Any] = {
            each.name: _shaped(np.full((2, each.width), "" if each.kind == _TEXT else 0, dtype=object), each)
            for each in self._inputs
        }
        try:
            outputs = self.session.run([self._label if self._label is not None else self._scores], feed)
        except Exception as error:  # its errors have no class in common
            if "alloc" in str(error):
                raise UnsupportedFormat(f"the ONNX model takes too much memory: {error!s:.300}") from error
            return  # the rows were made up: it may refuse an empty text
        if len(outputs[0]) != 2:
            raise UnsupportedFormat(
                f"the ONNX model gives {len(outputs[0])} predictions for 2 rows",
                hint="Leave the number of rows open when you export it.",
            )

    @cached_property
    def _columns(self) -> list[Column]:
        columns = []
        for each in self._inputs:
            names = [each.name] if each.width == 1 else [f"{each.name}_{number}" for number in range(each.width)]
            for name in names:
                if each.kind == _TEXT:
                    columns.append(Column(name=name, dtype="category", categories=()))
                else:
                    kind = _NUMBERS[each.kind]
                    dtype: Any = "float" if kind.startswith("float") else "bool" if kind == "bool" else "int"
                    columns.append(Column(name=name, dtype=dtype, nullable=dtype == "float"))
        return columns

    def _run(self, output: str | None, table: Any) -> Any:
        feed, start = {}, 0
        named = not isinstance(table, np.ndarray)
        for each in self._inputs:
            if each.kind == _TEXT and not named:
                raise ColumnInvalid(
                    f"the ONNX model takes texts as {each.name!r}",
                    hint="Register it with a signature, and give raw rows.",
                )
            columns = [column.name for column in self._columns[start : start + each.width]]
            values = table[columns].to_numpy() if named else table[:, start : start + each.width]
            feed[each.name] = _shaped(_converted(values, each, columns), each)
            start += each.width
        return self.session.run([output], feed)[0]

    def _no_probabilities(self) -> CapabilityMissing:
        return CapabilityMissing(
            "the ONNX model gives no probabilities", hint="Leave proba out, or export it with probabilities."
        )


def _read_input(value: Any, inputs: int) -> _Input:
    if value.type not in _NUMBERS and value.type != _TEXT:
        raise UnsupportedFormat(
            f"the ONNX model takes {value.type:.80} as {value.name[:80]!r}",
            hint="Features are numbers, booleans or texts.",
        )
    shape = value.shape
    if not 1 <= len(shape) <= 2 or isinstance(shape[0], int):
        raise UnsupportedFormat(
            f"the ONNX model takes {value.name[:80]!r} in the shape {shape!s:.80}",
            hint="Export it for any number of rows: (None, features).",
        )
    width = 1 if len(shape) == 1 else shape[1]
    if not isinstance(width, int):
        if inputs == 1:
            raise UnsupportedFormat(
                f"the ONNX model does not say how many features it takes as {value.name[:80]!r}",
                hint="Export it with their number: (None, features).",
            )
        width = 1
    return _Input(value.name, value.type, width, flat=len(shape) == 1)


def _converted(values: NDArray[Any], each: _Input, names: list[str]) -> NDArray[Any]:
    """Return the values in the type of a tensor; what it cannot express is refused, never changed."""
    if each.kind == _TEXT:
        missing = np.array([[value is None or value != value for value in row] for row in values.tolist()])
        converted = values
        rule = "ONNX has no missing text"
    else:
        values = values.astype("float64")
        kind = np.dtype(_NUMBERS[each.kind])
        if kind.kind == "f":
            return values.astype(kind)
        with np.errstate(invalid="ignore"):
            converted = values.astype(kind)
            missing = converted != values
        rule = f"the ONNX model takes {kind} there"
    if missing.any():
        row, column = (int(place[0]) for place in np.nonzero(missing))
        raise ColumnInvalid(
            f"the feature {names[column]!r} has the value {values[row, column]!r:.80} in row {row}, and {rule}",
            hint="Fill it in before, or export the model for numbers with a decimal point.",
            context={"feature": names[column], "row": row},
        )
    return converted


def _shaped(values: NDArray[Any], each: _Input) -> NDArray[Any]:
    if each.kind != _TEXT:
        values = values.astype(_NUMBERS[each.kind], copy=False)
    return values[:, 0] if each.flat else np.ascontiguousarray(values)
