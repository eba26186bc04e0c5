"""Cut a table into shares of the same number of rows, where its own parts are too few or too unequal.

pyarrow is imported inside functions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jobs.tables import Table, to_frame

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# How much larger than the mean the largest share may be before parts are cut.
_UNEQUAL = 1.1
_BATCH = 131_072


def shares(table: Table, count: int) -> list[Table]:
    """Return at most so many tables, of nearly equal length, that other processes can read.

    Examples
    --------
    >>> import pandas as pd
    >>> from jobs.tables import FrameTable
    >>> [share.rows for share in shares(FrameTable(pd.DataFrame({"a": range(10)})), 3)]
    [4, 4, 2]
    """
    parts = list(table.split(count))
    known = [part.rows for part in parts if part.rows is not None]
    if table.rows is None or len(known) < len(parts):
        return parts
    mean = table.rows / count
    if max(known, default=0) <= max(_UNEQUAL * mean, math.ceil(mean)):
        return parts
    pieces = table.split(table.rows)  # as small as they come
    edges = [table.rows * number // count for number in range(count + 1)]
    return [RowRange(pieces, start, stop) for start, stop in itertools.pairwise(edges)]


class RowRange:
    """Some rows of a table that was cut into pieces: from one to before another.

    Of a piece that two ranges share, each reads what comes before its rows, too, and drops it batch by batch.
    """

    def __init__(self, pieces: Sequence[Table], start: int, stop: int) -> None:
        self.source, self.columns = pieces[0].source, pieces[0].columns
        self.rows: int | None = stop - start
        self._slices: list[tuple[Table, int, int]] = []
        first = 0
        for piece in pieces:
            last = first + (piece.rows or 0)
            if first < stop and last > start:
                self._slices.append((piece, max(start - first, 0), min(stop, last) - first))
            first = last

    def size(self, columns: Sequence[str]) -> int:
        """Give a share of the pieces'."""
        return sum(
            piece.size(columns) * (stop - start) // max(piece.rows or 1, 1) for piece, start, stop in self._slices
        )

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read all of the rows."""
        import pyarrow as pa

        return to_frame(pa.concat_tables(self.batches(columns, _BATCH), promote_options="permissive"))

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """Read in order, and no further than to the batch with the last row."""
        for piece, start, stop in self._slices:
            first = 0
            for batch in piece.batches(columns, rows):
                last = first + len(batch)
                if last > start:
                    yield batch[max(start - first, 0) : stop - first]
                first = last
                if first >= stop:
                    break

    def split(self, parts: int) -> Sequence[Table]:  # noqa: ARG002  (of the protocol)
        """Give itself: it is a part."""
        return [self]

    def lineage(self) -> dict[str, Any]:
        """Name the kind; models come from the whole table."""
        return {"kind": "rows"}
