"""Tables of every kind read alike, and say clearly what is wrong with them."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compute import Config
from compute.errors import ColumnInvalid, ColumnMissing, DataError, DataNotFound, UnsupportedFormat
from jobs.tables import open_table, to_frame

FRAME = pd.DataFrame(
    {
        "whole": range(100),
        "part": [i / 7 if i % 10 else None for i in range(100)],
        "text": [f"t{i % 5}" if i % 9 else None for i in range(100)],
        "flag": [i % 3 == 0 for i in range(100)],
        "when": pd.date_range("2013-01-01", periods=100, freq="h", tz="UTC"),
    }
)


def _csv(folder: Path) -> Path:
    FRAME.to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


def _gz(folder: Path) -> Path:
    FRAME.to_csv(folder / "t.csv.gz", index=False)
    return folder / "t.csv.gz"


def _zip(folder: Path) -> Path:
    FRAME.to_csv(folder / "t.csv.zip", index=False)
    return folder / "t.csv.zip"


def _parquet(folder: Path) -> Path:
    FRAME.to_parquet(folder / "t.parquet", row_group_size=17)
    return folder / "t.parquet"


def _parquet_directory(folder: Path) -> Path:
    (folder / "d" / "deeper").mkdir(parents=True)
    FRAME.iloc[:30].to_parquet(folder / "d" / "a.parquet", row_group_size=7)
    FRAME.iloc[30:31].to_parquet(folder / "d" / "b.parquet")
    FRAME.iloc[31:].to_parquet(folder / "d" / "deeper" / "c.parquet")
    (folder / "d" / "_SUCCESS").touch()
    return folder / "d"


def _csv_directory(folder: Path) -> Path:
    (folder / "e").mkdir()
    FRAME.iloc[:60].to_csv(folder / "e" / "a.csv", index=False)
    FRAME.iloc[60:].to_csv(folder / "e" / "b.csv.gz", index=False)
    return folder / "e"


WRITERS = (_csv, _gz, _zip, _parquet, _parquet_directory, _csv_directory)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("spelled", [str, Path.as_uri, Path])
def test_files_read_as_the_frame_they_were_written_from(
    write: Callable[[Path], Path], spelled: Callable[[Path], str], tmp_path: Path, config: Config
) -> None:
    folder = tmp_path / "with space%20"
    folder.mkdir()
    table = open_table(spelled(write(folder)), config)
    assert table.columns == tuple(FRAME.columns)
    frame = table.read(["text", "whole", "part", "when"])
    assert list(frame.columns) == ["text", "whole", "part", "when"]
    assert frame["whole"].tolist() == FRAME["whole"].tolist()
    np.testing.assert_allclose(frame["part"], FRAME["part"])
    assert frame["text"].astype(object).where(frame["text"].notna(), None).tolist() == [
        None if pd.isna(value) else value for value in FRAME["text"]
    ]
    assert pd.to_datetime(frame["when"], utc=True).tolist() == FRAME["when"].tolist()


@pytest.mark.parametrize("write", WRITERS)
@given(rows=st.integers(1, 150), parts=st.integers(1, 12))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batches_and_parts_hold_every_row_once_and_in_order(
    write: Callable[[Path], Path], tmp_path: Path, config: Config, rows: int, parts: int
) -> None:
    place = tmp_path / "once"
    if not place.exists():
        place.mkdir()
        write(place)
    table = open_table(next(iter(place.iterdir())), config)
    pieces = table.split(parts)
    assert len(pieces) <= parts
    batches = [batch for piece in pieces for batch in piece.batches(["whole", "text"], rows)]
    assert max(len(batch) for batch in batches) <= rows
    assert [value for batch in batches for value in to_frame(batch)["whole"]] == list(range(100))


def test_a_table_in_memory_is_read_without_being_changed(config: Config) -> None:
    before = FRAME.copy(deep=True)
    for data in (FRAME, pa.Table.from_pandas(FRAME)):
        table = open_table(data, config)
        assert table.rows == 100
        assert len(table.read(["whole"]).columns) == 1
        assert sum(part.rows or 0 for part in table.split(7)) == 100
    pd.testing.assert_frame_equal(FRAME, before)


@pytest.mark.parametrize("write", WRITERS)
def test_the_size_is_estimated_without_reading(write: Callable[[Path], Path], tmp_path: Path, config: Config) -> None:
    table = open_table(write(tmp_path), config)
    # Right to an order of magnitude is what a plan needs.
    assert 400 <= table.size(["whole"]) <= 8_000
    assert table.size(["whole", "text"]) > table.size(["whole"])


def test_decimals_and_dates_become_numbers_and_times(config: Config) -> None:
    import datetime
    import decimal

    table = pa.table({"d": [decimal.Decimal("1.50"), None], "day": [datetime.date(2013, 1, 2), None]})
    frame = open_table(table, config).read(["d", "day"])
    assert frame["d"].dtype == "float64"
    assert frame["d"].iloc[0] == 1.5
    assert pd.api.types.is_datetime64_any_dtype(frame["day"])


# What is wrong is said, with the file's name


def _raises(error: type[DataError] | type[UnsupportedFormat], data: object, config: Config, *words: str) -> None:
    with pytest.raises(error) as caught:
        _read_all(data, config)
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)


def _read_all(data: object, config: Config) -> None:
    table = open_table(data, config)
    table.read(list(table.columns))


def test_nothing_there(tmp_path: Path, config: Config) -> None:
    _raises(DataNotFound, tmp_path / "no.parquet", config, "no.parquet", "working directory")
    (tmp_path / "empty").mkdir()
    _raises(DataNotFound, tmp_path / "empty", config, "empty")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.csv.gz", "t.csv.zip"])
def test_empty_files(name: str, tmp_path: Path, config: Config) -> None:
    (tmp_path / name).touch()
    _raises(DataError, tmp_path / name, config, name, "empty")


@pytest.mark.parametrize("write", [_gz, _zip, _parquet, _csv])
def test_files_cut_in_half(write: Callable[[Path], Path], tmp_path: Path, config: Config) -> None:
    path = write(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if path.suffix != ".csv" else data[: data.rindex(b"\n", 0, 900) + 5])
    _raises(DataError, path, config, path.name, "cut short")


def test_a_parquet_file_whose_pages_are_damaged(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": np.random.default_rng(0).random(10_000)}), path)
    data = bytearray(path.read_bytes())
    data[4:2000] = b"\xff" * 1996
    path.write_bytes(data)
    _raises(DataError, path, config, "t.parquet")


def test_unknown_and_mixed_formats(tmp_path: Path, config: Config) -> None:
    (tmp_path / "t.xlsx").write_text("x")
    _raises(UnsupportedFormat, tmp_path / "t.xlsx", config, "t.xlsx", ".parquet")
    (tmp_path / "mixed").mkdir()
    FRAME.to_csv(tmp_path / "mixed" / "a.csv")
    FRAME.to_parquet(tmp_path / "mixed" / "b.parquet")
    _raises(DataError, tmp_path / "mixed", config, "both CSV and Parquet")
    _raises(UnsupportedFormat, "http://169.254.169.254/t.csv", config, "http")


def test_duplicate_and_unnamed_columns(tmp_path: Path, config: Config) -> None:
    (tmp_path / "t.csv").write_text("a,b,a\n1,2,3\n")
    _raises(DataError, tmp_path / "t.csv", config, "t.csv", "more than one column named a")
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "t.parquet")
    _raises(DataError, tmp_path / "t.parquet", config, "t.parquet", "more than one column named a")
    _raises(DataError, pd.DataFrame([[1, 2]], columns=["a", "a"]), config, "more than one column named a")
    _raises(DataError, pd.DataFrame([[1, 2]]), config, "not text", "astype(str)")


def test_files_that_do_not_go_together(tmp_path: Path, config: Config) -> None:
    pq.write_table(pa.table({"a": [1], "b": [1.0]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": ["x"], "b": [1.0]}), tmp_path / "2.parquet")
    _raises(DataError, tmp_path, config, "types")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "2.parquet")
    _raises(ColumnMissing, tmp_path, config, "2.parquet", "'b'")
    # Whole numbers in one file and fractions in another go together.
    pq.write_table(pa.table({"a": [1.5], "b": [1.0]}), tmp_path / "2.parquet")
    assert open_table(tmp_path, config).read(["a"])["a"].tolist() == [1.0, 1.5]


def test_folders_that_are_columns_are_refused_rather_than_lost(tmp_path: Path, config: Config) -> None:
    (tmp_path / "month=1").mkdir()
    FRAME.to_parquet(tmp_path / "month=1" / "a.parquet")
    _raises(DataError, tmp_path, config, "month=1", "lost")
    assert open_table(tmp_path / "month=1", config).rows == 100


def test_an_archive_of_two_files(tmp_path: Path, config: Config) -> None:
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("a.csv", "a\n1\n")
        archive.writestr("b.csv", "a\n1\n")
    _raises(DataError, tmp_path / "t.csv.zip", config, "2 files")


def test_a_row_that_is_too_short(tmp_path: Path, config: Config) -> None:
    with gzip.open(tmp_path / "t.csv.gz", "wt") as text:
        text.write("a,b\n1,2\n3\n")
    _raises(DataError, tmp_path / "t.csv.gz", config, "Expected 2 columns, got 1")


def test_other_objects(config: Config) -> None:
    _raises(DataError, [1, 2], config, "list", "DataFrame")


def test_a_csv_column_that_changes_its_mind_is_named_with_its_row(tmp_path: Path, config: Config) -> None:
    from jobs.csv_files import CsvTable

    path = tmp_path / "t.csv"
    rows = 300_000  # more than the block on which the types are settled
    path.write_text("pad,n\n" + "".join(f"abcdefghijkl,{i}\n" for i in range(rows)) + "abcdefghijkl,2.5\nabc,oops\n")
    table = open_table(path, config)
    assert isinstance(table, CsvTable)
    expecting = table.expecting({"n": "float"})
    with pytest.raises(ColumnInvalid, match=r"'n' of .*t\.csv has the value 'oops' in row 300001") as caught:
        for _ in expecting.batches(["n"], 50_000):
            pass
    assert caught.value.context == {"feature": "n", "value": "oops", "row": rows + 1}


def test_s3_and_other_stores_are_read_through_fsspec(config: Config) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    with memory.open("/bucket/d/a.parquet", "wb") as sink:
        FRAME.to_parquet(sink)
    with memory.open("/bucket/t.csv.gz", "wb") as sink:
        sink.write(gzip.compress(FRAME.to_csv(index=False).encode()))
    try:
        for uri in ("memory://bucket/d", "memory://bucket/d/a.parquet", "memory://bucket/t.csv.gz"):
            assert open_table(uri, config).read(["whole"])["whole"].tolist() == list(range(100))
        _raises(DataNotFound, "memory://bucket/none", config, "memory://bucket/none")
    finally:
        memory.rm("/bucket", recursive=True)


def test_reading_holds_one_batch_not_the_file(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "big.parquet"
    chunk = pa.table({"x": np.random.default_rng(0).random(500_000)})
    with pq.ParquetWriter(path, chunk.schema) as writer:
        for _ in range(12):
            writer.write_table(chunk, row_group_size=100_000)
    before, peak = pa.total_allocated_bytes(), 0
    for batch in open_table(path, config).batches(["x"], 10_000):
        assert len(batch) <= 10_000
        peak = max(peak, pa.total_allocated_bytes() - before)
    # 48 MB of values; one row group has 0.8 MB.
    assert peak < 8 * 2**20
    shutil.rmtree(tmp_path)
