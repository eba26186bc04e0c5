"""What models were asked and what they said, sampled, as Parquet on the object store: for measuring drift.

``predictions/<name>/<year-month-day-hour>/<version>-<id>.parquet`` has the features of the rows, and after them what
was predicted, with the model, the arm and the time. Files appear whole and are never changed: a process that dies loses
what it gathered since it last wrote, at most `interval` seconds or `max_rows` rows, and spoils nothing. Requests only
hand their rows over; all else is done by one thread, and what comes in faster than it writes is left out and counted.
"""

from __future__ import annotations

import io
import logging
import random
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from registry import Column, Signature, encode, read_texts

if TYPE_CHECKING:
    import pyarrow as pa

    from compute.config import PredictionLogging
    from deployments.question import Answer, Question
    from registry import ModelRecord, ObjectStore

logger = logging.getLogger(__name__)

PREFIX = "predictions"
MAX_BYTES = 64 * 2**20
"""Of what a replica holds, about; as `max_rows`."""


@dataclass(frozen=True, slots=True)
class _Entry:
    record: ModelRecord
    at: datetime
    arm: str | None
    rows: int
    size: int
    inputs: Any
    outputs: Mapping[str, Any]


class PredictionLog:
    """Gathers, and writes now and then.

    Parameters
    ----------
    store : ObjectStore
        Where to.
    settings : PredictionLogging
        What is kept, and how often it is written.
    """

    def __init__(self, store: ObjectStore, settings: PredictionLogging) -> None:
        self._store = store
        self._settings = settings
        self._entries: list[_Entry] = []
        self._rows = self._bytes = 0
        self._left_out = 0
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._due = threading.Event()
        self._closed = False
        threading.Thread(target=self._run, name="prediction-log", daemon=True).start()

    def offer(self, record: ModelRecord, question: Question[Answer], answer: Answer, arm: str | None = None) -> None:
        """Keep a request and its answer if chance wills; returns at once."""
        settings = self._settings
        if random.random() >= settings.sample or (settings.models and record.name not in settings.models):  # noqa: S311
            return
        if not question.rows:
            return
        inputs = question.inputs()
        size = _size(inputs)
        with self._lock:
            full = self._rows + question.rows > settings.max_rows or self._bytes + size > MAX_BYTES
            if full:
                self._left_out += question.rows
            else:
                outputs = dict(question.outputs(answer))
                self._entries.append(_Entry(record, datetime.now(UTC), arm, question.rows, size, inputs, outputs))
                self._rows += question.rows
                self._bytes += size
        if full or 2 * self._rows > settings.max_rows or 2 * self._bytes > MAX_BYTES:
            self._due.set()

    def flush(self) -> None:
        """Write what was gathered."""
        with self._writing:
            with self._lock:
                entries, self._entries = self._entries, []
                left_out, self._left_out = self._left_out, 0
            try:
                self._write(entries)
            finally:
                with self._lock:
                    self._rows -= sum(entry.rows for entry in entries)  # till here they took memory
                    self._bytes -= sum(entry.size for entry in entries)
            if left_out:
                logger.warning("event=predictions_left_out rows=%d action=lower_sample_or_raise_max_rows", left_out)

    def close(self) -> None:
        """Write the rest; nothing may be offered afterwards."""
        self._closed = True
        self._due.set()
        self.flush()

    def _run(self) -> None:
        while not self._closed:
            self._due.wait(self._settings.interval)
            self._due.clear()
            self.flush()

    def _write(self, entries: list[_Entry]) -> None:
        groups: dict[tuple[str, str], list[_Entry]] = {}
        for entry in entries:
            groups.setdefault((entry.record.model_id, f"{entry.at:%Y-%m-%d-%H}"), []).append(entry)
        for (_, hour), group in groups.items():
            record = group[0].record
            started = time.perf_counter()
            key = f"{PREFIX}/{record.name}/{hour}/{record.version}-{uuid.uuid4().hex}.parquet"
            try:
                self._store.put(key, _parquet(group))
            except Exception:  # the rows of one model must not take those of others, or the thread, with them
                logger.exception("event=predictions_not_written key=%s", key)
                continue
            seconds = time.perf_counter() - started
            logger.info("event=predictions_written key=%s requests=%d seconds=%.3f", key, len(group), seconds)


