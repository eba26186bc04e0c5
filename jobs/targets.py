"""The target column: which task it asks for, and what in it cannot be learnt.

numpy and pandas are imported inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from compute.errors import ColumnInvalid, DataError, InvalidField

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

Task = Literal["regression", "binary", "multiclass"]
TASKS = ("regression", "classification", "binary", "multiclass")

_MOST_CLASSES = 1000


@dataclass(frozen=True)
class Target:
    """A task, the reason it was chosen, and the classes in their order (none for regression)."""

    task: Task
    reason: str
    classes: tuple[Any, ...] | None

    def encode(self, values: pd.Series) -> npt.NDArray[np.float32]:
        """Return the values to fit on: the numbers, or each value's place among the classes."""
        import numpy as np
        import pandas as pd

        if self.classes is None:
            return np.asarray(values.to_numpy(dtype="float64", na_value=np.nan), dtype="float32")
        places = pd.Index(list(self.classes)).get_indexer(pd.Index(values.astype(object)))
        return cast("npt.NDArray[np.float32]", places.astype("float32"))


def find_target(values: pd.Series, task: str | None) -> Target:
    """Find the task from the values of the target.

    Text, booleans and categories are classes; so are numbers of which there are exactly two. All other numbers are
    amounts, integers too: a target of class numbers 0, 1, 2 needs ``task="classification"``.

    Parameters
    ----------
    values : Series
        The target, without nulls; distinct values are enough.
    task : {"regression", "classification", "binary", "multiclass"}, optional
        Overrules what the values say.

    Raises
    ------
    DataError
        When there is only one value, or too many classes.
    ColumnInvalid
        When the values cannot be a target of that task.

    Examples
    --------
    >>> import pandas as pd
    >>> find_target(pd.Series([0.5, 1.5, 2.5]), None).task, find_target(pd.Series(["yes", "no"]), None).classes
    ('regression', ('no', 'yes'))
    """
    import pandas as pd

    name = str(values.name)
    if task is not None and task not in TASKS:
        raise InvalidField(
            f"there is no task {task!r}", hint=f"The tasks are {', '.join(TASKS)}.", context={"task": task}
        )
    distinct = _distinct(values, name)
    if len(distinct) < 2:
        raise DataError(
            f"the target {name!r} has only one value, {distinct[0]!r}: there is nothing to learn",
            hint="Check the column, or the filter that made this table.",
            context={"target": name},
        )
    numeric = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
    if task is None:
        if numeric and len(distinct) > 2:
            return _amounts(values, name, f"{values.dtype} values, more than two of them, are amounts")
        why = "it has exactly two values" if numeric else f"{values.dtype} values are classes"
        return _classes(distinct, name, None, why)
    if task == "regression":
        if not numeric:
            raise ColumnInvalid(
                f"the target {name!r} holds {values.dtype} values, which are not amounts",
                hint="Leave out task, or choose a numeric target.",
                context={"target": name},
            )
        return _amounts(values, name, "task was given")
    return _classes(distinct, name, task, "task was given")


def _distinct(values: pd.Series, name: str) -> list[Any]:
    try:
        found = values.unique()
    except TypeError as error:
        raise ColumnInvalid(
            f"the target {name!r} holds values that are no numbers, text or booleans ({type(values.iloc[0]).__name__})",
            context={"target": name},
        ) from error
    return list(found.tolist())


def _amounts(values: pd.Series, name: str, reason: str) -> Target:
    import numpy as np

    numbers = values.to_numpy(dtype="float64")
    # Judged as float32, in which models are fitted: 1e300 would be infinite there.
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(numbers.astype("float32")))
    if len(bad):
        raise ColumnInvalid(
            f"the target {name!r} has {len(bad):,} infinite values, the first in row {int(bad[0])}",
            hint="Drop those rows, or replace the values.",
            context={"target": name, "rows": bad[:10].tolist()},
        )
    return Target("regression", reason, None)


def _classes(distinct: list[Any], name: str, task: str | None, reason: str) -> Target:
    import pandas as pd

    if len(distinct) > _MOST_CLASSES:
        raise DataError(
            f"the target {name!r} has {len(distinct):,} distinct values; {_MOST_CLASSES:,} classes are the most",
            hint='Group them, or give task="regression" if they are amounts.',
            context={"target": name},
        )
    kinds = {type(value) for value in distinct}
    if kinds == {float} and all(value.is_integer() for value in distinct):
        distinct = [int(value) for value in distinct]  # class numbers that a null somewhere turned into floats
    if not (kinds <= {bool} or kinds <= {int, float} or kinds <= {str}):
        wrong = "dates" if any(issubclass(kind, pd.Timestamp) for kind in kinds) else "a mixture of kinds of values"
        raise ColumnInvalid(
            f"the target {name!r} holds {wrong} ({', '.join(sorted(kind.__name__ for kind in kinds))})",
            hint="Convert the column to text, booleans or numbers first.",
            context={"target": name},
        )
    if task == "binary" and len(distinct) != 2:
        raise DataError(
            f"the target {name!r} has {len(distinct):,} classes, and a binary task has two",
            hint='Give task="multiclass", or "classification" to let the values decide.',
            context={"target": name},
        )
    # A multiclass task of two classes is a binary one: the same model with half the trees.
    return Target("binary" if len(distinct) == 2 else "multiclass", reason, tuple(sorted(distinct)))


def without_nulls(frame: pd.DataFrame, target: str, *, drop: bool) -> tuple[pd.DataFrame, int]:
    """Return the rows that have a target and the number of those left out; refuse to leave any out unasked."""
    import numpy as np

    empty = frame[target].isna().to_numpy()
    count = int(empty.sum())
    if not count:
        return frame, 0
    if not drop:
        first = np.flatnonzero(empty)[:5].tolist()
        raise nulls_in_target(target, count, len(frame), first)
    return frame[~empty], count


def nulls_in_target(target: str, count: int, rows: int, first: list[int]) -> ColumnInvalid:
    """Say how many targets are null, and where."""
    where = f", the first in rows {', '.join(map(str, first))}" if first else ""
    return ColumnInvalid(
        f"the target {target!r} is null in {count:,} of {rows:,} rows{where}",
        hint="Give drop_null_target=True (--drop-null-target) to leave them out, or fill them.",
        context={"target": target, "nulls": count, "rows": first},
    )
