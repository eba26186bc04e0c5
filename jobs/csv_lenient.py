"""Read CSV whose rows are not all sound: text first, then values, and a reason beside each row that has none.

pyarrow is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.files import DataFile
from jobs.rejects import REASON

if TYPE_CHECKING:
    import pyarrow as pa

PLAIN = {"double": "a number", "int64": "a whole number", "bool": "true or false", "null": "an empty cell"}
"""Arrow's names for what people call otherwise."""


def read_leniently(
    file: DataFile,
    columns: Sequence[str],
    types: Mapping[str, pa.DataType],
    rows: int,
    reader: Callable[..., Any],
) -> Iterator[pa.Table]:
    """Read the columns as the types say; a row that cannot be has nulls, and the reason in the column `REASON`.

    Parameters
    ----------
    file : DataFile
        A CSV file.
    columns : sequence of str
        The columns to read.
    types : mapping
        Of each column.
    rows : int
        At most so many in a batch.
    reader : callable
        Opens a streaming reader of the file.
    """
    import pyarrow as pa

    lines: list[Any] = []
    with reader(file, columns, dict.fromkeys(columns, pa.string()), lines) as blocks:
        for block in blocks:
            table = pa.Table.from_batches([block])
            for start in range(0, table.num_rows, rows):
                yield _convert(table.slice(start, rows), types)
            if lines:
                yield _broken(lines, columns, types)
                lines.clear()
    if lines:
        yield _broken(lines, columns, types)


def _convert(table: pa.Table, types: Mapping[str, pa.DataType]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    reasons: Any = None
    for place, name in enumerate(table.column_names):
        values, kind = table.column(place), types[name]
        if pa.types.is_string(kind):
            continue
        try:
            converted = values.cast(kind)
        except pa.ArrowInvalid:
            bad = pc.is_in(values, pa.array([text for text in values.unique() if not _reads(text, kind)], pa.string()))
            converted = pc.if_else(bad, None, values).cast(kind)
            needed = PLAIN.get(str(kind), str(kind))
            said = pc.binary_join_element_wise(
                f"the column {name!r} has the value '", values, f"', where {needed} is needed", ""
            )
            mine = pc.if_else(bad, said, None)
            reasons = mine if reasons is None else pc.coalesce(reasons, mine)
        table = table.set_column(place, pa.field(name, kind), converted)
    return table if reasons is None else table.append_column(REASON, reasons)


def _reads(text: Any, kind: pa.DataType) -> bool:
    import pyarrow as pa

    if not text.is_valid:
        return True
    try:
        text.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _broken(lines: Sequence[Any], columns: Sequence[str], types: Mapping[str, pa.DataType]) -> pa.Table:
    """Return a row without values for each line that has too many or too few fields."""
    import pyarrow as pa

    said = [
        f"line {line.number} has {line.actual_columns} fields, not {line.expected_columns}: {line.text}"
        for line in lines
    ]
    empty = [pa.nulls(len(said), types[name]) for name in columns]
    return pa.table([*empty, pa.array(said, pa.string())], names=[*columns, REASON])
