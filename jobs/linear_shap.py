"""SHAP values of the linear models that `jobs.train` makes: exact, from their coefficients.

numpy is imported inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def explain_linear(model: Any, matrix: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64] | None:
    """Return what each feature contributed to each prediction, against the mean of these rows.

    Of a linear model, the SHAP value of an input is its coefficient times its distance from the mean, where inputs are
    taken as independent (Lundberg and Lee, NeurIPS 2017, corollary 1); those of a category's columns are added up.

    Parameters
    ----------
    model : sklearn.pipeline.Pipeline
        Numbers imputed and scaled, categories one-hot, and a linear estimator behind them.
    matrix : ndarray of shape (rows, features)
        Encoded rows.

    Returns
    -------
    ndarray of shape (rows, features), or None
        In the unit of the prediction, or of the log-odds; of several classes, of the one that is predicted. None for
        a model of another shape.
    """
    import numpy as np

    steps = list(getattr(model, "named_steps", {}).values())
    if len(steps) != 2 or not hasattr(steps[1], "coef_") or not hasattr(steps[0], "transformers_"):
        return None
    columns, estimator = steps
    inputs = columns.transform(matrix)
    dense = np.asarray(inputs.toarray() if hasattr(inputs, "toarray") else inputs, dtype="float64")
    owners: list[int] = []
    for name, step, places in columns.transformers_:
        if name == "numbers":
            owners += places
        elif name == "categories":
            for place, known in zip(places, step.categories_, strict=True):
                owners += [place] * len(known)
    weights = np.atleast_2d(estimator.coef_)
    if len(owners) != dense.shape[1]:
        return None
    centred = dense - dense.mean(axis=0)
    chosen = weights[0] if len(weights) == 1 else weights[estimator.decision_function(inputs).argmax(axis=1)]
    values = np.zeros((len(matrix), matrix.shape[1]))
    np.add.at(values.T, owners, (centred * chosen).T)
    return values
