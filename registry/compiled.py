"""Linear models and neural networks of scikit-learn, with the scalers before them, compiled to ONNX.

A call of scikit-learn looks at its input for 50 to 200 microseconds and computes for one. ONNX Runtime takes 6, in
double precision. Only what is smooth is compiled: rows that are drawn at random would not find where the steps of
others differ. skl2onnx: https://onnx.ai/sklearn-onnx/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Score = Callable[[NDArray[Any]], NDArray[Any]]

_SMOOTH = ("sklearn.linear_model.", "sklearn.neural_network.", "sklearn.decomposition.")
_SCALERS = {"StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"}
_ROWS = 512


def compile_smooth(estimator: Any, features: int, native: Score) -> tuple[Score, NDArray[np.float64]] | None:
    """Return what scores as an estimator does, and rows to see it by; None when it is of another kind.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Fitted on a matrix.
    features : int
        Columns of the matrix.
    native : callable
        Its ``predict``, or the ``predict_proba`` of a classifier; takes the rows that have no number somewhere, too,
        which it refuses.

    Returns
    -------
    tuple of callable and ndarray of shape (rows, features), or None

    Raises
    ------
    Exception
        What the converter says to an estimator that it cannot convert.
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

    def score(matrix: NDArray[Any]) -> NDArray[Any]:
        if not np.isfinite(matrix).all():
            return native(matrix)
        found: NDArray[Any] = run([output], {name: np.ascontiguousarray(matrix)})[0]
        return found if classifier else found.reshape(-1)

    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.integers(-3, 6, (_ROWS, 1))
    return score, rng.normal(size=(_ROWS, features)) * sizes


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
