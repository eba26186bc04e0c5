"""What the training rows look like, feature by feature, in a few kilobytes: kept with the model, to tell drift by.

numpy is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from registry import Column, Signature

MOST_FEATURES = 200
"""Features that are described; models with more keep a description of the first ones."""

MOST_ROWS = 200_000
"""Rows that are looked at: the quantiles of a sample of so many are as good."""

# Bins of equally many training rows, and categories by name; what is left is one more bin.
_BINS = 20
_CATEGORIES = 50


def profile_of(matrix: npt.NDArray[Any], signature: Signature, seed: int = 0) -> dict[str, Any]:
    """Describe the encoded rows that a model is trained on.

    Parameters
    ----------
    matrix : ndarray of shape (rows, features)
        As `registry.encode` makes it.
    signature : Signature
        The features, in the matrix's order.
    seed : int
        Of the sample that is taken of more than 200,000 rows.

    Returns
    -------
    dict
        ``rows``, and ``features``: for each its ``missing`` share, and of the others the ``shares`` of its bins: those
        at most as large as each of ``edges`` for a number, ``categories`` by name and the rest for a category.

    Examples
    --------
    >>> import numpy as np
    >>> from registry import Column, Signature
    >>> kind = Column(name="kind", dtype="category", categories=("a", "b"))
    >>> signature = Signature(columns=(Column(name="x", dtype="int"), kind))
    >>> profile_of(np.array([[1, 0], [1, 0], [2, 1], [np.nan, 0]]), signature)["features"]["x"]
    {'missing': 0.25, 'edges': [1.0], 'shares': [0.666667, 0.333333]}
    """
    import numpy as np

    rows = len(matrix)
    if rows > MOST_ROWS:
        matrix = matrix[np.sort(np.random.default_rng(seed).choice(rows, MOST_ROWS, replace=False))]
    features = {}
    for place, column in enumerate(signature.columns[:MOST_FEATURES]):
        values = matrix[:, place].astype("float64")
        known = values[~np.isnan(values)]
        shape = _categories(known, column) if column.categories is not None else {"edges": _edges(known)}
        counts = count_bins(known, shape, column)
        features[column.name] = {
            "missing": round(1 - len(known) / max(1, len(values)), 6),
            **shape,
            "shares": [round(float(share), 6) for share in counts / max(1, len(known))],
        }
    return {"rows": rows, "features": features}


def count_bins(known: npt.NDArray[np.float64], feature: Mapping[str, Any], column: Column) -> npt.NDArray[np.int64]:
    """Count values, none of them missing, in the bins of a feature's description."""
    import numpy as np

    if "edges" in feature:
        edges = np.asarray(feature["edges"], dtype="float64")
        return np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1)
    named = feature["categories"]
    places = {text: place for place, text in enumerate(named)}
    lookup = np.array([places.get(text, len(named)) for text in column.categories or ()], dtype="int64")
    return np.bincount(lookup[known.astype("int64")], minlength=len(named) + 1)


def _edges(known: npt.NDArray[np.float64]) -> list[float]:
    import numpy as np

    if not len(known):
        return []
    distinct = np.unique(known)
    if len(distinct) <= _BINS:
        return [float(value) for value in distinct[:-1]]
    cuts = np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1], method="inverted_cdf")
    return [float(value) for value in np.unique(cuts)]


def _categories(known: npt.NDArray[np.float64], column: Column) -> dict[str, Any]:
    import numpy as np

    assert column.categories is not None  # of a category
    counts = np.bincount(known.astype("int64"), minlength=len(column.categories))
    most = np.argsort(-counts, kind="stable")[:_CATEGORIES]
    return {"categories": [column.categories[place] for place in most if counts[place]]}
