"""Parquet files as one table: footers for the size, row groups for the parts, text as dictionaries.

pyarrow is imported inside functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compute.errors import DataError
from jobs.columns import check_names, require_columns
from jobs.files import DataFile
from jobs.tables import Table, to_frame

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from jobs.tables import Batch

# pandas stores an index that has no name under such a name; it is no data.
_INDEX = re.compile(r"__index_level_\d+__")
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class RowGroups:
    """Some row groups of one file: their numbers, and their rows."""

    file: DataFile
    groups: tuple[int, ...]
    rows: int


def open_parquet(uri: str, files: tuple[DataFile, ...]) -> ParquetTable:
    """Read the footers of the files, many at a time."""
    import pyarrow as pa

    with ThreadPoolExecutor(min(_FOOTERS_AT_ONCE, len(files))) as pool:
        footers = list(pool.map(_footer, files))
    for file, (schema, _) in zip(files, footers, strict=True):
        check_names(schema.names, file.path)
    first = footers[0][0]
    for file, (schema, _) in zip(files, footers, strict=True):
        require_columns(first.names, schema.names, file.path, "(of the first file)")
        require_columns(schema.names, first.names, files[0].path, f"(of {file.path})")
    try:
        schema = pa.unify_schemas([schema.remove_metadata() for schema, _ in footers], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"the files of {uri} do not agree on their columns' types: {error}",
            hint="Write them with one schema, or name one file.",
        ) from error
    groups = tuple(
        RowGroups(file, (index,), rows)
        for file, (_, counts) in zip(files, footers, strict=True)
        for index, (rows, _) in enumerate(counts)
    )
    sizes: dict[str, int] = {}
    for _, counts in footers:
        for _, columns in counts:
            for name, size in columns.items():
                sizes[name] = sizes.get(name, 0) + size
    return ParquetTable(uri, schema, groups, sizes)


def _footer(file: DataFile) -> tuple[pa.Schema, list[tuple[int, dict[str, int]]]]:
    """Return the schema and, for each row group, its rows and the uncompressed bytes of each column."""
    with _open(file) as parquet:
        metadata = parquet.metadata
        counts = []
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            sizes: dict[str, int] = {}
            for number in range(group.num_columns):
                column = group.column(number)
                name = column.path_in_schema.partition(".")[0]
                sizes[name] = sizes.get(name, 0) + column.total_uncompressed_size
            counts.append((group.num_rows, sizes))
        return parquet.schema_arrow, counts


@contextmanager
def _open(file: DataFile, dictionaries: Sequence[str] = ()) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.local:
            with pq.ParquetFile(file.path, memory_map=True, read_dictionary=list(dictionaries)) as parquet:
                yield parquet
        else:
            with file.open() as handle, pq.ParquetFile(handle, read_dictionary=list(dictionaries)) as parquet:
                yield parquet
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{file.path} ({file.size} bytes) is not a readable Parquet file: {error}",
            hint="It may have been cut short while it was copied or written; write it again.",
        ) from error


class ParquetTable:
    """Row groups of Parquet files, in order."""

    def __init__(self, uri: str, schema: pa.Schema, groups: tuple[RowGroups, ...], sizes: dict[str, int]) -> None:
        self.source = uri
        self.columns = tuple(name for name in schema.names if not _INDEX.fullmatch(name))
        self.rows: int | None = sum(group.rows for group in groups)
        self.largest_piece = max((group.rows for group in groups), default=0)
        self._schema = schema
        self._groups = groups
        self._sizes = sizes

    def size(self, columns: Sequence[str]) -> int:
        """Estimate from the schema and the footers."""
        import pyarrow as pa

        total = 0
        for name in columns:
            kind = self._schema.field(name).type
            # Text and nested values: as a dictionary or as buffers, hardly more than Parquet's own pages, uncompressed.
            width = kind.bit_width // 8 if pa.types.is_primitive(kind) else 0
            total += max((self.rows or 0) * max(width, 4), 0 if width else 2 * self._sizes.get(name, 0))
        return total

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read file by file, each with all threads."""
        import pyarrow as pa

        parts = []
        for file, groups in self._by_file():
            with _open(file, self._text(columns)) as parquet:
                part = parquet.read_row_groups(list(groups), columns=list(columns))
            parts.append(part.select(list(columns)))
        if not parts:
            return to_frame(pa.schema([self._schema.field(name) for name in columns]).empty_table())
        return to_frame(pa.concat_tables(parts, promote_options="permissive"))

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[Batch]:
        """Read row group by row group; one is held at a time."""
        import pyarrow as pa

        # Dictionaries make features quick to encode, but a key column is to come out as it went in.
        wanted = pa.schema([self._schema.field(name) for name in columns])
        text = set(self._text(columns))
        for file, groups in self._by_file():
            with _open(file, tuple(text)) as parquet:
                for batch in parquet.iter_batches(rows, row_groups=list(groups), columns=list(columns)):
                    table = pa.Table.from_batches([batch]).select(list(columns))
                    for index, field in enumerate(wanted):
                        if field.name not in text and table.schema.field(index).type != field.type:
                            table = table.set_column(index, field, table.column(index).cast(field.type))
                    yield table

    def split(self, parts: int) -> Sequence[Table]:
        """Cut between row groups into parts of nearly as many rows."""
        total, before = max(1, self.rows or 0), 0
        cut: dict[int, list[RowGroups]] = {}
        for group in self._groups:
            # Each goes to the part that its middle lies in.
            middle = before + group.rows / 2
            cut.setdefault(min(parts - 1, int(middle * parts / total)), []).append(group)
            before += group.rows
        return [ParquetTable(self.source, self._schema, tuple(groups), self._sizes) for groups in cut.values()]

    def lineage(self) -> dict[str, Any]:
        """Name the URI and its files."""
        files = tuple(dict.fromkeys(group.file for group in self._groups))
        return {"kind": "parquet", "uri": self.source, "files": files}

    def _text(self, columns: Sequence[str]) -> tuple[str, ...]:
        import pyarrow as pa

        return tuple(
            name
            for name in columns
            if pa.types.is_string(self._schema.field(name).type)
            or pa.types.is_large_string(self._schema.field(name).type)
        )

    def _by_file(self) -> list[tuple[DataFile, tuple[int, ...]]]:
        files: dict[DataFile, list[int]] = {}
        for group in self._groups:
            files.setdefault(group.file, []).extend(group.groups)
        return [(file, tuple(numbers)) for file, numbers in files.items()]
