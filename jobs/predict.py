"""Score a table with a registered model: `predict_batch`, and `python -m jobs.predict`.

pandas, numpy and pyarrow are imported inside functions.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from compute import Config, load_config
from compute.errors import DataError, InvalidField
from jobs import node
from jobs.columns import require_columns
from jobs.output import is_directory
from jobs.parts import rows_of_part
from jobs.planner import Load, Plan, plan_scoring
from jobs.rejects import BadRows
from jobs.scoring import Job, Scored, score_here, score_in_tasks
from jobs.tables import FrameTable, Table, open_table
from jobs.write_run import write_run

if TYPE_CHECKING:
    import pandas as pd

    from registry import ModelRecord, Signature

logger = logging.getLogger(__name__)

# A batch is held a few times over: as read, as a frame, as the matrix, as written; and so are those read ahead.
_COPIES = 8
PREDICTION = "prediction"


def predict_batch(
    model_id: str,
    data: object,
    batch_size: int = 10000,
    distributed: bool | None = None,
    *,
    output: str | None = None,
    key_columns: Sequence[str] | None = None,
    proba: bool = False,
    bad_rows: BadRows = "raise",
    overwrite: bool = False,
    rows_per_part: int | None = None,
    config: Config | None = None,
) -> pd.Series[Any] | pd.DataFrame | dict[str, Any]:
    """Score all rows of a table.

    Parameters
    ----------
    model_id : str
        A model id, ``name``, ``name@alias`` or ``name:version``.
    data : DataFrame, pyarrow.Table, ray.data.Dataset or URI
        Raw rows, with the columns the model was trained on; others are ignored. It is not modified.
    batch_size : int
        Rows scored at once; with a URI or a Dataset, memory is bounded by a few batches whatever the table's size.
    distributed : bool, optional
        Score parts of the table in tasks over the cluster (without one, in local processes), or in this process.
        By default the planner decides.
    output : str, optional
        Where to write Parquet, on disk or ``s3://``. A name that ends in ``.parquet`` is one file, which appears when
        it is complete, in place of one that was there. Any other is a directory, whose files ``part-00000.parquet``
        and so on appear as each is complete, and ``_SUCCESS`` when all are. Rows are in the order of the input, and
        so are the parts. Where ``data`` is a URI, the same call goes on where one that was killed stopped.
    key_columns : sequence of str, optional
        Columns to carry along, to tell the rows apart.
    proba : bool
        Give the probability of each class too.
    bad_rows : {"raise", "divert"}
        What becomes of a row that the model cannot take (text for a number, an infinite value, a line of CSV with
        too few fields): it stops the job, or is written, with the reason, beside the output: to
        ``NAME.bad_rows.parquet``, or the directory's ``_bad_rows``.
    overwrite : bool
        Replace what another call wrote to the directory, or begin anew what one left unfinished.
    rows_per_part : int, optional
        Of a file of the directory, and of what is done again after a failure; of Parquet, in whole row groups. By
        default 262,144, and fewer of wide rows.
    config : Config, optional
        By default `load_config`.

    Returns
    -------
    Series, DataFrame or dict
        Without ``output``: the predictions in the order, and for a frame with the index, of the input; a Series named
        ``prediction``, or with ``proba`` or ``key_columns`` a DataFrame with the columns ``prediction``,
        ``probability_CLASS`` and the keys. With ``output``: ``model_id``, ``output``, ``rows``, ``bad_rows``,
        ``bad_rows_output``, ``parts``, ``resumed_parts`` (which an earlier call had done), ``columns``, ``plan`` and
        ``seconds``; the files have the key columns, the predictions, and ``model_id``.

    Raises
    ------
    ModelNotFound
        When there is no such model.
    ColumnMissing, ColumnInvalid
        Naming the feature, and the row whose value has the wrong type. An unknown category is no error.
    Conflict
        When the directory holds the predictions of another call; with what differs.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from compute import load_config
    >>> from jobs import train_model
    >>> config = load_config()
    >>> storage = config.storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> config = config.model_copy(update={"storage": storage})
    >>> frame = pd.DataFrame({"x": range(40), "kind": ["a", "b"] * 20, "y": ["low"] * 20 + ["high"] * 20})
    >>> model_id = train_model(frame, "y", model_type="linear", config=config)["model_id"]
    >>> predict_batch(model_id, frame[["x", "kind"]].tail(2), config=config).to_dict()
    {38: 'high', 39: 'high'}
    """
    started = time.perf_counter()
    config = config or load_config()
    if batch_size < 1:
        raise InvalidField(f"batch_size is {batch_size}, and must be at least 1")
    if rows_per_part is not None and rows_per_part < 1:
        raise InvalidField(f"rows_per_part is {rows_per_part}, and must be at least 1")
    if bad_rows not in ("raise", "divert"):
        raise InvalidField(f"bad_rows is {bad_rows!r}", hint='It is "raise" or "divert".')
    if output is None and (bad_rows == "divert" or overwrite):
        raise InvalidField(
            f"{'overwrite' if overwrite else 'bad_rows'} says what becomes of files, and there is no output",
            hint="Give output, or leave it out.",
        )
    directory = output is not None and is_directory(output)
    record, signature = model_with_signature(model_id, config)
    if proba and signature.classes is None:
        raise InvalidField(
            f"the model {record.model_id} predicts amounts, which have no probabilities", hint="Leave out proba."
        )
    table = typed(open_table(data, config, lenient=bad_rows == "divert"), signature)
    require_columns(signature.feature_names, table.columns, table.source, "feature")
    require_columns(key_columns or (), table.columns, table.source, "key")
    keys = tuple(dict.fromkeys(key_columns or ()))
    names = prediction_names(signature, proba=proba)
    taken = sorted({*names, "model_id"} & set(keys))
    if taken:
        raise DataError(f"the key column {taken[0]!r} has the name of a result", hint="Rename the column.")
    columns = list(dict.fromkeys([*signature.feature_names, *keys]))
    part = rows_per_part or rows_of_part(table, columns)
    plan = _plan(table, columns, batch_size, distributed, config, part if output is not None else None)
    job = Job(record.model_id, keys, proba, batch_size, config, divert=bad_rows == "divert")
    if output is None:
        scored = (
            score_here(table, job, plan.threads) if plan.mode == "single" else score_in_tasks(table, job, plan.workers)
        )
        index = data.index if isinstance(table, FrameTable) else None  # type: ignore[attr-defined]  # it is a frame
        return collect(scored, names, index)
    written = write_run(output, table, job, names, plan, part, directory=directory, overwrite=overwrite)
    seconds = time.perf_counter() - started
    logger.info("model=%s output=%s rows=%d seconds=%.2f", record.model_id, output, written["rows"], seconds)
    return {
        "model_id": record.model_id,
        "output": output,
        **written,
        "columns": [*keys, *names, "model_id"],
        "plan": plan.summary(),
        "seconds": {"total": round(seconds, 4)},
    }


def model_with_signature(model_id: str, config: Config) -> tuple[ModelRecord, Signature]:
    """Return a model's record and what it takes."""
    from registry import get_model_registry

    record = get_model_registry(config).resolve(model_id)
    if record.signature is None:
        raise DataError(
            f"the model {record.model_id} was registered without a signature, so its columns are not known",
            hint="Register it with signature= or example=, or use load_model(...).model on a matrix.",
        )
    return record, record.signature


