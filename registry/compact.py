"""Remove log entries and snapshots that journals need no more: ``python -m registry.compact``.

On a cluster the registry does this every hour by itself. It is safe at any time, also while others write. Exit codes:
0, or 2 when it could not be done.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from compute import load_config
from compute.errors import ComputeError, InvalidField
from registry.compaction import GRACE, LEAST_GRACE, CompactionReport, compact
from registry.journals import JOURNALS, check_used
from registry.log import Log
from registry.storage import open_store
from registry.store import ObjectStore

_HOUR = 3600.0


def compact_store(store: ObjectStore, grace: float = GRACE) -> dict[str, CompactionReport]:
    """Compact every journal of a store; returns what was removed of each, by its prefix.

    Parameters
    ----------
    store : ObjectStore
        Where they lie.
    grace : float
        Seconds; see `registry.compaction.compact`.

    Raises
    ------
    InvalidField
        When the grace is so short that a process which stands still for a moment could be overtaken.

    Examples
    --------
    >>> import tempfile
    >>> from registry.file_store import FileStore
    >>> compact_store(FileStore(tempfile.mkdtemp()))["models"].entries
    0
    """
    if not grace >= LEAST_GRACE:
        raise InvalidField(
            f"a grace of {grace:g} s is not safe beside others that write",
            hint=f"Give {LEAST_GRACE:g} s or more.",
            context={"field": "grace"},
        )
    return {prefix: compact(Log(store, prefix), grace) for prefix in JOURNALS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m registry.compact", description=__doc__)
    parser.add_argument("--storage", metavar="URI", help="the store; by default storage.uri of the configuration")
    parser.add_argument(
        "--keep-hours",
        type=float,
        metavar="N",
        help="for so long the change feed goes back (default: a day longer than webhooks may fail)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    try:
        config = load_config()
        grace = max(GRACE, 24 * _HOUR * (1 + config.security.webhook_days))
        if options.keep_hours is not None:
            grace = options.keep_hours * _HOUR
        store = open_store(options.storage or config.storage.uri, config)
        check_used(store)
        reports = compact_store(store, grace)
    except ComputeError as error:
        print(error.message, file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({prefix: report.model_dump() for prefix, report in reports.items()}, indent=2))
        return 0
    for prefix, report in reports.items():
        print(
            f"{prefix:8}  {report.entries:,} entries and {report.snapshots:,} snapshots removed, {report.bytes:,} bytes"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
