"""Estimators that were fitted on a table, scored on a matrix: making the table costs more than most models do.

scikit-learn checks the names of a table's columns against those it was fitted on, for which each request would make a
DataFrame: 300 microseconds, where a logistic regression takes 70 and a row of a forest 30. A copy of the estimator that
has no names takes the matrix; it is used only where it says what the estimator says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.signature import Column

logger = logging.getLogger(__name__)

_ROWS = 64


def unnamed(
    estimator: Any, columns: Sequence[Column], table: Callable[[NDArray[Any]], Any]
) -> tuple[Any, NDArray[np.intp]] | None:
    """Return a copy that takes a matrix, or None when it would not say the same.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Fitted on a table; it shares what it learnt with the copy.
    columns : sequence of Column
        Of the signature, none of them a category.
    table : callable
        Makes the table for the estimator of a matrix with these columns.

    Returns
    -------
    tuple of estimator and ndarray of int, or None
        The copy, and which columns of the signature its matrix has, in order.
    """
    places = {column.name: place for place, column in enumerate(columns)}
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(_ROWS, len(columns)))
    for place, column in enumerate(columns):
        if column.dtype in ("int", "bool"):
            rows[:, place] = rng.integers(0, 2 if column.dtype == "bool" else 10, _ROWS)
    try:
        order = np.array([places[name] for name in estimator.feature_names_in_])
        found = _without_names(estimator, {})
        for ask in ("predict", "predict_proba"):
            if hasattr(estimator, ask):
                expected, given = getattr(estimator, ask)(table(rows)), getattr(found, ask)(rows[:, order])
                if not np.array_equal(expected, given):
                    raise ValueError(f"{ask} differs")  # noqa: TRY301  (one place says why)
    except Exception as error:  # noqa: BLE001  (columns chosen by name, a step that wants a table, whatever else)
        logger.info("event=names_kept model=%s reason=%r", type(estimator).__name__, str(error)[:200])
        return None
    return found, order


def _without_names(value: Any, known: dict[int, Any]) -> Any:
    """Copy an estimator, and those it is made of, but for the names; all else is shared."""
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_without_names(each, known) for each in value)
    ours = type(value).__module__.startswith("sklearn.") and not isinstance(value, dict)
    if not ours or not hasattr(value, "__dict__"):
        return value
    if "_sklearn_output_config" in vars(value):
        raise ValueError("a step gives tables")  # with names, which the next would find strange
    if id(value) not in known:
        known[id(value)] = plain = object.__new__(type(value))
        for name, each in vars(value).items():
            if name != "feature_names_in_":
                vars(plain)[name] = _without_names(each, known)
    return known[id(value)]
