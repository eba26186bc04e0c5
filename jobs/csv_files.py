"""CSV files as one table, plain or compressed, parsed by Arrow: a row that is too short is an error, not nulls.

pyarrow and fsspec are imported inside functions.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from compute.errors import ColumnInvalid, DataError
from jobs.columns import check_names, require_columns
from jobs.csv_lenient import PLAIN, read_leniently
from jobs.files import DataFile
from jobs.tables import Table, to_frame

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from jobs.tables import Batch

# Arrow settles the type of each column on the first block of a stream: large enough to see most surprises.
_BLOCK = 4 * 2**20
# Bytes in memory for a byte on disk: numbers shrink, text grows, and a compressed file is several times as large.
_GROWTH = {".csv": 2, ".gz": 12, ".zip": 12}


def open_csv(uri: str, files: tuple[DataFile, ...], *, lenient: bool = False) -> CsvTable:
    """Read the header and the first rows of each file, and compare them.

    The batches of a lenient table say in the column `REASON` which rows could not be read, and why; else such a row
    is an error.
    """
    found: dict[str, pa.DataType] = {}
    for file in files:
        with _reader(file, None, skipped=[] if lenient else None) as reader:
            schema = reader.schema
            names = check_names(schema.names, file.path)
        if found:
            require_columns(tuple(found), names, file.path, "(of the first file)")
            require_columns(names, tuple(found), files[0].path, f"(of {file.path})")
        found = found or dict(zip(names, schema.types, strict=True))
    return CsvTable(uri, files, found, lenient=lenient)


@contextmanager
def _bytes(file: DataFile) -> Iterator[IO[bytes]]:
    """Open the text of a file, decompressed."""
    with file.open() as handle:
        if file.path.lower().endswith(".zip"):
            with zipfile.ZipFile(handle) as archive:
                members = [name for name in archive.namelist() if not name.endswith("/")]
                if len(members) != 1:
                    raise DataError(
                        f"{file.path} holds {len(members)} files, not one", hint="Unpack it and name the CSV file."
                    )
                with archive.open(members[0]) as member:
                    yield member
        elif file.path.lower().endswith(".gz"):
            import gzip

            with gzip.open(handle) as text:
                yield cast("IO[bytes]", text)
        else:
            yield handle


@contextmanager
def _reader(
    file: DataFile,
    columns: Sequence[str] | None,
    types: Mapping[str, pa.DataType] | None = None,
    skipped: list[Any] | None = None,
) -> Iterator[Any]:
    """Open a streaming reader; whatever goes wrong in it names the file.

    With ``skipped``, lines of another number of fields than the header are put there, instead of being an error.
    """
    import pyarrow as pa
    from pyarrow import csv

    with _explained(file), _bytes(file) as text:
        try:
            reader = csv.open_csv(text, *_options(columns, types, skipped))
        except pa.ArrowKeyError as error:
            raise DataError(f"{file.path} has other columns than the first file: {error}") from error
        with reader:
            yield reader


def _options(
    columns: Sequence[str] | None,
    types: Mapping[str, pa.DataType] | None = None,
    skipped: list[Any] | None = None,
) -> tuple[Any, Any, Any]:
    from pyarrow import csv

    def skip(line: Any) -> str:
        assert skipped is not None  # it is passed on only with a list
        skipped.append(line)
        return "skip"

    return (
        # With threads, Arrow does not know the numbers of lines.
        csv.ReadOptions(block_size=_BLOCK, use_threads=skipped is None),
        csv.ParseOptions(newlines_in_values=True, invalid_row_handler=None if skipped is None else skip),
        csv.ConvertOptions(
            include_columns=list(columns) if columns is not None else None,
            column_types=dict(types or {}),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


@contextmanager
def _explained(file: DataFile) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise DataError(
            f"{file.path} is not a readable CSV file: {error}",
            hint="It may be cut short, have rows of different lengths, or mix numbers and text in a column.",
        ) from error


class CsvTable:
    """CSV files with a header each, in order.

    ``types`` are the columns' types as the first rows of the first file suggest them.
    """

    rows: int | None = None

    def __init__(
        self,
        uri: str,
        files: tuple[DataFile, ...],
        types: Mapping[str, pa.DataType],
        kinds: Mapping[str, str] | None = None,
        lenient: bool = False,
    ) -> None:
        self.source = uri
        self.columns = tuple(types)
        self._files = files
        self._types = dict(types)
        self._kinds = dict(kinds or {})
        self._lenient = lenient

    def expecting(self, kinds: Mapping[str, str]) -> CsvTable:
        """Return the table with the kinds that a model's signature gives its features.

        The first rows do not tell all: they may be whole numbers where others follow, or empty.
        """
        return CsvTable(self.source, self._files, self._types, kinds, self._lenient)

    def size(self, columns: Sequence[str]) -> int:
        """Estimate from the files' sizes and the share of the columns."""
        total = sum(
            file.size * next((growth for end, growth in _GROWTH.items() if file.path.lower().endswith(end)), 2)
            for file in self._files
        )
        return int(total * len(columns) / len(self.columns))

    def read(self, columns: Sequence[str]) -> pd.DataFrame:
        """Parse with all threads; types are settled on the whole file."""
        import pyarrow as pa
        from pyarrow import csv

        parts = []
        for file in self._files:
            with _explained(file), _bytes(file) as text:
                parts.append(csv.read_csv(text, *_options(columns)))
        try:
            return to_frame(pa.concat_tables(parts, promote_options="permissive"))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f"the files of {self.source} do not agree on their columns' types: {error}") from error

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[Batch]:
        """Parse block by block."""
        import pyarrow as pa

        types = self._expected(columns)
        if self._lenient:
            for file in self._files:
                yield from read_leniently(file, columns, {**self._types, **types}, rows, _reader)
            return
        for file in self._files:
            try:
                with _reader(file, columns, types) as reader:
                    for block in reader:
                        table = pa.Table.from_batches([block])
                        for start in range(0, table.num_rows, rows):
                            yield table.slice(start, rows)
            except DataError as error:
                raise _conversion(error, file) from error.__cause__

    def split(self, parts: int) -> Sequence[Table]:
        """Give a table for each file, or for each run of files."""
        step = max(1, -(-len(self._files) // parts))
        return [
            CsvTable(self.source, self._files[start : start + step], self._types, self._kinds, self._lenient)
            for start in range(0, len(self._files), step)
        ]

    def lineage(self) -> dict[str, Any]:
        """Name the URI and its files."""
        return {"kind": "csv", "uri": self.source, "files": self._files}

    def _expected(self, columns: Sequence[str]) -> dict[str, pa.DataType]:
        """Return the types to parse as, where the first rows may mislead."""
        import pyarrow as pa

        expected: dict[str, pa.DataType] = {}
        for name in columns:
            kind, seen = self._kinds.get(name), self._types[name]
            if kind == "category":
                expected[name] = pa.string()
            elif kind in ("int", "float"):
                expected[name] = pa.float64()
            elif pa.types.is_null(seen):
                expected[name] = pa.bool_() if kind == "bool" else pa.string()
        return expected


def _conversion(error: DataError, file: DataFile) -> DataError:
    """Name the column, the row and the value when a value is not what the rows before it were."""
    import pyarrow as pa

    match = re.search(r"In CSV column #(\d+):.* conversion error to (\S+): invalid value '(.*)'", str(error.__cause__))
    if match is None:
        return error
    with _reader(file, None) as reader:
        name = reader.schema.names[int(match[1])]
    row, found = 0, False
    with _reader(file, [name], {name: pa.string()}) as reader:
        for block in reader:
            place = block.column(0).index(match[3]).as_py()
            found = place >= 0
            row += place if found else block.num_rows
            if found:
                break
    where = f" in row {row}" if found else ""
    needed = PLAIN.get(match[2], match[2])
    return ColumnInvalid(
        f"the column {name!r} of {file.path} has the value {match[3]!r}{where}, where {needed} is needed",
        hint="Leave the cell empty where a value is not known.",
        context={"feature": name, "value": match[3], **({"row": row} if found else {})},
    )
