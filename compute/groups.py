"""Rows that belong together: brought side by side once, so that each group is a slice.

pandas and NumPy are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from compute.errors import ColumnMissing, DataError
from compute.parts import cut

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def side_by_side(data: Any, by: Sequence[str]) -> tuple[Any, list[int]]:
    """Return the data with the rows of each group together, and where each group ends.

    Groups come in the order of their first rows, rows in their own order; a missing value is a group, too. Data that
    is in groups already is returned as it is.

    Parameters
    ----------
    data : DataFrame or pyarrow.Table
        Not modified.
    by : sequence of str
        Columns; rows that have the same values in them are a group.

    Examples
    --------
    >>> import pandas as pd
    >>> frame, ends = side_by_side(pd.DataFrame({"key": ["b", "a", "b"], "value": [1, 2, 3]}), ["key"])
    >>> frame["value"].tolist(), ends
    ([1, 3, 2], [2, 3])
    """
    import numpy as np

    numbers = group_numbers(data, by)
    if (np.diff(numbers) < 0).any():
        data = data.take(np.argsort(numbers, kind="stable"))
    return data, np.cumsum(np.bincount(numbers)).tolist() if len(numbers) else []


def each_group(function: Callable[[Any], Any], part: Any, by: Sequence[str]) -> Iterator[Any]:
    """Call a function on each group of a part in which groups lie side by side.

    What it raises has a note that names the group.
    """
    import numpy as np

    ends = np.cumsum(np.bincount(group_numbers(part, by))).tolist()
    for start, stop in zip([0, *ends], ends, strict=False):
        group = cut(part, start, stop)
        try:
            yield function(group)
        except Exception as error:
            first = _keys(cut(group, 0, 1), by)
            named = ", ".join(f"{name}={first[name].iloc[0]!r}" for name in by)
            error.add_note(f"In the group {named}, of {stop - start} rows.")
            raise


def check_columns(data: Any, by: str | Sequence[str]) -> tuple[str, ...]:
    """Return the columns of ``by``, or say what is wrong with them."""
    names = (by,) if isinstance(by, str) else tuple(by)
    columns = getattr(data, "column_names", None) or getattr(data, "columns", None)
    if callable(columns):
        columns = columns()  # of a Ray Dataset
    if columns is None:
        raise DataError(
            f"a {type(data).__qualname__} has no columns to group by",
            hint="Give a DataFrame, an Arrow Table or a Ray Dataset, or leave out by.",
        )
    if not names:
        raise DataError("by names no column", hint="Name one, or leave it out.")
    for name in names:
        if name not in columns:
            known = ", ".join(map(str, columns))
            raise ColumnMissing(f"there is no column {name!r} to group by", hint=f"The columns are {known}.")
    return names


def group_numbers(data: Any, by: Sequence[str]) -> npt.NDArray[np.intp]:
    """Return for each row the number of its group, in the order in which they appear."""
    numbers: npt.NDArray[np.intp] = (
        _keys(data, by).groupby(list(by), sort=False, observed=True, dropna=False).ngroup().to_numpy()
    )
    return numbers


def _keys(data: Any, by: Sequence[str]) -> Any:
    return data.select(list(by)).to_pandas() if hasattr(data, "num_rows") else data[list(by)]
