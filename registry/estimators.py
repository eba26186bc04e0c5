"""Estimators of scikit-learn, asked: labels as the signature has them, and errors that name the value."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from compute.errors import CapabilityMissing, ColumnInvalid
from registry.signature import Label, Signature


def ask(estimator: Any, table: Any, classes: tuple[Label, ...] | None, *, proba: bool) -> NDArray[Any]:
    """Return the labels, the numbers or the probabilities that an estimator gives.

    Raises
    ------
    CapabilityMissing
        When it has no probabilities.
    """
    if proba:
        if not hasattr(estimator, "predict_proba"):
            raise CapabilityMissing(
                f"a {type(estimator).__name__} gives no probabilities",
                hint="Leave proba out, or train it so that it does (CalibratedClassifierCV).",
            )
        return cast("NDArray[Any]", estimator.predict_proba(table))
    found = cast("NDArray[Any]", estimator.predict(table))
    if classes is None:
        return found
    known = getattr(estimator, "classes_", None)
    if known is None:
        return found
    # The estimator may have been fitted on labels or on their positions: both are in the same order.
    return label_array(classes)[np.searchsorted(known, found)]


def label_array(classes: tuple[Label, ...]) -> NDArray[Any]:
    """Return labels as an array that positions are looked up in."""
    return np.array(classes, dtype=object if isinstance(classes[0], str) else None)


def set_jobs(estimator: Any, threads: int) -> None:
    """Give forests their threads, and all else one: most of scikit-learn would start processes, which takes seconds."""
    from sklearn.ensemble._forest import BaseForest

    params = estimator.get_params()
    owners = {key: params.get(key.removesuffix("__n_jobs"), estimator) for key in params if key.endswith("n_jobs")}
    estimator.set_params(**{key: threads if isinstance(owner, BaseForest) else 1 for key, owner in owners.items()})


def blamed(matrix: NDArray[Any], signature: Signature | None, error: ValueError) -> Exception:
    """Return an error that names the value which an estimator refuses; the same when there is no such value."""
    columns = signature.columns if signature is not None else None
    refused = ~(np.abs(matrix) <= np.finfo("float32").max)  # nor is NaN
    for row, place in zip(*np.nonzero(refused), strict=True):
        if columns is None or columns[place].categories is None:  # those that are not known have no number
            feature, value = columns[place].name if columns is not None else str(place), matrix[row, place]
            what = "is missing" if math.isnan(value) else f"is {value:g}"
            return ColumnInvalid(
                f"the feature {feature!r} {what} in row {row}, which the model does not take: {error!s:.200}",
                hint="Leave such rows out, or train a model that takes them: a pipeline with an imputer.",
                context={"feature": feature, "row": int(row)},
            )
    return error
