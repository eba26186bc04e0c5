"""Which rows a model is measured on: at random, class by class, group by group, or the latest; once, or in folds.

numpy and pandas are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from compute.errors import ColumnInvalid, DataError, InvalidField
from jobs.columns import nearest
from jobs.split import check_fraction, fold_numbers, held_out

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Mask = npt.NDArray[np.bool_]

Kind = Literal["random", "stratified", "group", "time"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Validation:
    """How rows are held back.

    ``kind`` None is class by class where there are classes, else at random. ``column`` has the groups or the times.
    """

    kind: Kind | None = None
    fraction: float = 0.2
    seed: int = 0
    column: str | None = None
    folds: int | None = None


def make_validation(
    kind: str | None,
    fraction: float,
    seed: int,
    *,
    group_col: str | None = None,
    time_col: str | None = None,
    folds: int | None = None,
) -> Validation:
    """Return how rows are held back, or say what does not go together.

    Examples
    --------
    >>> make_validation(None, 0.2, 0, group_col="patient").kind
    'group'
    """
    check_fraction(fraction)
    if kind is not None and kind not in KINDS:
        raise InvalidField(
            f"there is no validation {kind!r}{nearest(str(kind), KINDS)}",
            hint=f"The kinds are {', '.join(KINDS)}.",
            context={"validation": kind, "known": list(KINDS)},
        )
    if group_col is not None and time_col is not None:
        raise InvalidField("group_col and time_col both say which rows are held back", hint="Give one of them.")
    wanted = "group" if group_col is not None else "time" if time_col is not None else kind
    if kind is not None and kind != wanted:
        raise InvalidField(
            f"validation={kind!r} does not go with {wanted}_col", hint=f"Leave one out, or give validation={wanted!r}."
        )
    if wanted in ("group", "time") and group_col is None and time_col is None:
        raise InvalidField(
            f"validation={wanted!r} needs {wanted}_col, the column to go by",
            hint=f"Give {wanted}_col (--{wanted}-col).",
            context={"field": f"{wanted}_col"},
        )
    if folds is not None and (not isinstance(folds, int) or isinstance(folds, bool) or folds < 2):
        raise InvalidField(
            f"cross_validation is {folds!r}, and must be a whole number of at least 2",
            hint="5 measures five models, each on another fifth of the rows.",
            context={"field": "cross_validation"},
        )
    return Validation(wanted, fraction, seed, group_col or time_col, folds)


def held_back(how: Validation, places: npt.NDArray[Any] | None, by: pd.Series[Any] | None, rows: int) -> Mask:
    """Mark the rows to measure on.

    Parameters
    ----------
    how : Validation
        The kind, share and seed.
    places : ndarray of shape (rows,) or None
        Each row's class.
    by : Series of length rows, optional
        Of ``how.column``: groups, none of which lies on both sides; or times, the latest of which are held back,
        rows of one time together.
    rows : int
        Their number.

    Examples
    --------
    >>> import pandas as pd
    >>> how = Validation("group", 0.3, 0, "patient")
    >>> patients = pd.Series([1, 1, 2, 2, 3, 3])
    >>> mask = held_back(how, None, patients, 6)
    >>> set(patients[mask]) & set(patients[~mask]), int(mask.sum())
    (set(), 2)
    """
    import numpy as np

    if how.kind in ("group", "time"):
        codes = _codes(how, by)
        # Groups in an order by the seed, times as they passed; whole ones until the share is reached.
        count = int(codes.max()) + 1
        order = np.arange(count)[::-1] if how.kind == "time" else np.random.default_rng(how.seed).permutation(count)
        sums = np.bincount(codes, minlength=count)[order].cumsum()
        taken = min(count - 1, 1 + int(np.abs(sums - rows * how.fraction).argmin()))
        chosen = np.zeros(count, dtype=bool)
        chosen[order[:taken]] = True
        return cast("Mask", chosen[codes])
    if how.kind == "stratified" and places is None:
        raise no_classes()
    return held_out(None if how.kind == "random" else places, rows, how.fraction, how.seed)


def no_classes() -> InvalidField:
    """Return what is wrong with a stratified validation of amounts."""
    return InvalidField(
        "validation='stratified' goes class by class, and the target holds amounts",
        hint='Leave it out, or give task="classification" if they are class numbers.',
        context={"field": "validation"},
    )


def folds_of(
    how: Validation, places: npt.NDArray[Any] | None, by: pd.Series[Any] | None, rows: int
) -> Iterator[tuple[Mask, Mask]]:
    """Give for each fold the rows to train on and those to measure on.

    Folds by time grow: each is measured on the stretch of time that follows what it was trained on.

    Examples
    --------
    >>> import pandas as pd
    >>> how = Validation("time", 0.2, 0, "day", folds=2)
    >>> [(int(train.sum()), int(held.sum())) for train, held in folds_of(how, None, pd.Series(range(9)), 9)]
    [(3, 3), (6, 3)]
    """
    import numpy as np

    folds = cast("int", how.folds)
    if how.kind in ("group", "time"):
        codes = _codes(how, by)
        counts = np.bincount(codes)
        needed = folds + (how.kind == "time")
        if len(counts) < needed:
            raise DataError(
                f"the column {how.column!r} has {len(counts):,} distinct values, and {folds} folds need {needed}",
                hint="Use fewer folds (cross_validation).",
                context={"column": how.column},
            )
        if how.kind == "time":
            stretch = _stretches(counts, needed)[codes]
            for fold in range(1, needed):
                yield stretch < fold, stretch == fold
            return
        numbers = _deal(counts, folds, how.seed)[codes]
    else:
        numbers = fold_numbers(None if how.kind == "random" else places, rows, folds, how.seed)
    for fold in range(folds):
        yield numbers != fold, numbers == fold


def _deal(counts: npt.NDArray[Any], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Deal groups out, the largest first, each to the fold with the fewest rows."""
    import heapq

    import numpy as np

    shuffled = np.random.default_rng(seed).permutation(len(counts))
    numbers = np.empty(len(counts), dtype="int64")
    fullness = [(0, fold) for fold in range(folds)]
    for group in shuffled[np.argsort(-counts[shuffled], kind="stable")]:
        rows, fold = heapq.heappop(fullness)
        numbers[group] = fold
        heapq.heappush(fullness, (rows + int(counts[group]), fold))
    return numbers


