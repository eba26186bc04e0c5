"""Measure a registered model on a table with known targets: `evaluate_model`, and `python -m jobs.evaluate`.

pandas and numpy are imported inside functions.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compute import Config, load_config
from compute.errors import ColumnInvalid, DataError, InvalidField
from jobs.columns import require_columns
from jobs.metrics import measure
from jobs.paired import interval, losses_of, resample
from jobs.planner import Load, plan_scoring
from jobs.predict import model_with_signature, typed
from jobs.progress import report
from jobs.scoring import Job, Scored, score_here
from jobs.tables import open_table, to_frame
from jobs.targets import Target, nulls_in_target

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from registry import ModelRecord

logger = logging.getLogger(__name__)


def evaluate_model(
    model_id: str,
    data: object,
    target_col: str | None = None,
    *,
    batch_size: int = 10000,
    drop_null_target: bool = False,
    resamples: int = 1000,
    config: Config | None = None,
) -> dict[str, Any]:
    """Measure a model on rows whose target is known.

    Parameters
    ----------
    model_id : str
        A model id, ``name``, ``name@alias`` or ``name:version``.
    data : DataFrame, pyarrow.Table, ray.data.Dataset or URI
        Raw rows with the model's features and the target. It is not modified.
    target_col : str, optional
        By default the column the model was trained on.
    batch_size : int
        Rows scored at once.
    drop_null_target : bool
        Leave out rows without a target, instead of refusing them.
    resamples : int
        Of the bootstrap that the metrics' intervals come from; 0 for none.
    config : Config, optional
        By default `load_config`.

    Returns
    -------
    dict
        ``model_id``, ``task``, ``target``, ``rows``, ``dropped_rows``, ``metrics`` as `train_model` gives them (the
        baseline is that of the training data), ``intervals`` (``low`` and ``high`` of metrics: where 95 % of resamples
        of the rows lie), ``plan`` and ``seconds``.

    Raises
    ------
    DataError
        When a feature or the target is missing or cannot be used.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from compute import load_config
    >>> from jobs import train_model
    >>> config = load_config()
    >>> storage = config.storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> config = config.model_copy(update={"storage": storage})
    >>> frame = pd.DataFrame({"x": range(40), "y": [i * 1.5 for i in range(40)]})
    >>> model_id = train_model(frame, "y", model_type="linear", config=config)["model_id"]
    >>> evaluate_model(model_id, frame, config=config)["metrics"]["r2"] > 0.99
    True
    """
    started = time.perf_counter()
    config = config or load_config()
    if resamples < 0:
        raise InvalidField(f"resamples is {resamples}, and must be at least 0")
    record, signature = model_with_signature(model_id, config)
    name = target_col or signature.target
    if name is None:
        raise DataError(f"the model {record.model_id} does not say what its target is", hint="Give target_col.")
    table = typed(open_table(data, config), signature)
    require_columns(signature.feature_names, table.columns, table.source, "feature")
    require_columns([name], table.columns, table.source, "target")
    columns = [*signature.feature_names, name]
    size, rows = table.size(columns), table.rows
    peak = batch_size * 8 * 8 * len(columns) + (rows or 0) * 8 * (1 + len(signature.classes or ()))
    plan = plan_scoring(Load(rows, size, peak, peak), distribute=False, config=config)
    target = Target(signature.task, "of the model", signature.classes)
    job = Job(record.model_id, (name,), signature.classes is not None, batch_size, config)
    parts = []
    for scored in score_here(table, job, plan.threads):
        parts.append(compare(scored, name, target))
        report("evaluate", sum(len(part.truth) + part.nulls for part in parts), rows)
    count, nulls, metrics = measure_parts(parts, record, target, name, table.source, drop_null_target=drop_null_target)
    seconds = round(time.perf_counter() - started, 4)
    logger.info("model=%s rows=%d seconds=%.2f metrics=%s", record.model_id, count, seconds, metrics)
    return {
        "model_id": record.model_id,
        "task": signature.task,
        "target": name,
        "rows": count,
        "dropped_rows": nulls,
        "metrics": metrics,
        "intervals": intervals(parts, target, resamples),
        "plan": plan.summary(),
        "seconds": {"total": seconds},
    }


@dataclass(frozen=True)
class Compared:
    """Of some rows: the target as it is measured, what the model gives, and how many rows have no target."""

    truth: npt.NDArray[Any]
    given: npt.NDArray[Any]
    nulls: int


def compare(scored: Scored, name: str, target: Target) -> Compared:
    """Put what was scored beside its target, which was carried along as a key."""
    values = to_frame(scored.keys)[name]
    there = values.notna().to_numpy()
    predicted = scored.probabilities if scored.probabilities is not None else scored.predictions
    return Compared(truth_of(values[there], target), predicted[there], int((~there).sum()))


def measure_parts(
    parts: Sequence[Compared], record: ModelRecord, target: Target, name: str, source: str, *, drop_null_target: bool
) -> tuple[int, int, dict[str, float]]:
    """Return the number of rows measured, of those without a target, and the metrics."""
    import numpy as np

    count, nulls = sum(len(part.truth) for part in parts), sum(part.nulls for part in parts)
    if nulls and not drop_null_target:
        raise nulls_in_target(name, nulls, count + nulls, [])
    if not count:
        raise DataError(f"{source} has no rows with a target {name!r} to measure on")
    some = [part for part in parts if len(part.truth)]
    truth = np.concatenate([part.truth for part in some])
    given = np.concatenate([part.given for part in some])
    return count, nulls, measure(truth, given, _baseline(record, truth, target))


def intervals(parts: Sequence[Compared], target: Target, resamples: int) -> dict[str, dict[str, float]]:
    """Return, of each metric, where 95 % of resamples of the rows lie."""
    import numpy as np

    if not resamples:
        return {}
    some = [part for part in parts if len(part.truth)]
    truth, given = (np.concatenate([getattr(part, name) for part in some]) for name in ("truth", "given"))
    draws = resample([losses_of(truth, given, target.classes)], resamples, seed=0)
    return {metric: interval(values[:, 0], 0.95) for metric, (_, values) in draws.items()}


def truth_of(values: pd.Series[Any], target: Target) -> npt.NDArray[Any]:
    """Return a target, none of it null, as it is measured: values, or places of classes."""
    import pandas as pd

    if target.classes is None and not pd.api.types.is_numeric_dtype(values.dtype):
        raise ColumnInvalid(
            f"the target {values.name!r} holds {values.dtype} values, and the model predicts amounts",
            context={"target": str(values.name)},
        )
    return target.encode(values)


def _baseline(record: ModelRecord, truth: npt.NDArray[Any], target: Target) -> dict[str, Any]:
    """Return the guess of the training data; for a model that was registered without, of these."""
    from jobs.fitting import baseline_of

    known = record.lineage.get("baseline")
    return (
        dict(known)
        if isinstance(known, dict) and known
        else baseline_of(truth[truth >= 0] if target.classes else truth, target)
    )


_EXAMPLE = """example:
  python -m jobs.evaluate --model arrival-delay --data data/flights.parquet --drop-null-target --importance
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    from jobs.commands import base_parser

    options = base_parser("python -m jobs.evaluate", "Measure a model on a table with known targets.", _EXAMPLE)
    options.add_argument("--model", required=True, metavar="REF", help="model id, name, name@alias or name:version")
    options.add_argument("--data", required=True, metavar="URI", help="CSV or Parquet, a file or a directory, or s3://")
    options.add_argument("--target", metavar="COLUMN", help="default: what the model was trained on")
    options.add_argument("--drop-null-target", action="store_true", help="leave out rows without a target")
    options.add_argument("--importance", action="store_true", help="say what the predictions rest on, too")
    options.add_argument("--resamples", type=int, default=1000, help="for intervals of the metrics (default: 1000)")
    options.add_argument("--batch-size", type=int, default=10000, metavar="ROWS", help="rows at once (default: 10000)")
    return options


def command(options: argparse.Namespace) -> dict[str, Any]:
    """Run with the options of the command line."""
    result = evaluate_model(
        options.model,
        options.data,
        options.target,
        batch_size=options.batch_size,
        drop_null_target=options.drop_null_target,
        resamples=options.resamples,
    )
    if options.importance:
        from jobs.importance import feature_importance

        result["importance"] = feature_importance(options.model, options.data, options.target)
    return result


if __name__ == "__main__":
    from jobs.commands import run

    run("jobs.evaluate")
