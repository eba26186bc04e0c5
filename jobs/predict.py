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
from jobs.columns import require_columns
from jobs.output import check_output, parquet_output
from jobs.planner import Load, Plan, plan_scoring
from jobs.scoring import Job, Scored, ahead, score_here, score_in_tasks
from jobs.tables import FrameTable, Table, open_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

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
        A Parquet file to write, on disk or ``s3://``. It appears when it is complete.
    key_columns : sequence of str, optional
        Columns to carry along, to tell the rows apart.
    proba : bool
        Give the probability of each class too.
    config : Config, optional
        By default `load_config`.

    Returns
    -------
    Series, DataFrame or dict
        Without ``output``: the predictions in the order, and for a frame with the index, of the input; a Series named
        ``prediction``, or with ``proba`` or ``key_columns`` a DataFrame with the columns ``prediction``,
        ``probability_CLASS`` and the keys. With ``output``: ``model_id``, ``output``, ``rows``, ``columns``, ``plan``
        and ``seconds``; the file has the key columns, the predictions, and ``model_id``.

    Raises
    ------
    ModelNotFound
        When there is no such model.
    ColumnMissing, ColumnInvalid
        Naming the feature, and the row whose value has the wrong type. An unknown category is no error.

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
    if output is not None:
        check_output(output)
    record, signature = model_with_signature(model_id, config)
    if proba and signature.classes is None:
        raise InvalidField(
            f"the model {record.model_id} predicts amounts, which have no probabilities", hint="Leave out proba."
        )
    table = typed(open_table(data, config), signature)
    require_columns(signature.feature_names, table.columns, table.source, "feature")
    require_columns(key_columns or (), table.columns, table.source, "key")
    keys = tuple(dict.fromkeys(key_columns or ()))
    names = prediction_names(signature, proba=proba)
    taken = sorted({*names, "model_id"} & set(keys))
    if taken:
        raise DataError(f"the key column {taken[0]!r} has the name of a result", hint="Rename the column.")
    plan = _plan(table, [*signature.feature_names, *keys], batch_size, distributed, config, streams=output is not None)
    job = Job(record.model_id, keys, proba, batch_size, config)
    scored = score_here(table, job, plan.threads) if plan.mode == "single" else score_in_tasks(table, job, plan.workers)
    if output is None:
        index = data.index if isinstance(table, FrameTable) else None  # type: ignore[attr-defined]  # it is a frame
        return collect(scored, names, index)
    with parquet_output(output, config) as file:
        for part in ahead(_written(scored, names, record.model_id)):
            file.write(part)
    seconds = time.perf_counter() - started
    logger.info("model=%s output=%s rows=%d seconds=%.2f", record.model_id, output, file.rows, seconds)
    return {
        "model_id": record.model_id,
        "output": output,
        "rows": file.rows,
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
    table: Table, columns: list[str], batch_size: int, distributed: bool | None, config: Config, *, streams: bool
) -> Plan:
    size = table.size(columns)
    rows = table.rows
    # The input is on disk, or held by the caller; what is added are some batches, and the result if it is returned.
    width = max(1, size // rows) if rows else 8 * len(columns)
    peak = batch_size * width * _COPIES + (0 if streams or rows is None else rows * 16)
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


def _written(scored: Iterator[Scored], names: list[str], model_id: str) -> Iterator[pa.Table]:
    import numpy as np
    import pyarrow as pa

    for part in scored:
        count = len(part.predictions)
        columns = [pa.array(part.predictions)]
        if part.probabilities is not None:
            columns += [pa.array(np.ascontiguousarray(column)) for column in part.probabilities.T]
        # One entry of a dictionary: the same id on every row costs next to nothing.
        columns.append(pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype="int32")), [model_id]))
        keys = [] if part.keys is None else part.keys.columns
        key_names = [] if part.keys is None else part.keys.column_names
        yield pa.table([*keys, *columns], names=[*key_names, *names, "model_id"])


_EXAMPLE = """example:
  python -m jobs.predict --model arrival-delay --data data/flights.parquet --output data/predictions.parquet \\
      --keys carrier,flight,time_hour
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    from jobs.commands import CHOICES, base_parser, comma_list

    options = base_parser("python -m jobs.predict", "Score a table with a registered model.", _EXAMPLE)
    options.add_argument("--model", required=True, metavar="REF", help="model id, name, name@alias or name:version")
    options.add_argument("--data", required=True, metavar="URI", help="CSV or Parquet, a file or a directory, or s3://")
    options.add_argument("--output", required=True, metavar="URI", help="the Parquet file to write")
    options.add_argument("--keys", type=comma_list, metavar="A,B,C", help="columns to carry along")
    options.add_argument("--proba", action="store_true", help="write the probability of each class too")
    options.add_argument("--batch-size", type=int, default=10000, metavar="ROWS", help="rows at once (default: 10000)")
    options.add_argument(
        "--distribute", choices=tuple(CHOICES), default="auto", help="score in tasks over the cluster (default: auto)"
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
    )
    assert isinstance(result, dict)  # because output was given
    return result


if __name__ == "__main__":
    from jobs.commands import run

    run("jobs.predict")