def _stretches(counts: npt.NDArray[Any], wanted: int) -> npt.NDArray[np.int64]:
    """Cut times into stretches of nearly equal numbers of rows, none empty; rows of one time stay together."""
    import numpy as np

    places = np.arange(len(counts))
    even = (counts.cumsum() - counts) * wanted // counts.sum()
    # A time with very many rows must neither skip a stretch, nor leave too few times for those that follow.
    close = places + np.minimum.accumulate(even - places)
    return cast("npt.NDArray[np.int64]", np.maximum(close, wanted - len(counts) + places))


def check_by(how: Validation, by: pd.Series[Any]) -> None:
    """Refuse groups or times of which some are missing, and times that are none."""
    import pandas as pd

    empty = by.isna().to_numpy()
    if empty.any():
        raise ColumnInvalid(
            f"the {how.kind} column {how.column!r} is null in {int(empty.sum()):,} rows, "
            f"the first in row {int(empty.argmax())}",
            hint="Fill them, or leave those rows out: each row has to lie on one side.",
            context={"column": how.column},
        )
    if how.kind == "time" and not (
        pd.api.types.is_datetime64_any_dtype(by.dtype) or pd.api.types.is_numeric_dtype(by.dtype)
    ):
        raise ColumnInvalid(
            f"the time column {how.column!r} holds {by.dtype} values, which are no times",
            hint="Convert it: pandas.to_datetime(frame[column]).",
            context={"column": how.column},
        )


def one_value(how: Validation) -> DataError:
    """Return what is wrong with a column that does not tell rows apart."""
    return DataError(
        f"the {how.kind} column {how.column!r} has only one value: nothing can be held back",
        hint="Choose another column, or leave it out.",
        context={"column": how.column},
    )


def _codes(how: Validation, by: pd.Series[Any] | None) -> npt.NDArray[np.int64]:
    """Give numbers to the groups, or the times from the earliest on."""
    import pandas as pd

    assert by is not None  # its column was read because of it
    check_by(how, by)
    try:
        codes, distinct = pd.factorize(by, sort=how.kind == "time")
    except TypeError as error:
        raise ColumnInvalid(
            f"the {how.kind} column {how.column!r} holds values that cannot be told apart ({error})",
            context={"column": how.column},
        ) from error
    if len(distinct) < 2:
        raise one_value(how)
    return cast("npt.NDArray[np.int64]", codes.astype("int64"))
