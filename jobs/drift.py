"""How far rows are from those that a model was trained on, feature by feature: `measure_drift`, `python -m jobs.drift`.

pandas, numpy and scipy are imported inside functions.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from compute import Config, load_config
from compute.errors import DataError, InvalidField
from jobs.columns import require_columns
from jobs.families import find_family
from jobs.predict import model_with_signature, typed
from jobs.profile import MOST_ROWS, count_bins, profile_of
from jobs.progress import report
from jobs.scoring import ahead
from jobs.tables import Table, open_table, to_frame

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from registry import Signature

logger = logging.getLogger(__name__)

MODERATE, LARGE = 0.1, 0.25
"""Of the population stability index: below the first nothing to see, above the second look at the model."""

# A bin without rows would make the index infinite.
_LEAST_SHARE = 1e-4
_MOST_GROUPS = 1_000


def measure_drift(
    model_id: str,
    data: object,
    *,
    by: str | None = None,
    reference: object = None,
    threshold: float = LARGE,
    batch_size: int = 50_000,
    config: Config | None = None,
) -> dict[str, Any]:
    """Compare the features of rows with those of the training rows, as the profile kept with the model has them.

    Parameters
    ----------
    model_id : str
        A model id, ``name``, ``name@alias`` or ``name:version``.
    data : DataFrame, pyarrow.Table, ray.data.Dataset or URI
        Raw rows; a target is not needed. They are read once, in bounded memory.
    by : str, optional
        A column, such as the month: each of its values is compared by itself.
    reference : DataFrame, pyarrow.Table, ray.data.Dataset or URI, optional
        Rows to compare with instead; needed for a model that has no profile. Of many, the first 200,000.
    threshold : float
        Of the index from which a feature counts as drifted.
    batch_size : int
        Rows read at once.
    config : Config, optional
        By default `load_config`.

    Returns
    -------
    dict
        ``model_id``, ``training_rows``, ``rows``, ``drifted`` (names, the worst first), and ``features``: for each
        ``psi`` (population stability index: Siddiqi, Credit Risk Scorecards, 2006; over bins of equal training shares,
        missing being one), of numbers ``ks`` (Kolmogorov-Smirnov distance at the profile's quantiles) with its
        ``p_value``, the shares ``missing``, ``missing_in_training`` and, of categories, ``unknown``. With ``by``, these
        are in ``groups``, each with its ``value``. ``not_profiled`` counts features beyond the first 200.

    Raises
    ------
    DataError
        When the model has no profile and no reference is given, or ``by`` has more than 1,000 values.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from compute import load_config
    >>> from jobs import train_model
    >>> config = load_config()
    >>> storage = config.storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> config = config.model_copy(update={"storage": storage})
    >>> frame = pd.DataFrame({"x": range(100), "kind": ["a", "b"] * 50, "y": [i * 1.5 for i in range(100)]})
    >>> model_id = train_model(frame, "y", model_type="linear", config=config)["model_id"]
    >>> measure_drift(model_id, frame, config=config)["drifted"]
    []
    >>> measure_drift(model_id, frame.assign(x=frame["x"] + 60), config=config)["drifted"]
    ['x']
    """
    started = time.perf_counter()
    config = config or load_config()
    if batch_size < 1:
        raise InvalidField(f"batch_size is {batch_size}, and must be at least 1")
    record, signature = model_with_signature(model_id, config)
    dtype = find_family(record.model_type).dtype if record.lineage.get("profile") else "float64"
    profile = record.lineage.get("profile")
    if reference is not None:
        profile = _profile_rows(typed(open_table(reference, config), signature), signature, dtype)
    if not profile:
        raise DataError(
            f"the model {record.model_id} has no profile of its training rows",
            hint="Give reference, rows to compare with; or train it again.",
        )
    table = typed(open_table(data, config), signature)
    require_columns(signature.feature_names, table.columns, table.source, "feature")
    require_columns([by] if by else [], table.columns, table.source, "group")
    groups: dict[Any, _Counts] = {}
    done = 0
    for frame in _frames(table, signature, by, batch_size):
        for value, part in frame.groupby(by, dropna=False, sort=False, observed=True) if by else [(None, frame)]:
            value = None if by and part[by].isna().all() else value
            groups.setdefault(value, _Counts(signature, profile)).add(part, dtype)
        if len(groups) > _MOST_GROUPS:
            raise DataError(f"the column {by!r} has more than {_MOST_GROUPS:,} values", hint="Group by another.")
        done += len(frame)
        report("drift", done, table.rows)
    if not done:
        raise DataError(f"{table.source} has no rows", hint="Check what is in it.")
    seconds = round(time.perf_counter() - started, 4)
    logger.info("model=%s rows=%d groups=%d seconds=%.2f", record.model_id, done, len(groups), seconds)
    ordered = sorted(groups.items(), key=lambda item: (item[0] is None, str(type(item[0])), item[0]))
    found = [{"value": _plain(value), **counts.result(threshold)} for value, counts in ordered]
    return {
        "model_id": record.model_id,
        "training_rows": profile["rows"],
        "not_profiled": len(signature.columns) - len(profile["features"]),
        **({"rows": done, "by": by, "groups": found} if by else {k: v for k, v in found[0].items() if k != "value"}),
        "seconds": {"total": seconds},
    }


def _frames(table: Table, signature: Signature, by: str | None, rows: int) -> Iterator[pd.DataFrame]:
    columns = list(dict.fromkeys([*signature.feature_names, *([by] if by else [])]))
    for batch in ahead(table.batches(columns, rows)):
        yield to_frame(batch)


def _profile_rows(table: Table, signature: Signature, dtype: Any) -> dict[str, Any]:
    import numpy as np

    from registry import encode

    require_columns(signature.feature_names, table.columns, table.source, "feature")
    parts: list[Any] = []
    for frame in _frames(table, signature, None, 50_000):
        parts.append(encode(frame, signature, dtype))
        if sum(map(len, parts)) >= MOST_ROWS:
            break
    if not parts:
        raise DataError(f"{table.source} has no rows to compare with")
    return profile_of(np.concatenate(parts), signature)


def _plain(value: Any) -> Any:
    from registry.values import plain

    return plain(value)


class _Counts:
    """Rows of one group in the bins of the profile."""

    def __init__(self, signature: Signature, profile: dict[str, Any]) -> None:
        import numpy as np

        self._signature = signature
        self._features: dict[str, dict[str, Any]] = profile["features"]
        self._training = int(profile["rows"])
        self._rows = 0
        self._bins = {name: np.zeros(len(item["shares"]), dtype="int64") for name, item in self._features.items()}
        self._missing = dict.fromkeys(self._features, 0)
        self._unknown = dict.fromkeys(self._features, 0)

    def add(self, frame: pd.DataFrame, dtype: Any) -> None:
        """Count the rows of a batch."""
        import numpy as np

        from registry import encode

        matrix = encode(frame, self._signature, dtype)
        self._rows += len(matrix)
        for place, column in enumerate(self._signature.columns):
            if column.name not in self._features:
                continue
            values = matrix[:, place].astype("float64")
            known = values[~np.isnan(values)]
            missing = int(frame[column.name].isna().sum())
            self._missing[column.name] += missing
            self._unknown[column.name] += len(values) - len(known) - missing
            self._bins[column.name] += count_bins(known, self._features[column.name], column)

    def result(self, threshold: float) -> dict[str, Any]:
        """Return the measures of each feature."""
        features = {name: self._measure(name) for name in self._features}
        worst = sorted(features, key=lambda name: -features[name]["psi"])
        return {
            "rows": self._rows,
            "drifted": [name for name in worst if features[name]["psi"] >= threshold],
            "features": {name: features[name] for name in worst},
        }

    def _measure(self, name: str) -> dict[str, Any]:
        import numpy as np

        feature, bins = self._features[name], self._bins[name].astype("float64")
        # Unknown categories are like those that were too rare to be named.
        bins[-1] += self._unknown[name]
        known = float(bins.sum())
        was = np.asarray(feature["shares"]) * (1 - feature["missing"])
        now = bins / self._rows
        result: dict[str, Any] = {
            "psi": population_stability(
                np.append(was, feature["missing"]), np.append(now, self._missing[name] / self._rows)
            )
        }
        if "edges" in feature and known and sum(feature["shares"]):
            distance = float(np.abs(np.cumsum(feature["shares"]) - np.cumsum(bins / known)).max())
            trained = self._training * (1 - feature["missing"])
            result |= {"ks": distance, "p_value": _p_value(distance, trained, known)}
        result |= {"missing": self._missing[name] / self._rows, "missing_in_training": feature["missing"]}
        if "categories" in feature:
            result["unknown"] = self._unknown[name] / self._rows
        return result


def population_stability(was: npt.NDArray[np.float64], now: npt.NDArray[np.float64]) -> float:
    """Return the population stability index of the shares of bins then and now.

    Examples
    --------
    >>> import numpy as np
    >>> round(population_stability(np.array([0.5, 0.5]), np.array([0.7, 0.3])), 3)
    0.169
    """
    import numpy as np

    was, now = np.maximum(was, _LEAST_SHARE), np.maximum(now, _LEAST_SHARE)
    return float(((now - was) * np.log(now / was)).sum())


def _p_value(distance: float, trained: float, known: float) -> float:
    """Return the asymptotic two-sample p-value of a Kolmogorov-Smirnov distance."""
    from scipy.special import kolmogorov

    return float(kolmogorov(distance * (trained * known / (trained + known)) ** 0.5))


_EXAMPLE = """example:
  python -m jobs.drift --model arrival-delay@champion --data data/flights.parquet --by month

The population stability index (psi) is below 0.1 where nothing moved, and above 0.25 where the model should be looked
at. p-values of large tables are small for differences that do not matter: go by psi.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    from jobs.commands import base_parser

    options = base_parser("python -m jobs.drift", "Compare rows with those a model was trained on.", _EXAMPLE)
    options.add_argument("--model", required=True, metavar="REF", help="model id, name, name@alias or name:version")
    options.add_argument("--data", required=True, metavar="URI", help="CSV or Parquet: a file, directory or pattern")
    options.add_argument("--by", metavar="COLUMN", help="compare each value of this column by itself, as months")
    options.add_argument("--reference", metavar="URI", help="rows to compare with (default: the model's profile)")
    options.add_argument("--threshold", type=float, default=LARGE, metavar="PSI", help="of drift (default: 0.25)")
    return options


def command(options: argparse.Namespace) -> dict[str, Any]:
    """Run with the options of the command line."""
    return measure_drift(
        options.model, options.data, by=options.by, reference=options.reference, threshold=options.threshold
    )


if __name__ == "__main__":
    from jobs.commands import run

    run("jobs.drift")
