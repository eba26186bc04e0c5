"""Rows that a model cannot take: which they are, and why; kept in a table of their own.

pandas, numpy, pyarrow and the registry are imported inside functions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from compute.errors import ColumnInvalid

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import pyarrow as pa

    from registry import Signature

BadRows = Literal["raise", "divert"]

REASON = "__bad_row__"
"""Column of a batch that says why its reader could not read a row; null where it could."""


@dataclass(frozen=True)
class Reject:
    """One row that was not scored: its place in the table, the reason, and its values as JSON."""

    row: int
    feature: str | None
    value: str | None
    reason: str
    data: str


def find_rejects(
    frame: pd.DataFrame, signature: Signature, dtype: Literal["float32", "float64"], start: int
) -> tuple[npt.NDArray[np.bool_], list[Reject]]:
    """Tell the rows that `encode` refuses from the others.

    Parameters
    ----------
    frame : DataFrame
        Raw rows, with the features among its columns, and `REASON` if its reader refused some.
    signature : Signature
        What the model takes.
    dtype : {"float32", "float64"}
        Of the model's matrix.
    start : int
        Number of the first row.

    Returns
    -------
    good : ndarray of bool, shape (rows,)
        Which rows can be scored.
    rejects : list of Reject
        The others, in order.

    Examples
    --------
    >>> import pandas as pd
    >>> from registry import capture_signature
    >>> signature = capture_signature(pd.DataFrame({"x": [1.5, 2.5]}))
    >>> good, rejects = find_rejects(pd.DataFrame({"x": [1.0, "far", None]}, dtype=object), signature, "float64", 10)
    >>> good.tolist(), rejects[0].row, rejects[0].feature, rejects[0].value
    ([True, False, True], 11, 'x', 'far')
    """
    import numpy as np

    from registry import Signature, encode

    found: dict[int, tuple[str | None, str | None, str]] = {}
    if REASON in frame.columns:
        said = frame[REASON]
        found = {int(row): (None, None, str(said.iloc[row])) for row in np.flatnonzero(said.notna().to_numpy())}
        frame = frame.drop(columns=REASON)
    for column in signature.columns:
        alone = Signature(columns=(column,))
        values = frame[column.name]
        try:
            encode(values.to_frame(), alone, dtype)
        except ColumnInvalid:
            for row, value in enumerate(values):
                try:
                    encode([{column.name: value}], alone, dtype)
                except ColumnInvalid as error:
                    reason = error.detail.replace("in row 0", f"in row {start + row}")
                    found.setdefault(row, (column.name, str(value), reason))
    good = np.ones(len(frame), dtype=bool)
    good[list(found)] = False
    rejects = [
        Reject(start + row, *found[row], json.dumps(frame.iloc[row].to_dict(), default=str)) for row in sorted(found)
    ]
    return good, rejects


def rejects_table(rejects: Sequence[Reject]) -> pa.Table:
    """Return the rows that were not scored as a table: ``row``, ``feature``, ``value``, ``reason``, ``data``."""
    import pyarrow as pa

    kinds: dict[str, Any] = {field.name: pa.string() for field in fields(Reject)} | {"row": pa.int64()}
    columns = zip(*(astuple(reject) for reject in rejects), strict=True) if rejects else [() for _ in kinds]
    return pa.table(
        [pa.array(list(column), kind) for column, kind in zip(columns, kinds.values(), strict=True)], names=list(kinds)
    )
