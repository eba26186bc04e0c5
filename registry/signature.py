"""What a model takes and gives: the columns of its training table, and its target.

pandas is imported by the functions that read tables, not at start-up: a server that scores rows can do without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compute.errors import ColumnInvalid, ColumnMissing
from registry.values import BadValue, as_category, is_missing, plain

if TYPE_CHECKING:
    import pandas as pd

MAX_CATEGORIES = 10_000
"""A text column with more distinct values is an identifier: it would make the signature larger than the model."""

MAX_CLASSES = 1_000
_FEW = 10  # integers with at most so many distinct values are labels rather than amounts, unless the task is named

DType = Literal["int", "float", "bool", "category", "datetime"]
Task = Literal["regression", "binary", "multiclass"]
Label = bool | int | float | str


class Column(BaseModel):
    """One feature, as it was in the training table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: DType
    nullable: bool = False
    categories: tuple[str, ...] | None = Field(
        None, description="Of a category: its values as text; their index is the code."
    )

    @model_validator(mode="after")
    def _check(self) -> Column:
        if (self.dtype == "category") != (self.categories is not None):
            raise ValueError("a column has categories if its dtype is 'category', and only then")
        if self.categories is not None and len(set(self.categories)) != len(self.categories):
            raise ValueError("the categories of a column are distinct")
        return self


