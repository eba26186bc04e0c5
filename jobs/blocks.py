"""What is done to each block of a training table, wherever it is: say what is in it, encode, score.

Plain functions from frame to arrays, so that they are tested without a cluster. pandas and numpy are imported inside
functions.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from compute.errors import ComputeError
from jobs.families import Problem, find_family
from jobs.marks import HELD_OUT, WATCHED, Marks
from jobs.ray_dataset import plain_frame
from jobs.targets import Target
from jobs.validation import check_by
from jobs.weights import read_weights

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from registry import Signature

# With more distinct values than this in one block, a text column tells rows apart, and a target is no class.
_MOST_DISTINCT = 20_000


@dataclass(frozen=True)
class Said:
    """What the training rows of some blocks hold: few values that stand for all, and sums.

    ``features`` is a frame with the columns' types, the distinct texts, and the least and the largest numbers;
    ``target`` has distinct values, and ``counts`` their numbers; ``weight`` is the sum of what the rows weigh.
    ``problem`` says what is wrong with a column that says how rows are used.
    """

    features: pd.DataFrame
    target: pd.Series[Any]
    counts: pd.Series[Any]
    total: float
    rows: int
    training: int
    nulls: int
    digest: str
    weight: float = 0.0
    problem: ComputeError | None = None

    def baseline(self, target: Target) -> dict[str, Any]:
        """Return the guess without a model: the mean of the training target, or the classes' shares."""
        if target.classes is None:
            return {"mean": self.total / self.training}
        return {"prior": [float(self.counts.get(label, 0)) / self.training for label in target.classes]}


def say_block(
    block: pd.DataFrame, features: Sequence[str], marks: Marks, weight: str | None = None, *, digest: bool = True
) -> dict[str, list[bytes]]:
    """Return what a marked block says, as one row; its digest only if asked for."""
    import pandas as pd

    target = marks.target
    there = block[target].notna()
    part = block[there & ~block[HELD_OUT]]
    values = plain_frame(part[[target]])[target]
    counts = values.value_counts()
    amounts = pd.api.types.is_numeric_dtype(values.dtype)
    weights, problem = _checked(block[there], marks, weight)
    used = [*features, target, *(name for name in (marks.how.column, weight) if name is not None)]
    said = Said(
        features=_representatives(part[list(features)]),
        target=pd.Series(values.unique()[:_MOST_DISTINCT], name=target, dtype=values.dtype),
        counts=counts.iloc[:_MOST_DISTINCT],
        total=float(values.astype("float64").sum()) if amounts else 0.0,
        rows=int(there.sum()),
        training=len(part),
        nulls=int((~there).sum()),
        digest=_digest(plain_frame(block[list(dict.fromkeys(used))])) if digest else "",
        weight=weights,
        problem=problem,
    )
    return {"said": [pickle.dumps(said)]}


def _checked(part: pd.DataFrame, marks: Marks, weight: str | None) -> tuple[float, ComputeError | None]:
    """Return what the training rows weigh together, and what is wrong with the columns that say how rows are used.

    Rows that are named are counted within the part of the table that the block is.
    """
    try:
        if marks.how.column is not None:
            check_by(marks.how, part[marks.how.column])
        if weight is None:
            return float((~part[HELD_OUT]).sum()), None
        return float(read_weights(part[weight])[~part[HELD_OUT].to_numpy()].sum(dtype="float64")), None
    except ComputeError as error:
        return 0.0, error


def _digest(block: pd.DataFrame) -> str:
    import pandas as pd

    return hashlib.sha256(pd.util.hash_pandas_object(block, index=False).to_numpy(dtype="uint64").tobytes()).hexdigest()


