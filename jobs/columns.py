"""Choose the columns a model learns from, and say clearly when one is not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from compute.errors import ColumnMissing, DataError

_SHOWN = 40


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a half sentence that names what was probably meant, or nothing.

    Examples
    --------
    >>> nearest("arr_dely", ["arr_delay", "distance"])
    " (did you mean 'arr_delay'?)"
    """
    # Compared in lower case: a wrong case is the commonest mistake.
    spelled = {item.lower(): item for item in known}
    close = get_close_matches(name.lower(), spelled, n=1)
    return f" (did you mean {spelled[close[0]]!r}?)" if close else ""


def listing(names: Sequence[str]) -> str:
    """Return the names in one line, cut when there are very many."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def require_columns(names: Iterable[str], columns: Sequence[str], source: str, role: str) -> None:
    """Raise ColumnMissing for the first name that is not among the columns."""
    known = set(columns)
    for name in names:
        if name not in known:
            raise ColumnMissing(
                f"{source} has no {role} column {name!r}{nearest(name, columns)}",
                hint=f"Its columns are {listing(columns)}.",
                context={"feature": name, "columns": list(columns[:_SHOWN])},
            )


def check_names(columns: Sequence[object], source: str) -> tuple[str, ...]:
    """Return the column names, or say which are no text or occur twice."""
    wrong = next((name for name in columns if not isinstance(name, str)), None)
    if wrong is not None:
        raise DataError(
            f"{source} has a column whose name is {wrong!r}, not text",
            hint="Rename it: frame.columns = frame.columns.astype(str).",
        )
    names = tuple(str(name) for name in columns)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"{source} has more than one column named {listing(twice)}",
            hint="Rename or drop one of each: a model could not tell them apart.",
            context={"columns": twice},
        )
    if not names:
        raise DataError(f"{source} has no columns")
    return names


def choose_features(
    columns: Sequence[str],
    target: str,
    features: Sequence[str] | None,
    exclude: Sequence[str] | None,
    source: str,
) -> tuple[str, ...]:
    """Return the features: those named, or every column but the target; less those excluded.

    Examples
    --------
    >>> choose_features(["a", "b", "y"], "y", None, ["b"], "the frame")
    ('a',)
    """
    require_columns([target], columns, source, "target")
    require_columns(features or (), columns, source, "feature")
    require_columns(exclude or (), columns, source, "excluded")
    if features is not None and target in features:
        raise DataError(
            f"the target {target!r} is among the features, so the model would only copy it",
            hint="Leave it out of features.",
            context={"feature": target},
        )
    if features:
        check_names(features, "the list of features")
    left_out = {target, *(exclude or ())}
    chosen = tuple(name for name in (features if features is not None else columns) if name not in left_out)
    if not chosen:
        raise DataError(f"no features are left of {source} beside the target {target!r}", hint="Exclude fewer columns.")
    return chosen
