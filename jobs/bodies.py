"""Tables that come as bytes, and go as bytes: CSV, Arrow and Parquet, by the rules by which files of them are read.

pyarrow is imported inside functions.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

from compute.errors import DataError, PayloadTooLarge
from jobs.columns import check_names, require_columns
from jobs.files import DataFile

if TYPE_CHECKING:
    import pyarrow as pa

    from registry import Signature

BodyFormat = Literal["csv", "arrow", "parquet"]

_DICTIONARY, _BATCH = 2, 3  # of the union MessageHeader

MOST_BYTES = 2**30
"""Of a table in memory: compressed bytes may stand for any number of others."""


def read_body(kind: BodyFormat, body: bytes, signature: Signature, most_bytes: int = MOST_BYTES) -> pa.Table:
    """Return the table that the bytes hold.

    Parameters
    ----------
    kind : {"csv", "arrow", "parquet"}
        CSV with a header, an Arrow IPC stream, or a Parquet file.
    body : bytes
        The bytes.
    signature : Signature
        Of the model that will take the rows: says what the columns of CSV hold. Other columns are left out.
    most_bytes : int
        Beyond which a table is refused before it is in memory.

    Raises
    ------
    DataError
        When it is not readable.
    ColumnMissing
        Naming a feature that has no column.
    PayloadTooLarge
        When the table is larger.

    Examples
    --------
    >>> from registry import Column, Signature
    >>> signature = Signature(columns=(Column(name="x", dtype="float"),))
    >>> read_body("csv", b"id,x" + chr(10).encode() + b"7,1.5", signature).to_pydict()
    {'x': [1.5]}
    """
    if kind == "csv":
        return _read_csv(body, signature)
    import pyarrow as pa

    try:
        return (
            _read_parquet(body, signature, most_bytes)
            if kind == "parquet"
            else _read_arrow(body, signature, most_bytes)
        )
    except (pa.ArrowException, OSError, EOFError, struct.error, IndexError) as error:
        raise DataError(f"the body is not a readable {kind} table: {str(error)[:300]}") from error


def write_body(kind: BodyFormat, table: pa.Table) -> bytes:
    r"""Return a table as bytes.

    Examples
    --------
    >>> import pyarrow as pa
    >>> write_body("csv", pa.table({"prediction": [1.5]}))
    b'"prediction"\n1.5\n'
    """
    sink = io.BytesIO()
    if kind == "csv":
        from pyarrow import csv

        csv.write_csv(table, sink)
    elif kind == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, sink)
    else:
        from pyarrow import ipc

        with ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


@dataclass(frozen=True)
class _Body(DataFile):
    content: bytes = b""

    def open(self) -> IO[bytes]:
        return io.BytesIO(self.content)


def _read_csv(body: bytes, signature: Signature) -> pa.Table:
    import pyarrow as pa

    from jobs.csv_files import open_csv

    table = open_csv("the body", (_Body("the body", len(body), "", content=body),))
    table = table.expecting({column.name: column.dtype for column in signature.columns})
    columns = _features(signature, table.columns)
    batches = list(table.batches(columns, 2**31))
    if not batches:  # a header alone
        return pa.table({name: pa.array([], pa.null()) for name in columns})
    return pa.concat_tables(batches, promote_options="permissive")


def _read_parquet(body: bytes, signature: Signature, most_bytes: int) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(body))
    columns = _features(signature, file.schema_arrow.names)
    # Eight bytes a cell at least: a dictionary or run-length encoding may hold any number of rows in few bytes.
    _refuse_larger(file.metadata.num_rows * 8 * len(columns), most_bytes)
    # The footer may not tell the truth, so what is read is counted as well.
    batches = _counted(file.iter_batches(columns=columns), most_bytes)
    return pa.Table.from_batches(batches) if batches else file.read(columns=columns)


def _read_arrow(body: bytes, signature: Signature, most_bytes: int) -> pa.Table:
    import pyarrow as pa
    from pyarrow import ipc

    if any(_is_compressed(memoryview(message.metadata)) for message in ipc.MessageReader.open_stream(body)):
        raise DataError(
            "the Arrow stream is compressed, and may be of any size",
            hint="Write it without compression, or send Parquet.",
        )
    with ipc.open_stream(body) as reader:
        schema = reader.schema
        columns = _features(signature, schema.names)
        batches = _counted(reader, most_bytes)
    table = pa.Table.from_batches(batches, schema=schema)
    table.validate()  # what comes from elsewhere may point beyond its own buffers
    return table.select(columns)


def _counted(batches: Iterable[pa.RecordBatch], most_bytes: int) -> list[pa.RecordBatch]:
    taken = []
    size = 0
    for batch in batches:
        size += batch.nbytes
        _refuse_larger(size, most_bytes)
        taken.append(batch)
    return taken


def _is_compressed(metadata: memoryview) -> bool:
    """Whether a message holds a compressed batch: Arrow's reader would inflate it before it could be measured.

    Fields of the FlatBuffers tables Message, RecordBatch and DictionaryBatch of Arrow's `Message.fbs`.
    """

    def field(table: int, number: int) -> int:
        """Return where a field lies, or 0 when it is not there."""
        vtable = table - struct.unpack_from("<i", metadata, table)[0]
        place = 4 + 2 * number
        if place >= struct.unpack_from("<H", metadata, vtable)[0]:
            return 0
        offset: int = struct.unpack_from("<H", metadata, vtable + place)[0]
        return table + offset if offset else 0

    def follow(place: int) -> int:
        offset: int = struct.unpack_from("<I", metadata, place)[0]
        return place + offset

    message = follow(0)
    kind = metadata[field(message, 1)] if field(message, 1) else 0
    if kind not in (_DICTIONARY, _BATCH):
        return False
    batch = follow(field(message, 2))
    if kind == _DICTIONARY:
        batch = follow(field(batch, 1))
    return field(batch, 3) != 0


def _features(signature: Signature, names: Sequence[str]) -> list[str]:
    require_columns(signature.feature_names, check_names(names, "the body"), "the body", "feature")
    return list(signature.feature_names)


def _refuse_larger(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise PayloadTooLarge(
            f"the table takes {size:,} bytes in memory, and {most_bytes:,} are taken here",
            hint="Send it in parts, or score it where it lies: `python -m jobs.predict`.",
            context={"limit": most_bytes},
        )
