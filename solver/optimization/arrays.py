"""Programs as JSON in the names of MathOpt and a structure of arrays; what is long may be base64 of typed arrays."""

from __future__ import annotations

import base64
import binascii
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from compute.errors import InvalidField
from solver.optimization.program import MAX_NONZEROS, Floats, Integers, Program, make_program

_KEYS: Mapping[str, Sequence[str]] = {
    "model": ("name", "variables", "objective", "linear_constraints", "linear_constraint_matrix"),
    "model.variables": ("count", "names", "lower_bounds", "upper_bounds", "integers"),
    "model.objective": ("maximize", "offset", "linear_coefficients", "quadratic_coefficients"),
    "model.objective.linear_coefficients": ("ids", "values"),
    "model.objective.quadratic_coefficients": ("row_ids", "column_ids", "coefficients"),
    "model.linear_constraints": ("count", "names", "lower_bounds", "upper_bounds"),
    "model.linear_constraint_matrix": ("row_ids", "row_starts", "column_ids", "coefficients"),
}
_DTYPES = ("float64", "float32", "int64", "int32", "uint8", "bool")
_INFINITIES = {"inf": math.inf, "+inf": math.inf, "infinity": math.inf, "-inf": -math.inf, "-infinity": -math.inf}


def read_arrays(model: Mapping[str, Any]) -> Program:
    """Return the program that a model of arrays describes.

    Parameters
    ----------
    model : mapping
        ``variables`` {count, names, lower_bounds, upper_bounds, integers}, ``objective`` {maximize, offset,
        linear_coefficients (one for each variable, or {ids, values}), quadratic_coefficients {row_ids, column_ids,
        coefficients}}, ``linear_constraints`` {count, names, lower_bounds, upper_bounds}, and
        ``linear_constraint_matrix`` {row_ids or row_starts, column_ids, coefficients}. A scalar stands for an array of
        it; as a bound, null is none, and "inf" and "-inf" are known; an array is a list, or {dtype, base64} of
        little-endian numbers. Variables without bounds have none.

    Raises
    ------
    InvalidField
        Naming the field.

    Examples
    --------
    >>> program = read_arrays({
    ...     "variables": {"names": ["x", "y"], "lower_bounds": 0, "integers": [True, False]},
    ...     "objective": {"maximize": True, "linear_coefficients": [3, 2]},
    ...     "linear_constraints": {"upper_bounds": [4]},
    ...     "linear_constraint_matrix": {"row_ids": [0, 0], "column_ids": [0, 1], "coefficients": [1, 1]},
    ... })
    >>> program.kind, program.size, program.upper.tolist()
    ('MIP', (1, 2), [inf, inf])
    """
    root = _object(model, "model")
    columns = _object(root.get("variables"), "model.variables")
    objective = _object(root.get("objective"), "model.objective")
    constraints = _object(root.get("linear_constraints"), "model.linear_constraints")
    matrix = _object(root.get("linear_constraint_matrix"), "model.linear_constraint_matrix")
    costs = objective.get("linear_coefficients")
    also = {"model.objective.linear_coefficients": None if isinstance(costs, Mapping) and "ids" in costs else costs}
    width = _count(columns, "model.variables", also)
    height = _count(constraints, "model.linear_constraints", {})
    rows, places, values = _matrix(matrix, height)
    return make_program(
        linear=_linear(costs, width),
        lower=_bounds(columns, "lower_bounds", "model.variables", width, -math.inf),
        upper=_bounds(columns, "upper_bounds", "model.variables", width, math.inf),
        integer=_flags(columns.get("integers", False), "model.variables.integers", width),
        rows=rows,
        columns=places,
        values=values,
        row_lower=_bounds(constraints, "lower_bounds", "model.linear_constraints", height, -math.inf),
        row_upper=_bounds(constraints, "upper_bounds", "model.linear_constraints", height, math.inf),
        quadratic=_quadratic(objective.get("quadratic_coefficients")),
        maximize=_flag(objective.get("maximize", False), "model.objective.maximize"),
        offset=float(_numbers(objective.get("offset", 0.0), "model.objective.offset", 1)[0]),
        name=_text(root.get("name", ""), "model.name"),
        variables=_names(columns, "model.variables", width),
        constraints=_names(constraints, "model.linear_constraints", height),
    )


