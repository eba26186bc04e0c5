"""Tables of every kind behind one small protocol: what training and scoring need, and only the columns needed.

pandas, pyarrow and Ray are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from compute import Config
from compute.errors import DataError
from jobs.columns import check_names, listing
from jobs.files import find_files

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    Batch: TypeAlias = pd.DataFrame | pa.Table


class Table(Protocol):
    """A table that was looked at, not read.

    ``source`` is its name in messages; ``columns`` its column names, in order; ``rows`` their number, None when only
    reading would tell.
    """

    source: str
    columns: tuple[str, ...]
    rows: int | None

    def size(self, columns: Sequence[str]) -> int:
        """Estimate the bytes that these columns take as a frame in memory, without reading them."""
        ...

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read these columns of all rows."""
        ...

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[Batch]:
        """Read these columns, in order and in bounded memory, at most so many rows at once."""
        ...

    def split(self, parts: int) -> Sequence[Table]:
        """Cut into at most so many tables, in order, that can be sent to other processes and read there."""
        ...

    def lineage(self) -> dict[str, Any]:
        """Say where the data came from, for the model's record."""
        ...


def open_table(data: object, config: Config, *, lenient: bool = False) -> Table:
    """Look at a table without reading it.

    Parameters
    ----------
    data : DataFrame, pyarrow.Table, ray.data.Dataset, str or path
        A string or path is a URI of CSV (also ``.csv.gz``, ``.csv.zip``) or Parquet, a file, a directory or a
        pattern.
    config : Config
        Access to S3.
    lenient : bool
        Take lines of CSV that cannot be read for rows without values, and say so in a column of the batches.

    Returns
    -------
    Table
        With its column names checked: text, and no two alike.

    Raises
    ------
    DataNotFound, DataError, UnsupportedFormat
        Naming the file, and what to do.

    Examples
    --------
    >>> import pandas as pd
    >>> from compute import load_config
    >>> table = open_table(pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None]}), load_config())
    >>> table.columns, table.rows, [len(batch) for batch in table.batches(["a"], 2)]
    (('a', 'b'), 3, [2, 1])
    """
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        return _open_files(str(data), config, lenient=lenient)
    # By name: the library that made the object is imported already, and the others need not be.
    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
    if kind == "pandas.DataFrame":
        return FrameTable(cast("pd.DataFrame", data))
    if kind == "pyarrow.Table":
        return ArrowTable(cast("pa.Table", data))
    if kind in ("ray.Dataset", "ray.MaterializedDataset"):
        from jobs.ray_dataset import DatasetTable

        return DatasetTable(data)
    if kind == "jobs.DaskTable":
        return cast("Table", data)
    if kind == "dask.DataFrame":
        raise DataError(
            "a Dask DataFrame is computed by a cluster, and none was named",
            hint="Use dask_bridge.get_ml_tasks(), whose methods take it; or give frame.compute().",
        )
    raise DataError(
        f"cannot read a table from a {type(data).__module__}.{type(data).__name__}",
        hint="Give a pandas DataFrame, a pyarrow Table, a Ray Dataset, or the URI of a CSV or Parquet file.",
    )


def _open_files(uri: str, config: Config, *, lenient: bool) -> Table:
    kind, files = find_files(uri, config)
    if kind == "parquet":
        from jobs.parquet_files import open_parquet

        return open_parquet(uri, files)
    from jobs.csv_files import open_csv

    return open_csv(uri, files, lenient=lenient)


class FrameTable:
    """A pandas DataFrame; never modified."""

    source = "the frame"

    def __init__(self, frame: pd.DataFrame) -> None:
        self.columns = check_names(list(frame.columns), self.source)
        self.rows: int | None = len(frame)
        self._frame = frame

    def size(self, columns: Sequence[str]) -> int:
        """Sum the buffers; text that pandas holds as objects is counted as 60 bytes a cell, not looked at."""
        frame = self._frame
        return sum(
            int(frame[name].memory_usage(index=False)) + (60 * len(frame) if frame[name].dtype == object else 0)
            for name in columns
        )

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Select the columns."""
        return self._frame[list(columns)]

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[Batch]:
        """Give slices of the frame."""
        frame = self._frame[list(columns)]
        for start in range(0, len(frame), rows):
            yield frame.iloc[start : start + rows]

    def split(self, parts: int) -> Sequence[Table]:
        """Cut into slices of nearly equal length."""
        step = max(1, -(-len(self._frame) // parts))
        return [FrameTable(self._frame.iloc[start : start + step]) for start in range(0, len(self._frame), step)]

    def lineage(self) -> dict[str, Any]:
        """Name the kind; the fingerprint of the values is added where they are encoded."""
        return {"kind": "frame"}


class ArrowTable:
    """A pyarrow Table."""

    source = "the Arrow table"

    def __init__(self, table: pa.Table) -> None:
        self.columns = check_names(table.column_names, self.source)
        self.rows: int | None = table.num_rows
        self._table = table

    def size(self, columns: Sequence[str]) -> int:
        """Sum the buffers."""
        return int(self._table.select(list(columns)).nbytes)

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Convert the columns."""
        return to_frame(self._table.select(list(columns)))

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[Batch]:
        """Give slices of the table."""
        table = self._table.select(list(columns))
        for start in range(0, table.num_rows, rows):
            yield table.slice(start, rows)

    def split(self, parts: int) -> Sequence[Table]:
        """Cut into slices of nearly equal length."""
        rows = self._table.num_rows
        step = max(1, -(-rows // parts))
        return [ArrowTable(self._table.slice(start, step)) for start in range(0, rows, step)]

    def lineage(self) -> dict[str, Any]:
        """Name the kind; the fingerprint of the values is added where they are encoded."""
        return {"kind": "arrow"}


def to_frame(batch: Batch) -> pd.DataFrame:
    """Return a batch as a frame: dates as datetimes, decimals as floats, everything else as pandas converts it."""
    import pandas as pd
    import pyarrow as pa

    if isinstance(batch, pd.DataFrame):
        return batch
    decimals = [index for index, field in enumerate(batch.schema) if pa.types.is_decimal(field.type)]
    for index in decimals:
        field = batch.schema.field(index)
        batch = batch.set_column(index, field.name, batch.column(index).cast(pa.float64()))
    # The metadata would turn columns back into the index of the frame that was written.
    frame: pd.DataFrame = batch.to_pandas(date_as_object=False, ignore_metadata=True)
    return frame


def to_arrow(batch: Batch, columns: Sequence[str]) -> pa.Table:
    """Return columns of a batch as an Arrow table, for writing."""
    import pandas as pd
    import pyarrow as pa

    if not isinstance(batch, pd.DataFrame):
        table = batch.select(list(columns))
        for index, field in enumerate(table.schema):
            # Text is read as dictionaries because that is quick to encode; it goes out as text.
            if pa.types.is_dictionary(field.type):
                table = table.set_column(index, field.name, table.column(index).cast(field.type.value_type))
        return table
    try:
        return pa.Table.from_pandas(batch[list(columns)], preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"cannot write the columns {listing(list(columns))} to Parquet: {error}") from error
