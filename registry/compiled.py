"""Linear models and neural networks of scikit-learn, with the scalers before them, compiled to ONNX.

A call of scikit-learn looks at its input for 50 to 200 microseconds and computes for one. ONNX Runtime takes 6, in
double precision. Only what is smooth is compiled: rows that are drawn at random would not find where the steps of
others differ. And only what is sure is answered: scikit-learn takes labels from the decision function, which tells
apart what has the same probability, and keeps the digits of the smallest ones. skl2onnx: https://onnx.ai/sklearn-onnx/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Score = Callable[[NDArray[Any]], NDArray[Any]]
SureScore = Callable[[NDArray[Any]], NDArray[Any] | None]
"""Returns None where it cannot vouch for what the library would say."""

_SMOOTH = ("sklearn.linear_model.", "sklearn.neural_network.", "sklearn.decomposition.")
_SCALERS = {"StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"}
_ROWS = 512
_LARGEST = 1e100
"""Beyond, something may overflow on the way, which scikit-learn refuses."""
_SMALLEST, _CLOSEST = 1e-6, 1e-9
"""A probability, and the gap between the two largest: below, digits are lost, and a label may be another."""
_CANCELLED = 1e-12
"""Of the largest answer: as exact as this is what a sum leaves that cancels."""


class Compiled(NamedTuple):
    """What scores as an estimator does, rows it is sure of, and how far off it may be where they come to nothing."""

    score: SureScore
    rows: NDArray[np.float64]
    least: float


def compile_smooth(estimator: Any, features: int, native: Score) -> Compiled | None:
    """Compile an estimator; None when it is of another kind.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Fitted on a matrix.
    features : int
        Columns of the matrix.
    native : callable
        Its ``predict``, or the ``predict_proba`` of a classifier.

    Raises
    ------
    Exception
        What the converter says to an estimator that it cannot convert; ValueError when it is never sure.
    """
    if not is_smooth(estimator):
        return None
    import onnxruntime
    from skl2onnx import to_onnx

    classifier = hasattr(estimator, "predict_proba")
    zipmap = {id(estimator): {"zipmap": False}} if classifier else None  # probabilities as an array, not as dicts
    graph = to_onnx(estimator, np.zeros((1, features)), options=zipmap)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # thousands of models have a session each
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (name,), output = [each.name for each in session.get_inputs()], session.get_outputs()[-1].name
    run = session.run

    def score(matrix: NDArray[Any]) -> NDArray[Any] | None:
        if not np.abs(matrix).max() <= _LARGEST:  # nor is NaN
            return None
        found: NDArray[Any] = run([output], {name: np.ascontiguousarray(matrix)})[0]
        if classifier:
            return found if _sure(found) else None
        return found.reshape(-1) if np.isfinite(found).all() else None

    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.integers(-3, 6, (_ROWS, 1))
    rows = rng.normal(size=(_ROWS, features)) * sizes
    rows = rows[[score(rows[place : place + 1]) is not None for place in range(_ROWS)]]
    if not len(rows):
        raise ValueError("it is never sure")
    least = 0.0 if classifier else _CANCELLED * float(np.abs(native(rows)).max())
    return Compiled(score, rows, least)


def _sure(chances: NDArray[Any]) -> bool:
    """Whether the labels and the digits of probabilities are those that scikit-learn has.

    Examples
    --------
    >>> _sure(np.array([[0.2, 0.8]])), _sure(np.array([[0.5, 0.5]])), _sure(np.array([[1e-9, 1 - 1e-9]]))
    (True, False, False)
    """
    if not chances.min() >= _SMALLEST:
        return False
    largest = np.sort(chances, axis=1)[:, -2:]
    return bool((largest[:, 1] - largest[:, 0]).min() >= _CLOSEST)


def is_smooth(estimator: Any) -> bool:
    """Whether what an estimator gives has no steps.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import KBinsDiscretizer, StandardScaler
    >>> is_smooth(make_pipeline(StandardScaler(), Ridge())), is_smooth(make_pipeline(KBinsDiscretizer(), Ridge()))
    (True, False)
    """
    kind = type(estimator)
    if kind.__module__ == "sklearn.pipeline" and hasattr(estimator, "steps"):
        return all(is_smooth(step) for _, step in estimator.steps)
    return kind.__module__.startswith(_SMOOTH) or (
        kind.__module__.startswith("sklearn.preprocessing.") and kind.__name__ in _SCALERS
    )
