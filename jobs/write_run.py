"""Score a table into Parquet, one file or a directory of them, in a run that can be gone on with.

pyarrow is imported inside functions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Sequence
from typing import Any

from compute.errors import ColumnInvalid
from jobs.manifest import Run, digest_of
from jobs.output import bad_rows_file, parquet_output, parts_place, remove_file
from jobs.parts import score_into
from jobs.planner import Plan
from jobs.progress import report
from jobs.scoring import Job
from jobs.tables import Table

logger = logging.getLogger(__name__)


def write_run(
    output: str,
    table: Table,
    job: Job,
    names: Sequence[str],
    plan: Plan,
    rows: int,
    *,
    directory: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """Score all rows, or those that an equal call left, in parts of so many; return how many there are.

    Returns
    -------
    dict
        ``rows``, ``bad_rows``, ``bad_rows_output``, ``parts`` and ``resumed_parts``.
    """
    facts = _facts(table, job, rows)
    place = output if directory else parts_place(output, digest_of(facts))
    run = Run(place, facts, "parquet" if directory else "arrow", job.config)
    finished = run.begin(overwrite=overwrite)
    if finished is not None:
        return {**finished, "resumed_parts": finished["parts"]}
    try:
        scored = score_into(run, table, job, names, plan, rows)
    except BaseException:
        # Nobody can go on with rows that were in memory, and nothing to go on with is left where nothing was done.
        if not facts["files"] or not run.done():
            run.discard()
        raise
    done = run.done()
    if len(done) > scored:
        logger.info("output=%s resumed_parts=%d", output, len(done) - scored)
    bad = run.bad_parts()
    if bad and not job.divert:
        raise ColumnInvalid(
            f"{sum(bad.values())} rows of {table.source} could not be scored: see {run.bad_rows_uri}",
            hint='An earlier call set them aside (bad_rows="divert"): ask for that again, or mend the rows.',
        )
    result = {
        "bad_rows": sum(bad.values()),
        "bad_rows_output": None if not bad else run.bad_rows_uri if directory else bad_rows_file(output),
        "parts": len(done),
        "resumed_parts": len(done) - scored,
    }
    if directory:
        result = {"rows": sum(run.rows(number) for number in sorted(done)), **result}
        run.finish(len(done), result)
        return result
    result = {"rows": _join(output, run, len(done), sorted(bad)), **result}
    run.discard()
    return result


def _facts(table: Table, job: Job, rows: int) -> dict[str, Any]:
    """Return what settles every row that is written; equal facts are the same run."""
    source = table.lineage()
    files = [[file.path, file.size, file.stamp] for file in source.get("files", ())]
    return {
        "model_id": job.model_id,
        "data": source.get("uri", source["kind"]),
        # Rows in memory are of this process alone: no other call is equal.
        "files": hashlib.sha256(json.dumps(files).encode()).hexdigest() if files else None,
        **({} if files else {"call": uuid.uuid4().hex}),
        "key_columns": list(job.keys),
        "proba": job.proba,
        "rows_per_part": rows,
    }


def _join(output: str, run: Run, parts: int, bad: Sequence[int]) -> int:
    """Put the parts into one file, in order; before it, the rows that could not be scored into theirs."""
    if bad:
        with parquet_output(bad_rows_file(output), run.config) as file:
            for number in bad:
                file.write(run.read_bad(number))
    else:
        remove_file(bad_rows_file(output), run.config)
    with parquet_output(output, run.config) as file:
        for number in range(parts):
            file.write(run.read(number))
            report("write", number + 1, parts)
    return file.rows
