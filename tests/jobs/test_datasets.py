"""The flights of the demonstration, and doctests' neighbours: what a newcomer runs first."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compute.errors import UnsupportedFormat
from jobs.datasets import write_flights


def test_all_flights_are_written_with_their_types(tmp_path: Path) -> None:
    output = tmp_path / "new" / "flights.parquet"
    assert write_flights(str(output))["rows"] == 336_776
    file = pq.ParquetFile(output)
    assert file.num_row_groups == 7
    schema = file.schema_arrow
    assert schema.field("arr_delay").type == pa.int64()
    assert schema.field("carrier").type == pa.string()
    assert pa.types.is_timestamp(schema.field("time_hour").type)
    table = file.read(["arr_delay", "tailnum", "distance"])
    assert [column.null_count for column in table.columns] == [9_430, 2_512, 0]
    assert [item.name for item in output.parent.iterdir()] == ["flights.parquet"]


def test_only_a_path_on_this_machine_is_written() -> None:
    with pytest.raises(UnsupportedFormat, match="not a path"):
        write_flights("s3://bucket/flights.parquet")
