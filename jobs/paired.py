"""The paired bootstrap, vectorised: sums of losses over groups of rows, times the weights of all resamples at once.

numpy is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.floating[Any]]

HIGHER_IS_BETTER = frozenset({"r2", "accuracy", "roc_auc"})

# With more rows than this, random groups of them are drawn instead of rows: the spread of a mean over rows is known
# from so many groups to one part in a hundred, whatever the rows' number.
_MOST_GROUPS = 5_000
_DRAWS_AT_ONCE = 250


def losses_of(truth: Array, given: Array, classes: object) -> dict[str, Array]:
    """Return what each row adds to each metric; a metric is a function of the rows' means of these.

    Parameters
    ----------
    truth : ndarray of shape (rows,)
        Values, or places of classes; -1 for a class that the model does not know.
    given : ndarray of shape (rows,) or (rows, classes)
        Predictions, or probabilities.
    classes : object
        None for a regression.

    Examples
    --------
    >>> import numpy as np
    >>> losses_of(np.array([1.0, 2.0]), np.array([1.0, 4.0]), None)["mae"].tolist()
    [0.0, 2.0]
    """
    import numpy as np

    if classes is None:
        truth = truth.astype("float64")
        error = given.astype("float64") - truth
        return {"rmse": error**2, "mae": np.abs(error), "r2": (truth - truth.mean()) ** 2}
    places = truth.astype("int64")
    chance = np.where(places >= 0, given[np.arange(len(places)), places], 0.0).astype("float64")
    losses = {
        "accuracy": (given.argmax(axis=1) == places).astype("float64"),
        "log_loss": -np.log(np.clip(chance, np.finfo("float32").eps, 1.0)),
    }
    if given.shape[1] == 2 and 0 < int((places == 1).sum()) < len(places):
        losses["roc_auc"] = _auc_parts(places == 1, given[:, 1])
    return losses


def _auc_parts(positive: npt.NDArray[np.bool_], score: Array) -> Array:
    """Return values for the rows whose mean is the area under the ROC curve, and whose spread is that of it.

    A row's placement is the share of the other class that it is on the right side of; the area varies as the means of
    the placements do: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837.
    """
    import numpy as np

    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    hits = np.bincount(place, positive.astype("float64"), len(counts))
    misses = counts - hits
    below = np.cumsum(misses) - misses / 2
    above = hits.sum() - (np.cumsum(hits) - hits / 2)
    share = np.where(positive, below[place] / misses.sum(), above[place] / hits.sum())
    area = share[positive].mean()
    weight = np.where(positive, len(positive) / hits.sum(), len(positive) / misses.sum())
    parts: Array = area + (share - area) * weight
    return parts


def resample(losses: Sequence[dict[str, Array]], resamples: int, seed: int) -> dict[str, tuple[Array, Array]]:
    """Return each metric of each model, and of each model in every resample.

    Parameters
    ----------
    losses : sequence of dict
        Of each model, as `losses_of` gives them.
    resamples : int
        How many.
    seed : int
        Of the draws.

    Returns
    -------
    dict
        For each metric, values of shape (models,) and draws of shape (resamples, models).
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    names = list(losses[0])
    rows = len(losses[0][names[0]])
    table = np.stack([each[name] for each in losses for name in names])
    groups = min(rows, _MOST_GROUPS)
    sums: Array
    counts: Array
    if groups < rows:
        place = rng.permutation(rows) % groups
        sums = np.stack([np.bincount(place, values, groups) for values in table], axis=1)
        counts = np.bincount(place, minlength=groups).astype("float64")
    else:
        sums, counts = table.T, np.ones(rows)
    means = [table.mean(axis=1)[None]]
    for start in range(0, resamples, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, resamples - start)
        # How often each group is drawn: a count of places is some ten times as fast as `rng.multinomial`.
        drawn = rng.integers(0, groups, (size, groups)) + np.arange(size)[:, None] * groups
        weights = np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups).astype("float64")
        means.append(weights @ sums / (weights @ counts)[:, None])
    joined = np.concatenate(means).reshape(resamples + 1, len(losses), len(names))
    found: dict[str, tuple[Array, Array]] = {}
    for number, name in enumerate(names):
        values = joined[:, :, number]
        if name == "rmse":
            values = np.sqrt(values)
        elif name == "r2":
            squares = joined[:, :, names.index("rmse")]
            values = np.where(values > 0, 1 - squares / np.where(values > 0, values, 1), squares == 0).astype("float64")
        found[name] = values[0], values[1:]
    return found


def interval(draws: Array, confidence: float) -> dict[str, float]:
    """Return the bounds between which the middle share of the resamples lies.

    Examples
    --------
    >>> import numpy as np
    >>> interval(np.arange(101.0), 0.5)
    {'low': 25.0, 'high': 75.0}
    """
    import numpy as np

    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"low": float(low), "high": float(high)}
