"""How good predictions are: plain formulas on arrays, so that nothing heavy is imported for them.

numpy is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.floating[Any]]


def measure(truth: Array, predicted: Array, baseline: Mapping[str, Any]) -> dict[str, float]:
    """Measure predictions against the truth and against a guess made without a model.

    Parameters
    ----------
    truth : ndarray of shape (rows,)
        Values, or the classes' places.
    predicted : ndarray of shape (rows,) or (rows, classes)
        Values, or probabilities.
    baseline : mapping
        ``{"mean": ...}`` of the training target for regression, ``{"prior": [...]}`` the classes' shares otherwise.
    """
    import numpy as np

    if "mean" in baseline:
        return regression_metrics(truth, predicted, float(baseline["mean"]))
    return classification_metrics(truth, predicted, np.asarray(baseline["prior"], dtype="float64"))


def regression_metrics(truth: Array, predicted: Array, mean: float) -> dict[str, float]:
    """Return rmse, mae and r2, and the errors of always predicting the mean of the training target.

    Parameters
    ----------
    truth, predicted : ndarray of shape (rows,)
        In the target's unit.
    mean : float
        Of the training target.

    Examples
    --------
    >>> import numpy as np
    >>> regression_metrics(np.array([1.0, 3.0]), np.array([1.0, 2.0]), 2.0)["mae"]
    0.5
    """
    import numpy as np

    # In double precision: sums of squares over millions of rows lose digits in single.
    truth = truth.astype("float64")
    error = predicted.astype("float64") - truth
    base = mean - truth
    spread = float(np.sum((truth - truth.mean()) ** 2))
    squares = float(np.sum(error**2))
    return {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
        # By convention of the field (scikit-learn): a constant truth is explained wholly or not at all.
        "r2": 1 - squares / spread if spread else float(squares == 0),
        "baseline_rmse": float(np.sqrt(np.mean(base**2))),
        "baseline_mae": float(np.mean(np.abs(base))),
    }


def classification_metrics(truth: Array, probabilities: Array, prior: Array) -> dict[str, float]:
    """Return accuracy, log_loss, for two classes roc_auc, and those of always predicting the training shares.

    Parameters
    ----------
    truth : ndarray of shape (rows,)
        The place of each row's class among the classes; -1 for a class the model does not know.
    probabilities : ndarray of shape (rows, classes)
        What the model gives each class.
    prior : ndarray of shape (classes,)
        The share of each class in training.

    Examples
    --------
    >>> import numpy as np
    >>> classification_metrics(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0.5, 0.5]))["roc_auc"]
    1.0
    """
    import numpy as np

    places = truth.astype("int64")
    metrics = {
        "accuracy": float(np.mean(probabilities.argmax(axis=1) == places)),
        "log_loss": _log_loss(places, probabilities),
        "baseline_accuracy": float(np.mean(places == int(prior.argmax()))),
        "baseline_log_loss": _log_loss(places, np.broadcast_to(prior, probabilities.shape)),
    }
    if probabilities.shape[1] == 2 and 0 < int((places == 1).sum()) < len(places):
        metrics["roc_auc"] = _roc_auc(places == 1, probabilities[:, 1])
    return metrics


def _log_loss(places: npt.NDArray[np.int64], probabilities: Array) -> float:
    import numpy as np

    # An unknown class had no probability at all.
    given = np.where(places >= 0, probabilities[np.arange(len(places)), places], 0.0)
    return float(-np.mean(np.log(np.clip(given.astype("float64"), np.finfo("float32").eps, 1.0))))


def _roc_auc(positive: npt.NDArray[np.bool_], score: Array) -> float:
    """Return the probability that a positive row scores above a negative one, ties counting half.

    The Mann-Whitney statistic from ranks: Hanley and McNeil, Radiology 143 (1982) 29.
    """
    import numpy as np

    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    hits = int(positive.sum())
    misses = len(positive) - hits
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))
