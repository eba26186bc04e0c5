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
    """Return what tells how good classes are predicted, and accuracy and log_loss of the training shares alone.

    ``precision``, ``recall`` and ``f1`` are those of the second class of two, of three and more classes the means over
    classes; what would be a division by zero is 0. ``roc_auc`` and ``average_precision`` are for two classes.

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

    places, guess = truth.astype("int64"), probabilities.argmax(axis=1)
    metrics = {
        "accuracy": float(np.mean(guess == places)),
        "log_loss": _log_loss(places, probabilities),
        "baseline_accuracy": float(np.mean(places == int(prior.argmax()))),
        "baseline_log_loss": _log_loss(places, np.broadcast_to(prior, probabilities.shape)),
    }
    metrics |= _found(places, guess, probabilities.shape[1])
    if probabilities.shape[1] == 2 and 0 < int((places == 1).sum()) < len(places):
        metrics |= _ranked(places == 1, probabilities[:, 1])
    return metrics


def _found(places: npt.NDArray[np.int64], guess: npt.NDArray[np.intp], classes: int) -> dict[str, float]:
    import numpy as np

    hits = np.bincount(guess[guess == places], minlength=classes)
    called, real = np.bincount(guess, minlength=classes), np.bincount(places[places >= 0], minlength=classes)
    chosen = [1] if classes == 2 else np.flatnonzero(called + real)  # a class that is not there says nothing
    values = {"precision": hits / np.maximum(called, 1), "recall": hits / np.maximum(real, 1)}
    values["f1"] = 2 * hits / np.maximum(called + real, 1)
    return {name: float(value[chosen].mean()) for name, value in values.items()}


def _log_loss(places: npt.NDArray[np.int64], probabilities: Array) -> float:
    import numpy as np

    # An unknown class had no probability at all.
    given = np.where(places >= 0, probabilities[np.arange(len(places)), places], 0.0)
    return float(-np.mean(np.log(np.clip(given.astype("float64"), np.finfo("float32").eps, 1.0))))


def _ranked(positive: npt.NDArray[np.bool_], score: Array) -> dict[str, float]:
    """Return how well the score ranks positive rows above negative ones.

    ``roc_auc``, ties counting half, is the Mann-Whitney statistic from ranks: Hanley and McNeil, Radiology 143 (1982)
    29. ``average_precision`` is the mean, over positive rows, of the precision at their score.
    """
    import numpy as np

    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ours = np.bincount(place, positive, len(counts))
    hits, misses = ours.sum(), len(positive) - ours.sum()
    below = np.cumsum(counts - ours) - (counts - ours) / 2
    reached, called = np.cumsum(ours[::-1]), np.cumsum(counts[::-1])
    return {
        "roc_auc": float(ours @ below / (hits * misses)),
        "average_precision": float(ours[::-1] @ (reached / called) / hits),
    }
