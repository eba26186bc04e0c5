"""Hold rows of a block back without seeing the other blocks: at random, class by class, by group, or by time.

A block's own content and the seed say which, so that a block that is made anew is marked alike. Of times, the driver
must know first: `times_of` says what a block has, `since` where to cut. pandas and numpy are imported inside functions.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from compute.errors import ComputeError
from jobs.validation import Validation, check_by, one_value

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Mask = npt.NDArray[np.bool_]

HELD_OUT, WATCHED = "__held_out__", "__watched__"

WATCHED_SHARE = 0.1
"""Of the training rows, what is watched for early stopping: rows held back for validation would flatter the metrics."""

# Times that a block tells of; of more, each stands for several.
_TOLD = 10_000


@dataclass(frozen=True)
class Marks:
    """Which rows are held back, and whether some of the others are watched for early stopping.

    ``since`` and ``watched_since`` are the times from which on rows are held back, and watched.
    """

    how: Validation
    target: str
    watch: bool = False
    since: Any = None
    watched_since: Any = None


class Times(NamedTuple):
    """What a block says of its times: some of them in order, and how many rows each stands for; or what is wrong."""

    values: npt.NDArray[Any]
    counts: npt.NDArray[np.int64]
    problem: ComputeError | None = None


def mark_block(block: pd.DataFrame, marks: Marks) -> pd.DataFrame:
    """Add the columns that say which rows are held back, and which of the others are watched."""
    held = _draw(block, marks, marks.how.fraction, marks.how.seed, marks.since)
    marked = block.assign(**{HELD_OUT: held})
    if marks.watch:
        watched = _draw(block, marks, WATCHED_SHARE, marks.how.seed + 1, marks.watched_since)
        marked[WATCHED] = watched & ~held
    return marked


def to_fit(marked: pd.DataFrame, marks: Marks) -> int:
    """Return how many rows of a marked block are fitted."""
    fitted = marked[marks.target].notna() & ~marked[HELD_OUT]
    return int((fitted & ~marked[WATCHED] if marks.watch else fitted).sum())


def _draw(block: pd.DataFrame, marks: Marks, fraction: float, seed: int, since: Any) -> Mask:
    import numpy as np

    how = marks.how
    if how.kind == "time":
        later: Mask = (block[how.column] >= since).to_numpy(dtype=bool)
        return later
    if how.kind == "group":
        chosen: Mask = _shares(block[how.column], seed) < fraction
        return chosen
    draw = np.random.default_rng([seed, _checksum(block[marks.target])])
    if how.kind == "stratified":
        return _even(block[marks.target], fraction, draw)
    return draw.random(len(block)) < fraction


def _even(classes: pd.Series[Any], fraction: float, draw: np.random.Generator) -> Mask:
    """Mark the same share of each class: every so manyth row of it, in a random order, from a random one on."""
    import numpy as np
    import pandas as pd

    codes = pd.factorize(classes)[0]
    order = draw.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    ordered = codes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, dtype="int64")
    lengths = np.diff(np.r_[starts, len(ordered)])
    rank = np.arange(len(ordered)) - np.repeat(starts, lengths)
    place = rank * fraction + np.repeat(draw.random(len(starts)), lengths)
    mask = np.zeros(len(codes), dtype=bool)
    mask[order] = np.floor(place + fraction) > np.floor(place)
    return mask


def _shares(groups: pd.Series[Any], seed: int) -> npt.NDArray[np.float64]:
    """Return for each row a number from 0 to 1 that is its group's, in whichever block."""
    import numpy as np
    import pandas as pd

    # A whole number is the same group as an amount: another block may have read it so. And -0.0 is 0.0.
    values: Any = (
        groups.to_numpy(dtype="float64", na_value=np.nan) + 0.0
        if pd.api.types.is_numeric_dtype(groups.dtype)
        else groups.astype(str).to_numpy(dtype=object)
    )
    # Once more, with the seed: of numbers, pandas takes no key.
    salt = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    shares: npt.NDArray[np.float64] = pd.util.hash_array(pd.util.hash_array(values) + salt) / 2.0**64
    return shares


def _checksum(values: pd.Series[Any]) -> int:
    import numpy as np

    plain = isinstance(values.dtype, np.dtype) and values.dtype != object
    return zlib.crc32(values.to_numpy().tobytes() if plain else pickle.dumps(values.tolist()))


def times_of(block: pd.DataFrame, marks: Marks) -> Times:
    """Return what a block says of its times, of its rows that have a target."""
    import numpy as np

    times = block[marks.how.column][block[marks.target].notna()]
    try:
        check_by(marks.how, times)
    except ComputeError as error:
        return Times(np.empty(0), np.empty(0, dtype="int64"), error)
    values, counts = np.unique(times.to_numpy(), return_counts=True)
    step = -(-len(values) // _TOLD) or 1
    firsts = np.arange(0, len(values), step)
    return Times(values[firsts], np.add.reduceat(counts, firsts) if len(firsts) else counts)


def since(told: Sequence[Times], marks: Marks) -> tuple[Any, Any]:
    """Return from which times on rows are held back, and watched: the latest shares of the rows.

    Examples
    --------
    >>> import numpy as np
    >>> marks = Marks(Validation("time", 0.2, 0, "day"), "y", watch=True)
    >>> since([Times(np.arange(10), np.full(10, 3))], marks)
    (np.int64(8), np.int64(7))
    """
    import numpy as np

    for one in told:
        if one.problem is not None:
            raise one.problem
    some = [one for one in told if len(one.values)]
    values, places = np.unique(np.concatenate([one.values for one in some]), return_inverse=True)
    counts = np.bincount(places, weights=np.concatenate([one.counts for one in some]))
    if len(values) < 2:
        raise one_value(marks.how)
    first = _cut(counts, marks.how.fraction)
    if not marks.watch:
        return values[first], None
    if first < 2:
        raise one_value(marks.how)
    return values[first], values[_cut(counts[:first], WATCHED_SHARE)]


def _cut(counts: npt.NDArray[Any], share: float) -> int:
    """Return the place from which on there is about that share of all, at least one and not all."""
    import numpy as np

    later = counts[::-1].cumsum()
    taken = 1 + int(np.abs(later - counts.sum() * share).argmin())
    return len(counts) - min(taken, len(counts) - 1)