def _size(inputs: Any) -> int:
    """Return about how many bytes rows take."""
    if not isinstance(inputs, Mapping | list):
        return int(inputs.nbytes)  # an Arrow table
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    total = 0
    for value in values:
        if isinstance(value, np.ndarray):
            total += value.nbytes
        else:
            cells = value.values() if isinstance(value, dict) else value
            total += sum(64 + len(cell) if isinstance(cell, str) else 64 for cell in cells)
    return total


def _parquet(group: list[_Entry]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.concat_tables([_table(entry) for entry in group], promote_options="permissive")
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _table(entry: _Entry) -> pa.Table:
    """Return an entry as columns whose types depend on the model's signature alone, so that files fit together."""
    import pyarrow as pa

    record, rows = entry.record, entry.rows
    columns: dict[str, Any] = {}
    if record.signature is None:
        matrix = _matrix(entry.inputs)
        columns |= {f"input_{place}": pa.array(matrix[:, place], pa.float64()) for place in range(matrix.shape[1])}
    else:
        columns |= _features(entry.inputs, record.signature)
    columns |= _said(entry.outputs, record.signature.classes if record.signature is not None else None, rows, columns)
    columns["_model_id"] = pa.array([record.model_id] * rows)
    columns["_version"] = pa.array([record.version] * rows, pa.int64())
    columns["_arm"] = pa.array([entry.arm] * rows, pa.string())
    columns["_at"] = pa.array([entry.at] * rows, pa.timestamp("us", tz="UTC"))
    return pa.table(columns)


def _said(
    outputs: Mapping[str, Any], classes: Sequence[Any] | None, rows: int, taken: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the outputs as columns; those of a classifier that were not asked for are there too, empty."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    if classes:
        columns[_free("prediction", taken)] = pa.nulls(rows, pa.array(classes).type)
        columns |= {_free(f"probability_{label}", taken): pa.nulls(rows, pa.float64()) for label in classes}
    for name, values in outputs.items():
        array = np.asarray(values)
        if name == "predict":
            columns[_free("prediction", taken)] = pa.array(array.tolist())
        elif array.ndim == 2:
            for place, label in enumerate(classes or range(array.shape[1])):
                columns[_free(f"probability_{label}", taken)] = pa.array(array[:, place], pa.float64())
    return columns


def _features(inputs: Any, signature: Signature) -> dict[str, Any]:
    import pyarrow as pa

    if isinstance(inputs, Mapping):  # tensors: one for each feature, or a matrix of all
        matrix = next((value for value in inputs.values() if getattr(value, "ndim", 1) == 2), None)
        if matrix is not None and matrix.shape[1] == len(signature.columns) and len(inputs) == 1:
            inputs = {name: matrix[:, place] for place, name in enumerate(signature.feature_names)}
        plain = {
            name: np.ravel(each).tolist() if isinstance(each, np.ndarray) else each for name, each in inputs.items()
        }
        inputs = pa.table({name: pa.array(values) for name, values in plain.items()})
    numbers = tuple(column for column in signature.columns if column.dtype != "category")
    values = encode(inputs, Signature(columns=numbers), "float64") if numbers else np.empty((0, 0))
    found = {column.name: _numbers(values[:, place], column) for place, column in enumerate(numbers)}
    return {
        column.name: found[column.name]
        if column.name in found
        else pa.array([None if text is None else str(text) for text in read_texts(inputs, column)], pa.string())
        for column in signature.columns
    }


def _numbers(values: Any, column: Column) -> Any:
    import pyarrow as pa

    missing = np.isnan(values)
    if column.dtype == "bool":
        return pa.array(values == 1, pa.bool_(), mask=missing)
    if column.dtype == "datetime":
        micros = np.where(missing, 0, np.round(np.where(missing, 0, values) * 86_400e6)).astype("int64")
        return pa.array(micros, pa.int64(), mask=missing).cast(pa.timestamp("us"))
    return pa.array(values, pa.float64(), mask=missing)


def _matrix(inputs: Any) -> Any:
    rows = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
    return np.asarray(rows, dtype="float64")


def _free(name: str, columns: Mapping[str, Any]) -> str:
    """Return the name, or one like it where a feature has it."""
    while name in columns:
        name += "_"
    return name
