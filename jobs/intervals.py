"""How sure metrics are: confidence intervals by bootstrap, all resamples at once as weights of the rows.

Efron, Annals of Statistics 7 (1979) 1. numpy is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.floating[Any]]

RESAMPLES = 200
LEVEL = 0.95
# Of more rows, so many are resampled, and the spread is scaled by the root of the rows: m out of n bootstrap
# (Bickel, Goetze and van Zwet, Statistica Sinica 7 (1997) 1).
_MOST_ROWS = 10_000


def intervals(truth: Array, predicted: Array, metrics: Mapping[str, float], seed: int) -> dict[str, list[float]]:
    """Return the 95 % interval of each metric that is a mean over rows or a rank statistic.

    Parameters
    ----------
    truth : ndarray of shape (rows,)
        Values, or the classes' places.
    predicted : ndarray of shape (rows,) or (rows, classes)
        Values, or probabilities.
    metrics : mapping
        As measured on all rows; those of the baseline have no interval.
    seed : int
        Of the resamples.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.arange(100.0)
    >>> low, high = intervals(truth, truth + np.tile([1.0, -3.0], 50), {"mae": 2.0}, 0)["mae"]
    >>> 1.7 < low < 2 < high < 2.3
    True
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = len(truth)
    scale = 1.0
    if rows > _MOST_ROWS:
        chosen = np.sort(rng.choice(rows, _MOST_ROWS, replace=False))
        truth, predicted, scale = truth[chosen], predicted[chosen], (_MOST_ROWS / rows) ** 0.5
    count = len(truth)
    draws = np.stack([np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(RESAMPLES)])
    weights = np.vstack([np.ones(count), draws]).astype("float64")
    tail = (1 - LEVEL) / 2
    found = {}
    values_of = _of_amounts if predicted.ndim == 1 else _of_classes
    for name, values in values_of(truth, predicted, weights, metrics).items():
        center, resampled = values[0], values[1:][np.isfinite(values[1:])]
        if not len(resampled):
            continue
        low, high = np.quantile(resampled, [tail, 1 - tail]) - center
        found[name] = [round(float(metrics[name] + scale * low), 6), round(float(metrics[name] + scale * high), 6)]
    return found


def _of_amounts(truth: Array, predicted: Array, weights: Array, metrics: Mapping[str, float]) -> dict[str, Array]:
    import numpy as np

    truth = truth.astype("float64")
    error = predicted.astype("float64") - truth
    count = weights.sum(axis=1)
    squares = weights @ error**2
    centred = truth - truth.mean()
    spread = weights @ centred**2 - (weights @ centred) ** 2 / count
    values = {"rmse": np.sqrt(squares / count), "mae": weights @ np.abs(error) / count}
    with np.errstate(divide="ignore", invalid="ignore"):
        values["r2"] = 1 - squares / spread
    return {name: value for name, value in values.items() if name in metrics}


def _of_classes(truth: Array, predicted: Array, weights: Array, metrics: Mapping[str, float]) -> dict[str, Array]:
    import numpy as np

    places = truth.astype("int64")
    given = np.where(places >= 0, predicted[np.arange(len(places)), places], 0.0).astype("float64")
    count = weights.sum(axis=1)
    guess = predicted.argmax(axis=1)
    values = {
        "accuracy": weights @ (guess == places) / count,
        "log_loss": weights @ -np.log(np.clip(given, np.finfo("float32").eps, 1.0)) / count,
    }
    if predicted.shape[1] == 2:
        positive = places == 1
        hits, called, real = weights @ ((guess == 1) & positive), weights @ (guess == 1), weights @ positive
        with np.errstate(divide="ignore", invalid="ignore"):
            values |= {"precision": hits / called, "recall": hits / real, "f1": 2 * hits / (called + real)}
            if "roc_auc" in metrics:
                values["roc_auc"] = _areas(positive, predicted[:, 1], weights)
    return {name: value for name, value in values.items() if name in metrics}


def _areas(positive: npt.NDArray[np.bool_], score: Array, weights: Array) -> Array:
    """Return the area under the ROC curve for each row of weights; ties count half."""
    import numpy as np

    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
    ours = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    others = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    below = others.cumsum(axis=1) - others / 2
    areas: Array = (ours * below).sum(axis=1) / (ours.sum(axis=1) * others.sum(axis=1))
    return areas
