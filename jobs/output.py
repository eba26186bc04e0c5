"""Write a Parquet file that is either whole or not there: under another name until it is complete.

pyarrow and fsspec are imported inside functions.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compute import Config
from compute.errors import DataError, StorageError, UnsupportedFormat
from jobs.files import file_format, local_path, storage_options

if TYPE_CHECKING:
    import pyarrow as pa

# Rows of a row group: readers can take parts of the file, and the footer stays small.
_ROW_GROUP = 131_072


def check_output(uri: str) -> None:
    """Refuse a name that is not Parquet's, before any work is done."""
    if file_format(uri) != "parquet":
        raise UnsupportedFormat(f"predictions are written as Parquet, and {uri} does not end in .parquet")
    path = local_path(uri)
    if path is not None and path.is_dir():
        raise DataError(f"{uri} is a directory", hint="Name a file to write.")


class ParquetOutput:
    """Collects tables into row groups of a file; the schema is the first table's."""

    def __init__(self, sink: Any) -> None:
        self.rows = 0
        self._sink = sink
        self._writer: Any = None
        self._held: list[pa.Table] = []
        self._held_rows = 0

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._held.append(table)
        self._held_rows += table.num_rows
        if self._held_rows >= _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is held, and the footer."""
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._held:
            return
        table = pa.concat_tables(self._held, promote_options="permissive")
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._sink, table.schema)
        try:
            self._writer.write_table(table.cast(self._writer.schema), row_group_size=_ROW_GROUP)
        except (pa.ArrowInvalid, ValueError) as error:
            raise DataError(f"the key columns change their types from batch to batch: {error}") from error
        self.rows += table.num_rows
        self._held, self._held_rows = [], 0


@contextmanager
def parquet_output(uri: str, config: Config) -> Iterator[ParquetOutput]:
    """Open a Parquet file for writing; it gets its name when the block ends without an error.

    A process that is killed leaves at most a hidden ``.NAME.unfinished-...`` beside it.
    """
    path = local_path(uri)
    suffix = f"unfinished-{uuid.uuid4().hex[:12]}"
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f".{path.name}.{suffix}")
            try:
                with unfinished.open("wb") as sink:
                    output = ParquetOutput(sink)
                    yield output
                    output.close()
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        return
    import fsspec

    filesystem, key = fsspec.core.url_to_fs(uri, **storage_options(uri, config))
    folder, _, name = key.rpartition("/")
    temporary = f"{folder}/_{name}.{suffix}"
    try:
        try:
            with filesystem.open(temporary, "wb") as sink:
                output = ParquetOutput(sink)
                yield output
                output.close()
            filesystem.mv(temporary, key)
        finally:
            if filesystem.exists(temporary):
                filesystem.rm(temporary)
    except OSError as error:
        raise StorageError(f"cannot write {uri}: {error}") from error
