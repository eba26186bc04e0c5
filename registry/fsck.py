"""Check all that a store holds, and say what is wrong, where, and what can be done: ``python -m registry.fsck``.

Every entry and snapshot of every journal, every artifact's bytes against its digest, and that all that records name is
there. Nothing is changed, and it may run beside live writers. Exit codes: 0 nothing is damaged, 1 something is, 2 the
check could not be made.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from compute import load_config
from compute.errors import ComputeError
from registry.catalog import PREFIX as MODELS
from registry.findings import Progress, Report
from registry.fsck_artifacts import check_artifacts, check_tasks, check_tokens
from registry.fsck_journal import JournalCheck
from registry.journals import JOURNALS, PREFIXES, no_store
from registry.log import Log
from registry.storage import open_store
from registry.store import ObjectStore
from registry.task_log import PREFIX as TASKS


def check_store(store: ObjectStore, *, artifacts: bool = True) -> Report:
    """Check a store.

    Parameters
    ----------
    store : ObjectStore
        It is only read.
    artifacts : bool
        Read the bytes of artifacts, and of payloads and results of tasks: all of them, which takes its time.

    Returns
    -------
    Report
        What was checked and found.

    Raises
    ------
    DataNotFound
        When there is nothing of ours in the store.
    StorageError
        When the store cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from registry.catalog import ModelCatalog
    >>> from registry.file_store import FileStore
    >>> store = FileStore(tempfile.mkdtemp())
    >>> store.put("models/log/00000000000000000002.json", b"?")
    >>> for finding in check_store(store).findings:
    ...     print(finding.severity, finding.key, finding.problem)
    damage models/log/00000000000000000001.json is missing
    damage models/log/00000000000000000002.json it is truncated or garbled (1 bytes)
    """
    started = time.monotonic()
    report, progress = Report(uri=store.uri), Progress()
    try:
        journals = {
            prefix: JournalCheck(Log(store, prefix), empty, report, progress) for prefix, empty in JOURNALS.items()
        }
        for journal in journals.values():
            journal.run()
        if artifacts:
            check_artifacts(store, journals[MODELS].newest, report, progress)
            check_tasks(store, journals[TASKS].newest, report, progress)
        check_tokens(store, report)
        _check_rest(store, report)
    finally:
        progress.close()
    report.seconds = time.monotonic() - started
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m registry.fsck", description=__doc__)
    parser.add_argument("--storage", metavar="URI", help="the store; by default storage.uri of the configuration")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--no-artifacts", action="store_true", help="check the journals alone")
    options = parser.parse_args(arguments)
    try:
        config = load_config()
        report = check_store(
            open_store(options.storage or config.storage.uri, config), artifacts=not options.no_artifacts
        )
    except ComputeError as error:
        print(error.message, file=sys.stderr)
        return 2
    print(report.model_dump_json(indent=2) if options.json else report.in_words())
    return 1 if report.damaged else 0


def _check_rest(store: ObjectStore, report: Report) -> None:
    """Report what no part of this program writes; refuse a place where there is nothing else."""
    foreign, ours = [], 0
    for key in store.list():
        if key.startswith(PREFIXES):
            ours += 1
        else:
            foreign.append(key)
    if not ours:
        raise no_store(store)
    for key in foreign:
        report.note(key, "has no business in this store", "move it away")


if __name__ == "__main__":
    sys.exit(main())