def _representatives(part: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose signature is that of the part: each column's distinct texts, or its extremes and a null."""
    import pandas as pd

    columns = {}
    for name in part.columns:
        values = part[name]
        if isinstance(values.dtype, pd.CategoricalDtype):
            found = values.cat.remove_unused_categories().cat.categories.to_series(index=None)
            columns[name] = pd.Series(found.to_numpy()[:_MOST_DISTINCT], dtype=found.dtype)
            if values.isna().any():
                columns[name] = pd.concat([columns[name], pd.Series([None], dtype=found.dtype)], ignore_index=True)
        elif isinstance(values.dtype, pd.StringDtype) or values.dtype == object:
            columns[name] = values.drop_duplicates()[:_MOST_DISTINCT].reset_index(drop=True)
        else:
            places = [int(values.argmin()), int(values.argmax())] if values.notna().any() else []
            empty = values.isna().to_numpy()
            places += [int(empty.argmax())] if empty.any() else []
            columns[name] = values.take(places).reset_index(drop=True)
    length = max((len(values) for values in columns.values()), default=0)
    # The shorter columns repeat themselves: a gap would look like a null.
    return pd.DataFrame(
        {
            name: values.iloc[[index % len(values) for index in range(length)]].reset_index(drop=True)
            if len(values)
            else values
            for name, values in columns.items()
        }
    )


def together(said: Sequence[Said]) -> Said | None:
    """Join what the blocks said; None when no block has a training row."""
    import pandas as pd

    nulls = sum(item.nulls for item in said)
    for item in said:
        if item.problem is not None:
            raise item.problem
    some = [item for item in said if item.training]
    if not some:
        return None
    counts = pd.concat([item.counts for item in some]).groupby(level=0).sum()
    return Said(
        features=pd.concat([item.features for item in some], ignore_index=True),
        target=pd.concat([item.target for item in some], ignore_index=True).drop_duplicates(ignore_index=True),
        counts=counts,
        total=sum(item.total for item in some),
        rows=sum(item.rows for item in said),
        training=sum(item.training for item in some),
        nulls=nulls,
        digest="sha256:" + hashlib.sha256("".join(sorted(item.digest for item in said)).encode()).hexdigest(),
        weight=sum(item.weight for item in said),
    )


@dataclass(frozen=True)
class Encoding:
    """What must be known to encode rows; how much they weigh by a column, and by their class."""

    signature: Signature
    target: Target
    dtype: Literal["float32", "float64"] = "float32"
    weight: str | None = None
    class_weights: npt.NDArray[np.float32] | None = None

    @property
    def weighs(self) -> bool:
        """Whether some rows count more than others."""
        return self.weight is not None or self.class_weights is not None


def encode_block(block: pd.DataFrame, how: Encoding, *, held_out: bool) -> dict[str, Any]:
    """Return the rows that have a target, and are held out or not, as arrays: ``matrix`` and ``target``.

    Of rows to fit, also ``weight`` where they have one, and ``watched`` where some are.
    """
    from registry import encode

    part = block[block[how.signature.target].notna() & (block[HELD_OUT] == held_out)]
    truth = how.target.encode(part[how.signature.target])
    encoded = {"matrix": encode(part, how.signature, dtype=how.dtype), "target": truth}
    if held_out:
        return encoded
    weights = None if how.weight is None else read_weights(part[how.weight])
    if how.class_weights is not None:
        by_class = how.class_weights[truth.astype("int64")]
        weights = by_class if weights is None else by_class * weights
    if weights is not None:
        encoded["weight"] = weights
    if WATCHED in part:
        encoded["watched"] = part[WATCHED].to_numpy()
    return encoded


def score_block(
    encoded: dict[str, Any], model: Any, model_type: str, problem: Problem
) -> dict[str, npt.NDArray[np.generic]]:
    """Return the truth and the prediction of encoded rows."""
    return {
        "truth": encoded["target"],
        "predicted": find_family(model_type).score(model, encoded["matrix"], problem),
    }


def thin_block(encoded: dict[str, Any], step: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return every so manyth row of an encoded block."""
    return {"matrix": encoded["matrix"][::step]}
