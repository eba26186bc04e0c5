"""How far predictions were off on rows that a model has not seen: kept with it, for intervals and scenarios.

numpy is imported inside the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.floating[Any]]

KEPT = 200
"""So many values at most; of more, as many at even distances in their order."""


def residuals(truth: Array, predicted: Array, *, classes: bool) -> dict[str, Any]:
    """Return the errors on held-out rows, in ascending order.

    Parameters
    ----------
    truth : ndarray of shape (rows,)
        Values, or the classes' places.
    predicted : ndarray of shape (rows,) or (rows, classes)
        Values, or probabilities; of two classes, that of the second is enough.
    classes : bool
        Whether they are probabilities.

    Returns
    -------
    dict
        ``rows``, their number, and ``values``: of a regression truth less prediction; of a classification one less the
        probability of the true class.

    Examples
    --------
    >>> import numpy as np
    >>> residuals(np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0]), classes=False)
    {'rows': 3, 'values': [-0.5, 0.0, 1.0]}
    """
    import numpy as np

    if not classes:
        errors = truth.astype("float64") - predicted
    elif predicted.ndim == 1:
        errors = np.where(truth > 0.5, 1 - predicted, predicted)
    else:
        errors = 1 - predicted[np.arange(len(truth)), truth.astype("int64")]
    ordered = np.sort(errors.astype("float64"))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(KEPT, len(ordered))).round().astype("int64"))
    # Six digits: more are noise, and every listing carries them.
    return {"rows": len(ordered), "values": [float(f"{value:.6g}") for value in ordered[places]]}
