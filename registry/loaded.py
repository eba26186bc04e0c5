"""A model that was loaded: the native object, its record, and predictions on raw rows.

The libraries of the models are imported by the time a model is here.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from compute.errors import CapabilityMissing, ColumnInvalid
from registry.derive import objective
from registry.encoding import encode, read_texts
from registry.estimators import ask, blamed, label_array, set_jobs
from registry.few_rows import FewRows, few_rows
from registry.records import ModelRecord
from registry.unnamed import unnamed

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_BOOSTERS = ("xgboost-ubj", "lightgbm-text")
_MARGINS = ("multi:softmax", "binary:logitraw")  # they give labels or margins by themselves


class LoadedModel:
    """A model, ready to predict.

    Parameters
    ----------
    model : xgboost.Booster, lightgbm.Booster, scikit-learn estimator, OnnxModel, or of a custom format
        The native object.
    record : ModelRecord
        What is known about it.
    threads : int, optional
        Threads of one prediction; by default as many as the library likes.

    Attributes
    ----------
    model : object
        The native object.
    record : ModelRecord
        What is known about it.
    takes_numbers : bool
        Whether no feature is a category or a time, so that raw rows can be a matrix.
    takes_texts : bool
        Whether texts go to the native model as they are: it was fitted on a table, and knows their codes itself.
    flags : tuple of int
        Places of the features that are true or false.
    feature_names : frozenset of str
        Of the signature; empty without one.
    """

    def __init__(self, model: Any, record: ModelRecord, threads: int | None = None) -> None:
        self.model = model
        self.record = record
        self._threads = threads
        self._objective = objective(model)
        self._few_rows: FewRows | None = None
        self._unnamed: Any = None
        self._order: NDArray[np.intp] | None = None
        columns = record.signature.columns if record.signature is not None else ()
        self.takes_numbers = all(column.dtype not in ("category", "datetime") for column in columns)
        named = getattr(model, "feature_names_in_", None) is not None
        self.takes_texts = named and record.format not in _BOOSTERS and not self.takes_numbers
        self.feature_names = frozenset(column.name for column in columns)
        self.flags = tuple(place for place, column in enumerate(columns) if column.dtype == "bool")
        if record.format == "xgboost-ubj":
            if threads is not None:
                model.set_param({"nthread": threads})
            # Only the trees up to the best one, where training stopped early, as XGBoost's own estimators do.
            best = model.attr("best_iteration")
            self._iterations = (0, 0) if best is None else (0, int(best) + 1)
            self._in_place = json.loads(model.save_config())["learner"]["gradient_booster"]["name"] != "gblinear"
        elif record.format == "sklearn-skops" and threads is not None:
            set_jobs(model, threads)

    def with_record(self, record: ModelRecord) -> Self:
        """Return the same native model with another record of the same artifact; costs next to nothing."""
        other = copy.copy(self)
        other.record = record
        return other

    def with_few_rows(self) -> Self:
        """Return the same model, made ready for requests of few rows: see `registry.few_rows` and `registry.unnamed`.

        That takes tens of milliseconds, and changes no prediction.
        """
        signature = self.record.signature
        estimator = self.record.format == "sklearn-skops"
        if signature is None or not (estimator or self.record.format == "xgboost-ubj"):
            return self
        other, model, width, native = copy.copy(self), self.model, len(signature.columns), self._score
        if estimator:
            if getattr(model, "feature_names_in_", None) is not None:
                if not self.takes_numbers:
                    return self
                found = unnamed(model, signature.columns, lambda matrix: self._named(matrix, matrix))
                if found is None:
                    return self
                model, other._order = other._unnamed, _ = found
                width = len(other._order)
            if signature.classes is not None and not hasattr(model, "predict_proba"):
                return other
            native = model.predict if signature.classes is None else model.predict_proba
        other._few_rows = few_rows(
            model,
            native,
            width,
            None if estimator else self._iterations,
            margin=self._objective in _MARGINS,
        )
        return other

    def predict(
        self,
        rows: pd.DataFrame | pa.Table | Sequence[Mapping[str, Any]] | NDArray[Any],
        proba: bool = False,
    ) -> NDArray[Any]:
        """Predict from raw rows, as the training table had them.

        Parameters
        ----------
        rows : DataFrame, pyarrow.Table, list of dict, or ndarray of shape (rows, features)
            An array is taken for a matrix that is encoded already.
        proba : bool
            Give the probability of each class instead of the class.

        Returns
        -------
        ndarray, shape (rows,), or (rows, classes) with ``proba``
            Numbers of a regression; labels of a classification, classes in the order of the signature.

        Raises
        ------
        ColumnMissing, ColumnInvalid
            Naming the feature.
        CapabilityMissing
            When probabilities are asked of a model that has none.
        """
        labels, chances = self.answer(rows, labels=not proba, proba=proba)
        found = chances if proba else labels
        assert found is not None  # it was asked for
        return found

    def answer(
        self,
        rows: pd.DataFrame | pa.Table | Sequence[Mapping[str, Any]] | NDArray[Any],
        *,
        labels: bool = True,
        proba: bool = False,
    ) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Predict from raw rows: what `predict` gives without and with ``proba``, of one pass over the trees.

        Parameters
        ----------
        rows : DataFrame, pyarrow.Table, list of dict, or ndarray of shape (rows, features)
            As for `predict`.
        labels, proba : bool
            Which of the two are wanted.

        Returns
        -------
        tuple of ndarray or None
            Numbers or labels of shape (rows,), and probabilities of shape (rows, classes).

        Raises
        ------
        ColumnMissing, ColumnInvalid, CapabilityMissing
            As `predict`.
        """
        signature = self.record.signature
        classes = signature.classes if signature is not None else None
        if proba and classes is None:
            raise CapabilityMissing(
                f"{self.record.model_id} is a regression and has no probabilities", hint="Leave proba out."
            )
        if isinstance(rows, np.ndarray):
            matrix = rows = self._check_matrix(rows)
        else:
            if signature is None:
                raise CapabilityMissing(
                    f"{self.record.model_id} was registered without a signature and takes a matrix only",
                    hint="Register it with example=, a table as it was trained on.",
                )
            matrix = encode(rows, signature, self.dtype)
        if not len(matrix):
            none = np.empty(0, dtype=object if classes else "float64")
            return none if labels else None, np.empty((0, len(classes))) if proba and classes else None
        few = self._few_rows
        known = matrix if self._order is None else matrix[:, self._order]
        scores = few.score(known) if few is not None and len(matrix) <= few.most_rows else None
        if scores is None and self.record.format not in _BOOSTERS:
            estimator, table = (
                (self.model, self._named(matrix, rows)) if self._unnamed is None else (self._unnamed, known)
            )
            try:
                with np.errstate(over="ignore"):  # it refuses what it casts to infinity
                    return (
                        ask(estimator, table, classes, proba=False) if labels else None,
                        ask(estimator, table, classes, proba=True) if proba else None,
                    )
            except ValueError as error:
                raise blamed(matrix, signature, error) from error
        if scores is None:
            scores = self._score(matrix)
        if classes is None:
            return scores, None
        chances = _chances(scores, self._objective)
        found = None
        if labels:
            index: NDArray[np.int64] = (chances > 0.5).astype(int) if chances.ndim == 1 else chances.argmax(axis=1)
            found = label_array(classes)[index]
        if not proba:
            return found, None
        return found, np.column_stack([1 - chances, chances]) if chances.ndim == 1 else chances

    def read(self, rows: pd.DataFrame | pa.Table | Sequence[Mapping[str, Any]] | NDArray[Any]) -> Any:
        """Return rows as the other methods take them most readily: a matrix, unless texts go to an estimator as such.

        Parameters
        ----------
        rows : DataFrame, pyarrow.Table, list of dict, or ndarray of shape (rows, features)
            As for `predict`.

        Raises
        ------
        ColumnMissing, ColumnInvalid
            Naming the feature.
        """
        signature = self.record.signature
        if signature is None or isinstance(rows, np.ndarray) or self.takes_texts:
            return rows
        return encode(rows, signature, self.dtype)

    def explain(
        self, rows: pd.DataFrame | pa.Table | Sequence[Mapping[str, Any]] | NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what each feature contributed to each prediction: SHAP values, as the libraries compute them of trees.

        They are in the unit of the trees' sum, before the objective turns it into a probability; of several classes,
        those of the one that is predicted. Lundberg et al., Nature Machine Intelligence 2 (2020) 56.

        Parameters
        ----------
        rows : DataFrame, pyarrow.Table, list of dict, or ndarray of shape (rows, features)
            As for `predict`.

        Returns
        -------
        tuple of ndarray
            The contributions, of shape (rows, features), and the value without any, of shape (rows,); their sum is
            the margin.

        Raises
        ------
        CapabilityMissing
            When the model is neither XGBoost's nor LightGBM's.
        """
        signature = self.record.signature
        if self.record.format not in _BOOSTERS or signature is None:
            raise CapabilityMissing(
                f"{self.record.model_id} cannot be explained: only models of XGBoost and LightGBM with a signature can",
                hint="Leave explain out.",
            )
        matrix = self._check_matrix(rows) if isinstance(rows, np.ndarray) else encode(rows, signature, self.dtype)
        width = matrix.shape[1] + 1
        if self.record.format == "lightgbm-text":
            threads = {} if self._threads is None else {"num_threads": self._threads}
            found = np.asarray(self.model.predict(matrix, pred_contrib=True, **threads))
        else:
            import xgboost

            table = xgboost.DMatrix(
                matrix,
                feature_names=self.model.feature_names,
                feature_types=self.model.feature_types,
                enable_categorical=True,
                nthread=self._threads,
            )
            found = self.model.predict(table, pred_contribs=True, iteration_range=self._iterations)
        found = found.astype("float64").reshape(len(matrix), -1, width)
        found = found[np.arange(len(matrix)), found.sum(axis=2).argmax(axis=1)] if found.shape[1] > 1 else found[:, 0]
        return found[:, :-1], found[:, -1]

    @property
    def gives_probabilities(self) -> bool:
        """Whether `predict` takes ``proba``."""
        signature = self.record.signature
        if signature is None or signature.classes is None:
            return False
        return self.record.format in _BOOSTERS or hasattr(self.model, "predict_proba")

    @property
    def dtype(self) -> Literal["float32", "float64"]:
        """Of the matrix that the native model takes."""
        return "float32" if self.record.format == "xgboost-ubj" else "float64"

    def _check_matrix(self, matrix: NDArray[Any]) -> NDArray[Any]:
        signature = self.record.signature
        if matrix.ndim != 2 or (signature is not None and matrix.shape[1] != len(signature.columns)):
            wanted = f"(rows, {len(signature.columns)})" if signature is not None else "(rows, features)"
            raise ColumnInvalid(f"the matrix has the shape {matrix.shape}, not {wanted}", hint="One column a feature.")
        if matrix.dtype.kind not in "fiub":
            raise ColumnInvalid(f"the matrix holds {matrix.dtype}, not numbers", hint="Give raw rows as a DataFrame.")
        return matrix.astype(self.dtype, copy=False)

    def _score(self, matrix: NDArray[Any]) -> NDArray[Any]:
        if self.record.format == "lightgbm-text":
            threads = {} if self._threads is None else {"num_threads": self._threads}
            return cast("NDArray[Any]", self.model.predict(matrix, **threads))
        if self._in_place:
            scores = self.model.inplace_predict(
                matrix,
                iteration_range=self._iterations,
                predict_type="margin" if self._objective in _MARGINS else "value",
                validate_features=False,
            )
        else:
            import xgboost

            table = xgboost.DMatrix(matrix, feature_names=self.model.feature_names, nthread=self._threads)
            scores = self.model.predict(table, output_margin=self._objective in _MARGINS)
        return cast("NDArray[Any]", scores)

    def _named(self, matrix: NDArray[Any], rows: Any) -> Any:
        """Give an estimator that was fitted on a table a table: its names, and categories as text."""
        names = getattr(self.model, "feature_names_in_", None)
        signature = self.record.signature
        if names is None or signature is None:
            return matrix
        import pandas as pd

        frame = pd.DataFrame(matrix, columns=list(signature.feature_names))
        for position, column in enumerate(signature.columns):
            if column.categories is not None:
                texts = (
                    [None if math.isnan(code) else column.categories[int(code)] for code in matrix[:, position]]
                    if rows is matrix
                    else read_texts(rows, column)
                )
                frame[column.name] = pd.Series(texts, dtype="str")
        return frame[list(names)]


def _chances(scores: NDArray[Any], name: str) -> NDArray[Any]:
    if name == "binary:logitraw":
        return cast("NDArray[Any]", 1 / (1 + np.exp(-scores)))
    if name == "multi:softmax":
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return cast("NDArray[Any]", powers / powers.sum(axis=1, keepdims=True))
    return scores
