"""Hold rows back for validation: by a seed, and class by class.

numpy is imported inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compute.errors import DataError, InvalidField

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FEWEST_ROWS = 10


def check_fraction(fraction: float) -> None:
    """Refuse a fraction that leaves nothing to train or to validate on."""
    if not 0 < fraction < 1:
        raise InvalidField(
            f"validation_fraction is {fraction!r}, and must lie between 0 and 1",
            hint="0.2 holds a fifth of the rows back.",
            context={"validation_fraction": fraction},
        )


def check_rows(rows: int, source: str) -> None:
    """Refuse a table that is too small to train and validate on."""
    if not rows:
        raise DataError(f"{source} has no rows", hint="Check the filter or the query that wrote it.")
    if rows < FEWEST_ROWS:
        raise DataError(
            f"{source} has {rows} rows, and training needs at least {FEWEST_ROWS}",
            hint="Collect more rows: a model of so few, and its metrics, would mean nothing.",
            context={"rows": rows},
        )


def held_out(places: npt.NDArray[Any] | None, rows: int, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Mark the rows to validate on.

    Parameters
    ----------
    places : ndarray of shape (rows,) or None
        Each row's class; every class is split by itself, and keeps at least one row in training.
    rows : int
        Their number.
    fraction : float
        Share to hold back.
    seed : int
        The same seed marks the same rows.

    Examples
    --------
    >>> mask = held_out(None, 100, 0.2, seed=0)
    >>> int(mask.sum()), bool((mask == held_out(None, 100, 0.2, seed=0)).all())
    (20, True)
    """
    import numpy as np

    order = np.random.default_rng(seed).permutation(rows)
    mask = np.zeros(rows, dtype=bool)
    if places is None:
        mask[order[: min(rows - 1, max(1, round(rows * fraction)))]] = True
        return mask
    shuffled = places[order]
    for place in np.unique(shuffled):
        members = order[shuffled == place]
        mask[members[: min(len(members) - 1, round(len(members) * fraction))]] = True
    if not mask.any():
        raise DataError(
            f"the classes of the target have too few rows each to hold {fraction:g} of them back",
            hint="Collect more rows of each class, group classes, or raise validation_fraction.",
            context={"rows": rows, "validation_fraction": fraction},
        )
    return mask


def fold_numbers(places: npt.NDArray[Any] | None, rows: int, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Deal the rows out to folds of equal size, class by class.

    Parameters
    ----------
    places : ndarray of shape (rows,) or None
        Each row's class.
    rows, folds : int
        Their numbers.
    seed : int
        The same seed deals the same.

    Examples
    --------
    >>> import numpy as np
    >>> np.bincount(fold_numbers(None, 10, 3, seed=0)).tolist()
    [4, 3, 3]
    """
    import numpy as np

    order = np.random.default_rng(seed).permutation(rows)
    if places is not None:
        order = order[np.argsort(places[order], kind="stable")]
    numbers = np.empty(rows, dtype="int64")
    numbers[order] = np.arange(rows) % folds
    return numbers
