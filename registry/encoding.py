"""Raw rows to the matrix a model takes: the one preprocessing, in training and in prediction alike.

Rows (``list[dict]``) are read value by value, without pandas, because most requests bring one; tables are read column
by column. Both follow the rules of `registry.values`. pandas is imported by the functions that get a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from compute.errors import ColumnInvalid, ColumnMissing, InvalidField
from registry.signature import Column, Signature
from registry.values import FLAG, NUMBER, TEXT, TIME, BadValue, as_category, as_days, as_flag, as_number, plain
from registry.values import is_missing as _is_missing

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Rows = Sequence[Mapping[str, Any]]
Matrix = NDArray[np.float32] | NDArray[np.float64]

_EXPECTED = {"int": NUMBER, "float": NUMBER, "bool": FLAG, "category": TEXT, "datetime": TIME}
_NAN = math.nan
_ABSENT = object()


def encode(
    frame: pd.DataFrame | pa.Table | Rows,
    signature: Signature,
    dtype: Literal["float32", "float64"] = "float32",
) -> NDArray[Any]:
    """Turn raw rows into the matrix a model takes.

    Parameters
    ----------
    frame : DataFrame, pyarrow.Table, or list of dict
        Rows with the features among their columns; other columns are ignored.
    signature : Signature
        The features, in the matrix's order.
    dtype : {"float32", "float64"}
        XGBoost takes the first; with it a time is known to some three minutes.

    Returns
    -------
    ndarray, shape (rows, features)
        Categories as their index (NaN for an unknown one), booleans as 0 and 1, times as days since 1970 UTC, and
        missing values as NaN, whether or not there were any in training.

    Raises
    ------
    ColumnMissing
        Naming a feature that is not there.
    ColumnInvalid
        Naming the feature, the row and the value that has the wrong type, or is infinite.

    Examples
    --------
    >>> from registry.signature import Column
    >>> carrier = Column(name="carrier", dtype="category", categories=("AA", "UA"))
    >>> signature = Signature(columns=(Column(name="distance", dtype="int"), carrier))
    >>> encode([{"distance": 733, "carrier": "UA"}, {"distance": None, "carrier": "new"}], signature)
    array([[733.,   1.],
           [ nan,  nan]], dtype=float32)
    >>> encode([{"distance": "far", "carrier": "UA"}], signature)
    Traceback (most recent call last):
    ...
    compute.errors.ColumnInvalid: the feature 'distance' has the value 'far' in row 0, where a number is needed...
    """
    if dtype not in ("float32", "float64"):
        raise InvalidField(f"a matrix of {dtype!r} cannot be made", hint='Use "float32" or "float64".')
    if isinstance(frame, list | tuple):
        matrix = _encode_rows(frame, _encoder(signature), dtype)
        table = None
    else:
        table = _as_frame(frame, signature)
        matrix = _encode_frame(table, signature, dtype)
    if np.isinf(matrix).any():
        row, index = (int(place[0]) for place in np.nonzero(np.isinf(matrix)))
        name = signature.columns[index].name
        value = frame[row][name] if table is None else table[name].iloc[row]
        _refuse(signature.columns[index], row, value, f"a finite {dtype} is needed")
    return matrix


def encode_columns(
    columns: Mapping[str, NDArray[Any] | Sequence[Any]],
    signature: Signature,
    dtype: Literal["float32", "float64"] = "float32",
) -> NDArray[Any]:
    """Turn columns into the matrix a model takes, as `encode` does with rows.

    Parameters
    ----------
    columns : mapping of str to ndarray or sequence, all of one length
        An array of numbers or booleans is taken as it is; of a sequence, each value is read by itself.
    signature : Signature
        The features, in the matrix's order; columns that are none of them are ignored.
    dtype : {"float32", "float64"}
        As for `encode`.

    Returns
    -------
    ndarray, shape (rows, features)

    Raises
    ------
    ColumnMissing, ColumnInvalid
        As `encode`.

    Examples
    --------
    >>> from registry.signature import Column
    >>> carrier = Column(name="carrier", dtype="category", categories=("AA", "UA"))
    >>> signature = Signature(columns=(Column(name="distance", dtype="int"), carrier))
    >>> encode_columns({"distance": np.array([733, 400]), "carrier": ["UA", None]}, signature)
    array([[733.,   1.],
           [400.,  nan]], dtype=float32)
    """
    rows = len(next(iter(columns.values()), ()))
    matrix = np.empty((rows, len(signature.columns)), dtype=dtype)
    readers = _encoder(signature).readers
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused by name
        for position, column in enumerate(signature.columns):
            if column.name not in columns:
                _refuse_missing(column.name, None, columns)
            values = columns[column.name]
            if isinstance(values, np.ndarray) and values.dtype.kind in "fiub" and column.dtype in ("int", "float"):
                matrix[:, position] = values
                continue
            read = readers[position][1]
            for row, value in enumerate(values.tolist() if isinstance(values, np.ndarray) else values):
                try:
                    matrix[row, position] = read(value)
                except BadValue as error:
                    _refuse(column, row, value, f"{error} is needed")
    infinite = np.isinf(matrix)
    if infinite.any():
        row, index = (int(place[0]) for place in np.nonzero(infinite))
        name = signature.columns[index].name
        _refuse(signature.columns[index], row, columns[name][row], f"a finite {dtype} is needed")
    return matrix


def read_texts(table: pd.DataFrame | pa.Table | Rows, column: Column) -> list[str | None]:
    """Return the values of a category column as text, known or not; of a table that `encode` took.

    Examples
    --------
    >>> read_texts([{"x": 1.0}, {"x": None}], Column(name="x", dtype="category", categories=("1",)))
    ['1', None]
    """
    if isinstance(table, list | tuple):
        values = [row[column.name] for row in table]
    else:
        frame = _as_frame(table, Signature(columns=(column,)))
        values = frame[column.name].tolist()
    plainly = (plain(value) for value in values)
    return [None if _is_missing(value) else as_category(value) for value in plainly]


# Rows


class _Encoder:
    """A signature, prepared for reading rows."""

    def __init__(self, signature: Signature) -> None:
        self.columns = signature.columns
        self.readers = [(column.name, _reader(column)) for column in signature.columns]


@lru_cache(maxsize=256)
def _encoder(signature: Signature) -> _Encoder:
    return _Encoder(signature)


def _reader(column: Column) -> Callable[[Any], float]:
    """Return what reads a value that is a plain number or text at once, and any other by the rules."""
    if column.categories is not None:
        index = {text: float(position) for position, text in enumerate(column.categories)}

        def read_category(value: Any) -> float:
            if type(value) is str:
                return index.get(value, _NAN)
            value = plain(value)
            return _NAN if _is_missing(value) else index.get(as_category(value), _NAN)

        return read_category
    read = {"int": as_number, "float": as_number, "bool": as_flag, "datetime": as_days}[column.dtype]

    def read_value(value: Any) -> float:
        value = plain(value)
        return _NAN if _is_missing(value) else read(value)

    return read_value


def _encode_rows(rows: Rows, encoder: _Encoder, dtype: str) -> NDArray[Any]:
    values: list[float] = []
    append, readers = values.append, encoder.readers
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ColumnInvalid(
                f"row {number} is {row!r:.80}, not an object of features",
                hint='Write each row as {"feature": value, ...}.',
                context={"row": number},
            )
        for position, (name, read) in enumerate(readers):
            value = row.get(name, _ABSENT)
            if type(value) is float:
                if encoder.columns[position].dtype in ("int", "float"):
                    append(value)
                    continue
            elif value is _ABSENT:
                _refuse_missing(name, number, row)
            try:
                append(read(value))
            except BadValue as error:
                _refuse(encoder.columns[position], number, value, f"{error} is needed")
    matrix = np.array(values, dtype="float64").reshape(len(rows), len(readers))
    if dtype == "float64":
        return matrix
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused by name
        return matrix.astype(np.float32)


# Tables


def _as_frame(table: Any, signature: Signature) -> pd.DataFrame:
    """Return the table as a frame of text column names, with the features among them."""
    import pandas as pd

    if hasattr(table, "column_names") and hasattr(table, "to_pandas"):  # pyarrow, without importing it
        wanted = [name for name in table.column_names if name in set(signature.feature_names)]
        if len(wanted) == len(set(wanted)) == len(signature.columns):  # else what is wrong is named below
            table = table.select(wanted)
        table = table.to_pandas()
    if not isinstance(table, pd.DataFrame):
        raise ColumnInvalid(
            f"rows cannot be read from a {type(table).__name__}",
            hint="Give a DataFrame, an Arrow table or a list of dict.",
        )
    if not all(isinstance(name, str) for name in table.columns):
        table = table.set_axis([str(name) for name in table.columns], axis=1)
    counts = table.columns.value_counts() if not table.columns.is_unique else None
    for column in signature.columns:
        if column.name not in table.columns:
            _refuse_missing(column.name, None, table.columns)
        if counts is not None and counts[column.name] > 1:
            raise ColumnInvalid(
                f"the table has two columns named {column.name!r}", hint="Rename one.", context={"feature": column.name}
            )
    checked: pd.DataFrame = table
    return checked


def _encode_frame(frame: pd.DataFrame, signature: Signature, dtype: str) -> NDArray[Any]:
    matrix = np.empty((len(frame), len(signature.columns)), dtype=dtype)
    with np.errstate(over="ignore"):
        for position, column in enumerate(signature.columns):
            matrix[:, position] = _encode_series(frame[column.name], column)
    return matrix


def _encode_series(series: pd.Series[Any], column: Column) -> NDArray[Any]:
    """Read a column at once where its dtype says what is in it, else by its distinct values."""
    import pandas as pd

    types, dtype = pd.api.types, series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        # One value for each category, and NaN at the end for the code -1.
        return np.append(_encode_values(dtype.categories, column, series), _NAN)[series.cat.codes.to_numpy()]
    number = types.is_bool_dtype(dtype) or types.is_integer_dtype(dtype) or types.is_float_dtype(dtype)
    if column.dtype in ("int", "float") and number:
        return _floats(series)
    if column.dtype == "bool" and number:
        values = _floats(series)
        strange = ~(np.isnan(values) | (values == 0) | (values == 1))
        if strange.any():
            row = int(np.argmax(strange))
            _refuse(column, row, series.iloc[row], f"{FLAG} is needed")
        return values
    if column.dtype == "datetime" and types.is_datetime64_any_dtype(dtype):
        return _days(series)
    if types.is_object_dtype(dtype) and types.infer_dtype(series, skipna=True) != "string":
        # Value by value: some have no hash, and of those that have, True, 1 and 1.0 would be taken for one.
        return _encode_values(series, column, series)
    codes, distinct = pd.factorize(series)
    return np.append(_encode_values(distinct, column, series), _NAN)[codes]


def _floats(series: pd.Series[Any]) -> NDArray[Any]:
    if isinstance(series.dtype, np.dtype):
        return series.to_numpy()
    return series.to_numpy(dtype="float64", na_value=_NAN)


def _days(series: pd.Series[Any]) -> NDArray[np.float64]:
    import pandas as pd

    if getattr(series.dtype, "tz", None) is None and not isinstance(series.dtype, np.dtype):
        series = pd.Series(pd.to_datetime(series.astype(object)))  # pyarrow's own time type
    if getattr(series.dtype, "tz", None) is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    times = series.to_numpy()
    unit, count = np.datetime_data(times.dtype)
    per_day = np.timedelta64(1, "D") / np.ones((), dtype=f"timedelta64[{count}{unit}]")
    days: NDArray[np.float64] = times.astype("int64") / per_day
    days[np.isnat(times)] = _NAN
    return days


def _encode_values(values: Any, column: Column, series: pd.Series[Any]) -> NDArray[np.float64]:
    read = _reader(column)
    result = np.full(len(values), _NAN, dtype="float64")
    searched = False
    for position, value in enumerate(values):
        try:
            result[position] = read(value)
        except BadValue:
            if not searched:  # a category that no row has does no harm
                _refuse_first(series, column, read)
                searched = True
    return result


def _refuse_first(series: pd.Series[Any], column: Column, read: Callable[[Any], float]) -> None:
    """Name the first row whose value cannot be read, if there is one."""
    for row, value in enumerate(series):
        try:
            read(value)
        except BadValue as error:
            _refuse(column, row, value, f"{error} is needed")


# Errors


def _refuse(column: Column, row: int, value: object, needed: str) -> NoReturn:
    value = plain(value)
    fact = value if isinstance(value, str | int | bool) and len(str(value)) <= 100 else f"{value!r:.100}"
    raise ColumnInvalid(
        f"the feature {column.name!r} has the value {value!r:.100} in row {row}, where {needed}",
        hint="Send null where a value is not known.",
        context={"feature": column.name, "row": row, "value": fact},
    )


def _refuse_missing(name: str, row: int | None, there: Any) -> NoReturn:
    place = "the table" if row is None else f"row {row}"
    near = ", ".join(repr(str(other)) for other in list(there)[:20])
    raise ColumnMissing(
        f"the feature {name!r} is not in {place}, which has {near or 'nothing'}",
        hint="Send every feature of the model's signature; null where a value is not known.",
        context={"feature": name} if row is None else {"feature": name, "row": row},
    )