def typed(table: Table, signature: Signature) -> Table:
    """Tell a CSV table the types of the features and of amounts: a column may look different in its first rows."""
    from jobs.csv_files import CsvTable

    if not isinstance(table, CsvTable):
        return table
    kinds: dict[str, str] = {column.name: column.dtype for column in signature.columns}
    if signature.target and signature.task == "regression":
        kinds.setdefault(signature.target, "float")
    return table.expecting(kinds)


def prediction_names(signature: Signature, *, proba: bool) -> list[str]:
    """Return the names of the columns that scoring adds."""
    return [PREDICTION, *(f"probability_{label}" for label in (signature.classes or ()) if proba)]


def _plan(
    table: Table, columns: list[str], batch_size: int, distributed: bool | None, config: Config, part: int | None
) -> Plan:
    size = table.size(columns)
    rows = table.rows
    # The input is on disk, or held by the caller; what is added are some batches, and the result if it is returned, or
    # the parts that are being written; of a table without a count, those that were read.
    width = max(1, size // rows) if rows else 8 * len(columns)
    peak = batch_size * width * _COPIES
    if part is not None:
        held = 8 * len(columns) if rows is not None else 8 * len(columns) + width
        peak += (node.threads(config) + 1) * part * held
    else:
        peak += 0 if rows is None else rows * 16
    return plan_scoring(Load(rows, size, peak, peak), distribute=distributed, config=config)


def collect(scored: Iterator[Scored], names: list[str], index: pd.Index[Any] | None) -> pd.Series[Any] | pd.DataFrame:
    """Join scored parts into what `predict_batch` returns."""
    import numpy as np
    import pandas as pd

    parts = list(scored)
    predictions = np.concatenate([part.predictions for part in parts]) if parts else np.empty(0)
    # No dtype given: text becomes pandas' text, as in the frame that was trained on.
    result = pd.DataFrame({PREDICTION: pd.Series(predictions.tolist() if predictions.dtype == object else predictions)})
    if len(names) > 1 and parts:
        values = np.concatenate([part.probabilities for part in parts if part.probabilities is not None])
        result = result.assign(**dict(zip(names[1:], values.T, strict=True)))
    if parts and parts[0].keys is not None:
        keys = pd.concat([part.keys.to_pandas() for part in parts], ignore_index=True)
        result = pd.concat([keys, result], axis=1)
    if index is not None:
        result.index = index
    return result[PREDICTION] if len(result.columns) == 1 else result


_EXAMPLE = """example:
  python -m jobs.predict --model arrival-delay --data data/flights.parquet --output data/predictions.parquet \\
      --keys carrier,flight,time_hour
  python -m jobs.predict --model arrival-delay@champion --data 's3://lake/flights/2013-*.parquet' \\
      --output s3://lake/scored/2013/ --bad-rows divert

A job that was killed or stopped is gone on with by the same command: what it had done is kept, and no row is written
twice. Exit codes: 0 done, 2 something asked for is wrong, 1 something failed, 143 stopped.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    from jobs.commands import CHOICES, base_parser, comma_list

    options = base_parser("python -m jobs.predict", "Score a table with a registered model.", _EXAMPLE)
    options.add_argument("--model", required=True, metavar="REF", help="model id, name, name@alias or name:version")
    options.add_argument("--data", required=True, metavar="URI", help="CSV or Parquet, a file or a directory, or s3://")
    options.add_argument(
        "--output", required=True, metavar="URI", help="a .parquet file to write, or a directory of them"
    )
    options.add_argument("--keys", type=comma_list, metavar="A,B,C", help="columns to carry along")
    options.add_argument("--proba", action="store_true", help="write the probability of each class too")
    options.add_argument("--batch-size", type=int, default=10000, metavar="ROWS", help="rows at once (default: 10000)")
    options.add_argument(
        "--distribute", choices=tuple(CHOICES), default="auto", help="score in tasks over the cluster (default: auto)"
    )
    options.add_argument(
        "--bad-rows",
        choices=("raise", "divert"),
        default="raise",
        help="stop at a row that cannot be scored, or write it beside the output with the reason (default: raise)",
    )
    options.add_argument("--rows-per-part", type=int, metavar="ROWS", help="of a file of a directory (default: 262144)")
    options.add_argument(
        "--overwrite", action="store_true", help="replace what another run wrote there, instead of refusing"
    )
    return options


def command(options: argparse.Namespace) -> dict[str, Any]:
    """Run with the options of the command line."""
    from jobs.commands import CHOICES

    result = predict_batch(
        options.model,
        options.data,
        batch_size=options.batch_size,
        distributed=CHOICES[options.distribute],
        output=options.output,
        key_columns=options.keys,
        proba=options.proba,
        bad_rows=options.bad_rows,
        overwrite=options.overwrite,
        rows_per_part=options.rows_per_part,
    )
    assert isinstance(result, dict)  # because output was given
    return result


if __name__ == "__main__":
    from jobs.commands import run

    run("jobs.predict")