class Signature(BaseModel):
    """The features in the order of the model's matrix, and what comes out.

    Examples
    --------
    >>> carrier = Column(name="carrier", dtype="category", categories=("AA", "UA"))
    >>> Signature(columns=(Column(name="distance", dtype="int"), carrier), target="delay").feature_names
    ('distance', 'carrier')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: tuple[Column, ...]
    target: str | None = None
    task: Task = "regression"
    classes: tuple[Label, ...] | None = Field(None, description="Of a classification: labels in the model's order.")

    @model_validator(mode="after")
    def _check(self) -> Signature:
        if len(set(self.feature_names)) != len(self.columns):
            raise ValueError("the names of the columns are distinct")
        if (self.task == "regression") != (self.classes is None):
            raise ValueError("a signature has classes if its task is a classification, and only then")
        if self.classes is not None and (self.task == "binary") != (len(self.classes) == 2):
            raise ValueError("a binary classification has two classes, a multiclass one any other number")
        return self

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def feature_types(self) -> tuple[str, ...]:
        """What XGBoost calls them: ``"c"`` for categories, ``"q"`` for quantities."""
        return tuple("c" if column.dtype == "category" else "q" for column in self.columns)

    @property
    def categorical(self) -> tuple[int, ...]:
        """Positions of the category columns."""
        return tuple(index for index, column in enumerate(self.columns) if column.dtype == "category")


def capture_signature(
    frame: pd.DataFrame,
    target: str | None = None,
    target_values: Sequence[Any] | pd.Series[Any] | None = None,
    task: Task | None = None,
) -> Signature:
    """Describe a training table.

    Parameters
    ----------
    frame : DataFrame, shape (rows, features)
        The features. A column called ``target`` is none of them; it is the target if ``target_values`` is not given.
    target : str, optional
        Name of the target.
    target_values : sequence, length rows, optional
        Its values, from which the task and the classes are taken.
    task : {"regression", "binary", "multiclass"}, optional
        By default text, categories and booleans are labels, floats are amounts, and integers are labels when there
        are at most 10 distinct ones.

    Returns
    -------
    Signature

    Raises
    ------
    ColumnInvalid
        Naming a column that no model can take: mixed types, lists, durations, more than 10,000 distinct texts.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"distance": [733, 1400], "carrier": ["UA", "AA"], "late": [True, False]})
    >>> signature = capture_signature(frame, target="late")
    >>> [(column.name, column.dtype) for column in signature.columns], signature.task, signature.classes
    ([('distance', 'int'), ('carrier', 'category')], 'binary', (False, True))
    """
    import pandas as pd

    names = [str(name) for name in frame.columns]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ColumnInvalid(
            f"the table has two columns named {twice!r}", hint="Rename one.", context={"feature": twice}
        )
    if target_values is None and target in names:
        target_values = frame.iloc[:, names.index(str(target))]
    columns = tuple(
        _describe(name, frame.iloc[:, index]) for index, name in enumerate(names) if name != target or target is None
    )
    if not columns:
        raise ColumnMissing("the table has no feature columns", hint="Give at least one column besides the target.")
    classes: tuple[Label, ...] | None = None
    if target_values is not None and task != "regression":
        classes = _classes(target or "target", pd.Series(target_values), task)
    if classes is None and task in ("binary", "multiclass"):
        raise ColumnMissing(f"a {task} signature needs the target's values", hint="Give target_values.")
    kind: Task = "regression" if classes is None else "binary" if len(classes) == 2 else "multiclass"
    return Signature(columns=columns, target=target, task=kind, classes=classes)


def _describe(name: str, series: pd.Series[Any]) -> Column:
    import pandas as pd

    nullable = bool(series.isna().any())
    dtype, types = series.dtype, pd.api.types
    kind: DType
    if types.is_bool_dtype(dtype) and not isinstance(dtype, pd.CategoricalDtype):
        kind = "bool"
    elif types.is_integer_dtype(dtype):
        kind = "int"
    elif types.is_float_dtype(dtype):
        kind = "float"
    elif types.is_datetime64_any_dtype(dtype):
        kind = "datetime"
    elif isinstance(dtype, pd.CategoricalDtype):
        return Column(
            name=name, dtype="category", nullable=nullable, categories=_texts(name, dtype.categories, ordered=True)
        )
    elif isinstance(dtype, pd.StringDtype) or types.is_object_dtype(dtype) or types.is_string_dtype(dtype):
        return _describe_objects(name, series, nullable)
    else:
        raise _unusable(name, f"holds values of the type {dtype}", "Turn them into numbers or text, or leave it out.")
    return Column(name=name, dtype=kind, nullable=nullable)


def _describe_objects(name: str, series: pd.Series[Any], nullable: bool) -> Column:
    import pandas as pd

    found = pd.api.types.infer_dtype(series, skipna=True)
    kinds: dict[str, DType] = {
        "boolean": "bool", "integer": "int", "floating": "float", "mixed-integer-float": "float", "decimal": "float",
        "datetime": "datetime", "datetime64": "datetime", "date": "datetime", "empty": "float",
    }  # fmt: skip
    if found == "string":
        return Column(name=name, dtype="category", nullable=nullable, categories=_texts(name, series.dropna().unique()))
    if kind := kinds.get(found):
        return Column(name=name, dtype=kind, nullable=nullable)
    values = [(row, value) for row, value in enumerate(series.tolist()) if not is_missing(value)]
    first = type(values[0][1])
    row, value = next(((row, value) for row, value in values if type(value) is not first), values[0])
    raise ColumnInvalid(
        f"the column {name!r} holds {found} values: row {row} has {value!r:.80} of the type {type(value).__name__}",
        hint="A feature is numbers, booleans, text or times, and one of them only: convert it, or leave it out.",
        context={"feature": name, "row": row, "value": repr(value)[:80]},
    )


def _texts(name: str, values: Any, *, ordered: bool = False) -> tuple[str, ...]:
    """Return the categories: sorted, or in the order of their dtype, whose codes a model may have been fitted on."""
    try:
        texts = dict.fromkeys(as_category(plain(value)) for value in values)
    except BadValue as error:
        raise _unusable(name, f"holds categories that are not {error}", "Turn them into text.") from None
    if len(texts) > MAX_CATEGORIES:
        raise _unusable(
            name,
            f"has {len(texts):,} distinct values, more than {MAX_CATEGORIES:,}",
            "It is an identifier rather than a category: leave it out, or group its values.",
        )
    if ordered and len(texts) != len(values):
        raise _unusable(name, "has two categories of the same text", "Turn its categories into text first.")
    return tuple(texts) if ordered else tuple(sorted(texts))


def _classes(name: str, series: pd.Series[Any], task: Task | None) -> tuple[Label, ...] | None:
    import pandas as pd

    distinct: list[Any] = [plain(value) for value in series.dropna().unique().tolist()]
    floats = pd.api.types.is_float_dtype(series.dtype)
    if task is None and (floats or (pd.api.types.is_integer_dtype(series.dtype) and len(distinct) > _FEW)):
        return None
    if floats and all(math.isfinite(value) and value == int(value) for value in distinct):
        distinct = [int(value) for value in distinct]  # labels that a null somewhere turned into floats
    if len({type(value) for value in distinct}) > 1 or not all(isinstance(value, Label) for value in distinct):
        raise _unusable(
            name, "holds labels of several or of unknown types", "Labels are all text, integers or booleans."
        )
    if not 2 <= len(distinct) <= MAX_CLASSES:
        raise _unusable(
            name, f"has {len(distinct):,} distinct labels", f"A classification has 2 to {MAX_CLASSES:,} classes."
        )
    if task == "binary" and len(distinct) != 2:
        raise _unusable(
            name, f"has {len(distinct)} distinct labels", "A binary target has 2: name the task multiclass."
        )
    return tuple(sorted(distinct))


def _unusable(name: str, problem: str, hint: str) -> ColumnInvalid:
    return ColumnInvalid(f"the column {name!r} {problem}", hint=hint, context={"feature": name})
