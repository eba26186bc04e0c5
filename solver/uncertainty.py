"""How sure a model is: from its errors on held-out rows, which training keeps with it.

Intervals are those of split conformal prediction: they hold the truth in the asked share of cases whatever the model
is, as long as new rows come from where the held-out rows came from (Vovk et al., Algorithmic Learning in a Random
World, 2005; Lei et al., JASA 113 (2018) 1094). numpy is imported inside the functions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from compute.errors import CapabilityMissing, InvalidField
from registry import ModelRecord

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


def check_coverage(record: ModelRecord, coverage: float) -> None:
    """See that a model can give intervals of a coverage.

    Raises
    ------
    CapabilityMissing
        When it keeps no errors of held-out rows.
    InvalidField
        When they are too few for such a coverage.
    """
    rows, _ = _kept(record)
    regression = record.signature is not None and record.signature.classes is None
    tail = (1 - coverage) / (2 if regression else 1)
    if math.ceil((rows + 1) * (1 - tail)) > rows:
        raise InvalidField(
            f"a coverage of {coverage:g} takes {math.ceil(1 / tail) - 1:,} held-out rows, and the model "
            f"{record.name}:{record.version} has {rows:,}",
            hint="Ask for less, or train it on more rows, or with a larger validation_fraction.",
            context={"field": "parameters.coverage", "held_out_rows": rows},
        )


def intervals(record: ModelRecord, predictions: Floats, coverage: float) -> Floats:
    """Return the interval of each prediction of a regression: an array of shape (rows, 2).

    Examples
    --------
    >>> import numpy as np
    >>> from datetime import datetime, UTC
    >>> from registry import Artifact
    >>> now = datetime(2026, 1, 2, tzinfo=UTC)
    >>> record = ModelRecord(
    ...     model_id="m-1", name="delays", version=1, model_type="linear", format="sklearn-skops", created_at=now,
    ...     artifact=Artifact(digest="sha256:" + "0" * 64, size=1), updated_at=now,
    ...     lineage={"residuals": {"rows": 19, "values": [float(value) for value in range(-9, 10)]}},
    ... )
    >>> intervals(record, np.array([100.0]), 0.8).tolist()
    [[92.0, 108.0]]
    """
    import numpy as np

    tail = (1 - coverage) / 2
    low = -_quantile(record, 1 - tail, mirrored=True)
    high = _quantile(record, 1 - tail)
    return np.column_stack([predictions + low, predictions + high]).astype(np.float64)


def prediction_sets(record: ModelRecord, chances: Floats, coverage: float) -> list[list[Any]]:
    """Return, for each row of the probabilities, the classes that it may be; the likeliest is always among them."""
    classes = list(record.signature.classes or ()) if record.signature is not None else []
    limit = _quantile(record, coverage)
    return [
        [one for one, chance in zip(classes, row, strict=True) if 1 - chance <= limit or chance == max(row)]
        for row in chances.tolist()
    ]


def draw(record: ModelRecord, predictions: Floats, count: int, random: np.random.Generator) -> Floats:
    """Return scenarios of what was predicted by a regression: an array of shape (count, rows).

    To each prediction an error is added that the model made on a row it had not seen, drawn with replacement.
    """
    import numpy as np

    _, values = _kept(record)
    errors = random.choice(np.asarray(values, np.float64), size=(count, len(predictions)))
    return np.asarray(predictions + errors, np.float64)


def spread(record: ModelRecord, predictions: Floats, count: int, random: np.random.Generator) -> Floats:
    """Return scenarios as `draw` does, with quantiles of the errors instead of drawn ones.

    Of each prediction every scenario has another of `count` quantiles at equal distances, in random order (a Latin
    hypercube: McKay, Beckman and Conover, Technometrics 21 (1979) 239), so that few scenarios cover all of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from datetime import datetime, UTC
    >>> from registry import Artifact
    >>> now = datetime(2026, 1, 2, tzinfo=UTC)
    >>> record = ModelRecord(
    ...     model_id="m-1", name="delays", version=1, model_type="linear", format="sklearn-skops", created_at=now,
    ...     artifact=Artifact(digest="sha256:" + "0" * 64, size=1), updated_at=now,
    ...     lineage={"residuals": {"rows": 19, "values": [float(value) for value in range(-9, 10)]}},
    ... )
    >>> sorted(spread(record, np.array([100.0]), 3, np.random.default_rng(0))[:, 0].tolist())
    [94.0, 100.0, 106.0]
    """
    import numpy as np

    _, values = _kept(record)
    levels = np.quantile(np.asarray(values, np.float64), (np.arange(count) + 0.5) / count)
    errors = random.permuted(np.tile(levels, (len(predictions), 1)), axis=1).T
    return np.asarray(predictions + errors, np.float64)


DRAWS = {"bootstrap": draw, "quantiles": spread}
"""How scenarios are made, by `Uncertainty.method`."""


def _quantile(record: ModelRecord, share: float, *, mirrored: bool = False) -> float:
    """Return the smallest kept error that is not below the conformal rank; of the errors' negatives, if mirrored."""
    rows, values = _kept(record)
    ordered = [-value for value in reversed(values)] if mirrored else values
    rank = min(math.ceil((rows + 1) * share - 1e-9), rows)
    place = math.ceil((rank - 1) * (len(ordered) - 1) / max(rows - 1, 1) - 1e-9)
    return ordered[min(place, len(ordered) - 1)]


def _kept(record: ModelRecord) -> tuple[int, list[float]]:
    kept = record.lineage.get("residuals")
    if not isinstance(kept, dict) or not kept.get("values"):
        raise CapabilityMissing(
            f"the model {record.name}:{record.version} keeps no errors of held-out rows: it cannot say how sure it is",
            hint="Train it here (train_model, or a question of the type training).",
            context={"model_id": record.model_id},
        )
    return int(kept["rows"]), [float(value) for value in kept["values"]]