def _object(value: object, path: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        _refuse(path, f"is a {type(value).__name__}, not an object", f"It has {', '.join(_KEYS[path])}.")
    unknown = [key for key in value if key not in _KEYS[path]]
    if unknown:
        _refuse(path, f"has the unknown key {str(unknown[0])[:80]!r}", f"It has {', '.join(_KEYS[path])}.")
    return value


def _count(section: Mapping[str, Any], path: str, also: Mapping[str, object]) -> int:
    """Return how many variables or constraints there are, by whatever says so."""
    if section.get("count") is not None:
        count = section["count"]
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_NONZEROS:
            # Scalars become arrays of this length: it must not be any.
            _refuse(f"{path}.count", f"is {count!r:.80}", f"It is a whole number up to {MAX_NONZEROS:,}.")
        return int(count)
    fields = {f"{path}.{key}": value for key, value in section.items()} | dict(also)
    for field, value in fields.items():
        if isinstance(value, Sequence) and not isinstance(value, str):
            return len(value)
        if isinstance(value, Mapping):
            return len(_typed(value, field))
    if fields and any(value is not None for value in fields.values()):
        _refuse(path, "does not say how many there are", "Give count, names, or one of the others as an array.")
    return 0


def _numbers(value: object, path: str, count: int | None) -> Floats:
    """Return an array of finite numbers; a scalar stands for as many as there are."""
    if isinstance(value, Mapping):
        array = np.asarray(_typed(value, path), np.float64)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if any(isinstance(item, bool) or not isinstance(item, int | float) for item in value):
            place = next(
                n for n, item in enumerate(value) if isinstance(item, bool) or not isinstance(item, int | float)
            )
            _refuse(f"{path}[{place}]", f"is {value[place]!r:.80}, not a number", "")
        array = _floats(value, path)
    elif isinstance(value, int | float) and not isinstance(value, bool) and count is not None:
        array = np.full(count, _floats([value], path)[0])
    else:
        _refuse(path, f"is {value!r:.80}", "It is an array of numbers.")
    _check_length(array, path, count)
    if not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0])
        _refuse(f"{path}[{place}]", f"is {array[place]}, not a number", "")
    return array


def _bounds(section: Mapping[str, Any], key: str, path: str, count: int, nothing: float) -> Floats:
    value, path = section.get(key), f"{path}.{key}"
    if isinstance(value, Mapping):
        array = np.asarray(_typed(value, path), np.float64)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        array = _floats([_bound(item, f"{path}[{place}]", nothing) for place, item in enumerate(value)], path)
    else:
        array = np.full(count, _bound(value, path, nothing))
    _check_length(array, path, count)
    return array


def _bound(value: object, path: str, nothing: float) -> float:
    if value is None:
        return nothing
    if isinstance(value, str) and value.lower() in _INFINITIES:
        return _INFINITIES[value.lower()]
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        _refuse(path, f"is {value!r:.80}", 'A bound is a number, null, "inf" or "-inf".')
    return float(_floats([value], path)[0])


def _flags(value: object, path: str, count: int) -> npt.NDArray[np.bool_]:
    if isinstance(value, Mapping):
        array = _typed(value, path)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        array = np.array([_flag(item, f"{path}[{place}]") for place, item in enumerate(value)], np.bool_)
    else:
        array = np.full(count, _flag(value, path))
    _check_length(array, path, count)
    return np.asarray(array != 0)


