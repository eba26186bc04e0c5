"""Compare models on the same rows, with the uncertainty of each difference: `compare_models`, `python -m jobs.compare`.

pandas and numpy are imported inside functions.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compute import Config, load_config
from compute.errors import DataError, InvalidField
from jobs.columns import require_columns
from jobs.evaluate import Compared, compare
from jobs.paired import HIGHER_IS_BETTER, interval, losses_of, resample
from jobs.predict import model_with_signature, typed
from jobs.progress import report
from jobs.scoring import Job, score_here
from jobs.tables import open_table
from jobs.targets import Target, nulls_in_target

if TYPE_CHECKING:
    import numpy.typing as npt

logger = logging.getLogger(__name__)


def compare_models(
    model_ids: Sequence[str],
    data: object,
    target_col: str | None = None,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    batch_size: int = 10000,
    drop_null_target: bool = False,
    seed: int = 0,
    config: Config | None = None,
) -> dict[str, Any]:
    """Measure models on the same rows, and tell which differences are more than chance.

    Every resample of the rows is drawn once for all models (the paired bootstrap: Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, chapter 16), so that rows that are hard for all of them do not blur what is between them.

    Parameters
    ----------
    model_ids : sequence of str
        Two or more: ids, ``name``, ``name@alias`` or ``name:version``. The first is what the others are compared with.
    data : DataFrame, pyarrow.Table, ray.data.Dataset or URI
        Rows that none of the models was trained on, with their features and the target.
    target_col : str, optional
        By default the column the first model was trained on.
    resamples : int
        Of the bootstrap.
    confidence : float
        Share of the resamples within an interval, between 0 and 1.
    batch_size : int
        Rows scored at once.
    drop_null_target : bool
        Leave out rows without a target, instead of refusing them.
    seed : int
        Of the resamples.
    config : Config, optional
        By default `load_config`.

    Returns
    -------
    dict
        ``models``: of each its ``model_id``, ``name``, ``version``, and ``metrics`` with the ``value``, and ``low`` and
        ``high`` of its interval. ``differences``: for each other model and metric, ``difference`` to the first one,
        ``low``, ``high``, ``p_value`` (two-sided), and ``better`` (None when the interval has zero in it). Also
        ``target``, ``task``, ``rows``, ``dropped_rows``, ``resamples``, ``seconds``.

    Raises
    ------
    InvalidField
        With fewer than two models.
    DataError
        When the models do not predict the same, or the target is missing.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from compute import load_config
    >>> from jobs import train_model
    >>> config = load_config()
    >>> storage = config.storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> config = config.model_copy(update={"storage": storage})
    >>> frame = pd.DataFrame({"x": range(60), "noise": [1, 5, 2] * 20, "y": [i * 1.5 for i in range(60)]})
    >>> for feature in ("x", "noise"):
    ...     _ = train_model(frame, "y", [feature], model_type="linear", name=feature, config=config)
    >>> found = compare_models(["noise", "x"], frame, config=config)
    >>> [(item["metric"], item["better"]) for item in found["differences"]]
    [('rmse', True), ('mae', True), ('r2', True)]
    """
    started = time.perf_counter()
    config = config or load_config()
    if len(set(model_ids)) < 2 or isinstance(model_ids, str):
        raise InvalidField("a comparison needs two models or more", hint="Give a list of model ids, names or aliases.")
    if resamples < 100 or not 0 < confidence < 1:
        raise InvalidField(
            f"resamples is {resamples} and confidence {confidence}",
            hint="At least 100 resamples, and a confidence between 0 and 1.",
        )
    found = [model_with_signature(model_id, config) for model_id in model_ids]
    first = found[0][1]
    for record, signature in found[1:]:
        if signature.task != first.task or signature.classes != first.classes:
            raise DataError(
                f"{record.model_id} and {found[0][0].model_id} do not predict the same: {signature.task} of "
                f"{list(signature.classes or ())} and {first.task} of {list(first.classes or ())}",
                hint="Compare models of one target.",
            )
    name = target_col or first.target
    if name is None:
        raise DataError(f"the model {found[0][0].model_id} does not say what its target is", hint="Give target_col.")
    opened = open_table(data, config)
    target = Target(first.task, "of the models", first.classes)
    compared: list[list[Compared]] = []
    for number, (record, signature) in enumerate(found):
        report("score", number, len(found))
        table = typed(opened, signature)
        require_columns(signature.feature_names, table.columns, table.source, "feature")
        require_columns([name], table.columns, table.source, "target")
        job = Job(record.model_id, (name,), first.classes is not None, batch_size, config)
        compared.append([compare(scored, name, target) for scored in score_here(table, job, _threads(config))])
    report("score", len(found), len(found))
    nulls = sum(part.nulls for part in compared[0])
    truth, given = _joined(compared)
    if nulls and not drop_null_target:
        raise nulls_in_target(name, nulls, len(truth) + nulls, [])
    if not len(truth):
        raise DataError(f"{opened.source} has no rows with a target {name!r} to measure on")
    measured = resample([losses_of(truth, each, first.classes) for each in given], resamples, seed)
    models, differences = [], []
    for place, (record, _) in enumerate(found):
        mine = {key: (values[place], draws[:, place]) for key, (values, draws) in measured.items()}
        models.append(
            {
                "model_id": record.model_id,
                "name": record.name,
                "version": record.version,
                "metrics": {
                    key: {"value": float(value), **interval(draws, confidence)} for key, (value, draws) in mine.items()
                },
            }
        )
        if place:
            differences += [_difference(record.model_id, key, measured[key], place, confidence) for key in measured]
    seconds = round(time.perf_counter() - started, 4)
    logger.info("models=%s rows=%d seconds=%.2f", ",".join(item[0].model_id for item in found), len(truth), seconds)
    return {
        "models": models,
        "differences": differences,
        "target": name,
        "task": first.task,
        "rows": len(truth),
        "dropped_rows": nulls,
        "resamples": resamples,
        "confidence": confidence,
        "seconds": {"total": seconds},
    }


def _threads(config: Config) -> int:
    from jobs import node

    return node.threads(config)


def _joined(compared: Sequence[Sequence[Compared]]) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
    import numpy as np

    truth = np.concatenate([part.truth for part in compared[0]])
    return truth, [np.concatenate([part.given for part in parts if len(part.truth)] or [truth]) for parts in compared]


def _difference(
    model_id: str, metric: str, measured: tuple[npt.NDArray[Any], npt.NDArray[Any]], place: int, confidence: float
) -> dict[str, Any]:
    values, draws = measured
    gaps = draws[:, place] - draws[:, 0]
    bounds = interval(gaps, confidence)
    # The share of resamples on the other side of zero, twice; never zero, since the sample itself is one of them.
    beyond = min(int((gaps <= 0).sum()), int((gaps >= 0).sum()))
    sure = bounds["low"] > 0 or bounds["high"] < 0
    difference = float(values[place] - values[0])
    return {
        "model_id": model_id,
        "metric": metric,
        "difference": difference,
        **bounds,
        "p_value": min(1.0, 2 * (beyond + 1) / (len(gaps) + 1)),
        "better": (difference > 0) == (metric in HIGHER_IS_BETTER) if sure else None,
    }


_EXAMPLE = """example:
  python -m jobs.compare --model arrival-delay@champion --model arrival-delay:7 --data data/december.parquet

The first model is what the others are compared with. `better` is true or false where the interval of the difference
leaves out zero, else null: more rows would be needed to tell.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    from jobs.commands import base_parser

    options = base_parser("python -m jobs.compare", "Compare models on rows that none was trained on.", _EXAMPLE)
    options.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="REF",
        help="id, name, name@alias or name:version; repeatable",
    )
    options.add_argument("--data", required=True, metavar="URI", help="CSV or Parquet: a file, directory or pattern")
    options.add_argument("--target", metavar="COLUMN", help="default: what the first model was trained on")
    options.add_argument("--drop-null-target", action="store_true", help="leave out rows without a target")
    options.add_argument("--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000)")
    options.add_argument("--confidence", type=float, default=0.95, metavar="SHARE", help="of intervals (default: 0.95)")
    options.add_argument("--seed", type=int, default=0, help="of the resamples (default: 0)")
    return options


def command(options: argparse.Namespace) -> dict[str, Any]:
    """Run with the options of the command line."""
    return compare_models(
        options.model,
        options.data,
        options.target,
        resamples=options.resamples,
        confidence=options.confidence,
        drop_null_target=options.drop_null_target,
        seed=options.seed,
    )


if __name__ == "__main__":
    from jobs.commands import run

    run("jobs.compare")
