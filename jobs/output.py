"""Write a Parquet file that is either whole or not there: under another name until it is complete.

pyarrow and fsspec are imported inside functions.
"""

from __future__ import annotations

import shutil
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


def is_directory(uri: str) -> bool:
    """Whether an output is a directory of Parquet files, rather than one file; refuse a name that is neither's.

    Examples
    --------
    >>> is_directory("s3://bucket/scored/"), is_directory("scored"), is_directory("scored.parquet")
    (True, True, False)
    """
    kind, path = file_format(uri), local_path(uri)
    if kind == "parquet":
        if path is not None and path.is_dir():
            raise DataError(f"{uri} is a directory", hint="Name a file to write, or end the name in '/'.")
        return False
    if "." in uri.rstrip("/").rpartition("/")[2] and not uri.endswith("/"):
        raise UnsupportedFormat(
            f"predictions are written as Parquet, and {uri} does not end in .parquet",
            hint="Name a .parquet file, or a directory.",
        )
    if path is not None and path.is_file():
        raise DataError(f"{uri} is a file", hint="Name a directory, or a file that ends in .parquet.")
    return True


def parts_place(uri: str, digest: str) -> str:
    """Return where the parts of a file are gathered: beside it, under a name that readers of folders leave out.

    Examples
    --------
    >>> parts_place("s3://bucket/scored.parquet", "12ab")
    's3://bucket/_scored.parquet.unfinished-12ab'
    """
    path = local_path(uri)
    if path is not None:
        return str(path.with_name(f".{path.name}.unfinished-{digest}"))
    folder, _, name = uri.rpartition("/")
    return f"{folder}/_{name}.unfinished-{digest}"


def bad_rows_file(uri: str) -> str:
    """Return the file, beside an output file, for the rows that could not be scored.

    Examples
    --------
    >>> bad_rows_file("data/scored.parquet")
    'data/scored.bad_rows.parquet'
    """
    stem, _, ending = uri.rpartition(".")
    return f"{stem}.bad_rows.{ending}"


def remove_file(uri: str, config: Config) -> None:
    """Remove a file if it is there."""
    path = local_path(uri)
    if path is not None:
        path.unlink(missing_ok=True)
        return
    import fsspec

    filesystem, key = fsspec.core.url_to_fs(uri, **storage_options(uri, config))
    if filesystem.exists(key):
        filesystem.rm(key)


def remove_folder(uri: str, config: Config) -> None:
    """Remove a folder with all that is left in it, if it is there."""
    path = local_path(uri)
    if path is not None:
        shutil.rmtree(path, ignore_errors=True)
        return
    import fsspec

    filesystem, key = fsspec.core.url_to_fs(uri, **storage_options(uri, config))
    filesystem.invalidate_cache()
    for name in filesystem.find(key):
        filesystem.rm_file(name)


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