def _flag(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        _refuse(path, f"is {value!r:.80}", "It is true or false.")
    return value


def _ids(value: object, path: str) -> Integers:
    array = _numbers(value, path, None)
    if (array != np.floor(array)).any() or (np.abs(array) > 2**53).any():
        _refuse(path, "has numbers that are not whole", "Ids are counted from 0.")
    return array.astype(np.int64)


def _linear(value: object, width: int) -> Floats:
    path = "model.objective.linear_coefficients"
    if value is None:
        return np.zeros(width)
    if not isinstance(value, Mapping) or "base64" in value:
        return _numbers(value, path, width)
    section = _object(value, path)
    ids = _ids(section.get("ids"), f"{path}.ids")
    values = _numbers(section.get("values"), f"{path}.values", len(ids))
    if ((ids < 0) | (ids >= width)).any():
        _refuse(f"{path}.ids", f"has an id that is not there: there are {width} variables, from 0 on", "")
    return np.asarray(np.bincount(ids, weights=values, minlength=width), np.float64)


def _quadratic(value: object) -> tuple[Integers, Integers, Floats] | None:
    path = "model.objective.quadratic_coefficients"
    section = _object(value, path)
    if not section:
        return None
    rows = _ids(section.get("row_ids"), f"{path}.row_ids")
    columns = _ids(section.get("column_ids"), f"{path}.column_ids")
    _check_length(columns, f"{path}.column_ids", len(rows))
    return rows, columns, _numbers(section.get("coefficients"), f"{path}.coefficients", len(rows))


def _matrix(section: Mapping[str, Any], height: int) -> tuple[Integers, Integers, Floats]:
    path = "model.linear_constraint_matrix"
    if not section:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    columns = _ids(section.get("column_ids"), f"{path}.column_ids")
    values = _numbers(section.get("coefficients"), f"{path}.coefficients", len(columns))
    if ("row_ids" in section) == ("row_starts" in section):
        _refuse(path, "has row_ids and row_starts, or neither", "Give one of them.")
    if "row_ids" in section:
        rows = _ids(section["row_ids"], f"{path}.row_ids")
        _check_length(rows, f"{path}.row_ids", len(columns))
        return rows, columns, values
    starts = _ids(section["row_starts"], f"{path}.row_starts")
    _check_length(starts, f"{path}.row_starts", height + 1)
    if starts[0] != 0 or starts[-1] != len(columns) or (np.diff(starts) < 0).any():
        _refuse(f"{path}.row_starts", f"does not go from 0 up to {len(columns)}, the number of entries", "")
    return np.repeat(np.arange(height), np.diff(starts)), columns, values


def _names(section: Mapping[str, Any], path: str, count: int) -> tuple[str, ...]:
    names = section.get("names")
    if names is None:
        return ()
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        _refuse(f"{path}.names", "is no array of texts", "")
    _check_length(names, f"{path}.names", count)
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        _refuse(f"{path}.names", f"has {twice[:80]!r} twice", "")
    return tuple(names)


def _typed(value: Mapping[str, Any], path: str) -> npt.NDArray[Any]:
    if set(value) != {"dtype", "base64"} or value["dtype"] not in _DTYPES:
        _refuse(path, "is no array", f'Give a list, or {{"dtype": one of {", ".join(_DTYPES)}, "base64": "..."}}.')
    kind = np.dtype(value["dtype"]).newbyteorder("<")
    try:
        data = base64.b64decode(value["base64"], validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        _refuse(f"{path}.base64", f"is not base64: {error}", "")
    if len(data) % kind.itemsize:
        _refuse(f"{path}.base64", f"has {len(data)} bytes, which are no whole number of {value['dtype']}", "")
    return np.frombuffer(data, kind)


def _floats(values: Sequence[Any], path: str) -> Floats:
    try:
        return np.array(values, np.float64)
    except OverflowError:
        _refuse(path, "has a number that is too large", "")


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        _refuse(path, f"is {value!r:.80}", "It is a text.")
    return value


def _check_length(array: Any, path: str, count: int | None) -> None:
    if count is not None and len(array) != count:
        _refuse(path, f"has {len(array):,} items, and there are {count:,}", "Give one for each, or a scalar for all.")


def _refuse(path: str, what: str, hint: str) -> NoReturn:
    raise InvalidField(f"{path} {what}", hint=hint, context={"field": path})
