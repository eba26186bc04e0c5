"""What a training tells besides its metrics, small enough to stand in the model's record.

numpy is imported inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.families import Family, Problem
from jobs.intervals import intervals
from jobs.metrics import measure
from jobs.targets import Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.floating[Any]]

_POINTS = 25
_MOST_CLASSES = 30
_MOST_FEATURES = 50
# Rows that the training curve is measured on.
_CURVE_ROWS = 5_000
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def describe(truth: Array, predicted: Array, metrics: dict[str, float], target: Target, seed: int) -> dict[str, Any]:
    """Describe predictions of rows held back.

    Returns
    -------
    dict
        ``intervals`` of the metrics; of amounts ``residuals``, quantiles of prediction less truth; of classes
        ``confusion`` with ``counts[truth][prediction]``, and of two classes ``roc`` and ``precision_recall``, for the
        second class, at some thresholds.

    Examples
    --------
    >>> import numpy as np
    >>> target = Target("binary", "", ("no", "yes"))
    >>> chances = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> describe(np.array([0, 1, 1]), chances, {"accuracy": 2 / 3}, target, 0)["confusion"]["counts"]
    [[1, 0], [1, 1]]
    """
    import numpy as np

    told: dict[str, Any] = {"intervals": intervals(truth, predicted, metrics, seed)}
    if target.classes is None:
        error = predicted.astype("float64") - truth.astype("float64")
        return {**told, "residuals": {f"{q:g}": _short(value) for q, value in zip(_QUANTILES, np.quantile(error, _QUANTILES), strict=True)}}  # fmt: skip  # noqa: E501
    places = truth.astype("int64")
    known, guess = places >= 0, predicted.argmax(axis=1)
    count = len(target.classes)
    if count <= _MOST_CLASSES:
        pairs = np.bincount(places[known] * count + guess[known], minlength=count * count)
        told["confusion"] = {"classes": list(target.classes), "counts": pairs.reshape(count, count).tolist()}
    if count == 2 and 0 < int((places == 1).sum()) < len(places):
        told |= _curves(places == 1, predicted[:, 1])
    return told


def _curves(positive: npt.NDArray[np.bool_], score: Array) -> dict[str, Any]:
    """Return ROC and precision-recall at thresholds that lie evenly among the rows."""
    import numpy as np

    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(score[order]) < 0, True])  # of each distinct score
    chosen = last[np.unique(np.linspace(0, len(last) - 1, _POINTS).astype(int))]
    hits = positive[order].cumsum()[chosen]
    called = chosen + 1
    thresholds = [_short(value) for value in score[order][chosen]]
    recall = [_short(value) for value in hits / positive.sum()]
    return {
        "roc": {
            "thresholds": thresholds,
            "false_positive_rate": [_short(value) for value in (called - hits) / (~positive).sum()],
            "true_positive_rate": recall,
        },
        "precision_recall": {
            "thresholds": thresholds,
            "precision": [_short(value) for value in hits / called],
            "recall": recall,
        },
    }


def importances(family: Family, model: Any, problem: Problem, matrix: Array) -> dict[str, float]:
    """Return the share of each feature, the largest first: of the trees' gain, or of the linear terms' spread."""
    import numpy as np

    found = np.nan_to_num(np.asarray(family.importances(model, matrix, problem), dtype="float64"))
    total = float(found.sum()) or 1.0
    order = np.argsort(-found, kind="stable")[:_MOST_FEATURES]
    return {problem.columns[place]: round(float(found[place] / total), 6) for place in order}


def training_curve(
    family: Family, model: Any, problem: Problem, parts: dict[str, tuple[Array, Array]], baseline: dict[str, Any]
) -> dict[str, Any] | None:
    """Return rmse, or log_loss, of the first rounds of the model, at numbers of rounds that grow by half.

    Parameters
    ----------
    family, model, problem
        The model; None is returned for one that is not made of rounds.
    parts : dict
        The matrix and the target of rows; of each, the first 5,000 are measured.
    baseline : dict
        As for `measure`.
    """
    if family.boosting is None:
        return None
    total = family.boosting.count(model)
    rounds = sorted({total, *(int(1.5**step) for step in range(30) if 1.5**step < total)})
    metric = "rmse" if problem.target.classes is None else "log_loss"
    curve: dict[str, Any] = {"metric": metric, "rounds": rounds}
    for name, (matrix, truth) in parts.items():
        if not len(truth):
            continue
        some, values = matrix[:_CURVE_ROWS], truth[:_CURVE_ROWS]
        scores = [family.boosting.at(model, some, problem, count) for count in rounds]
        curve[name] = [_short(measure(values, score, baseline)[metric]) for score in scores]
    return curve


def _short(value: Any) -> float:
    return float(f"{float(value):.6g}")
