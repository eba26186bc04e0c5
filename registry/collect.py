"""Remove what the registry does not need any more, and report what was freed: ``python -m registry.collect``.

On a cluster the registry does this every hour by itself. It is safe at any time, also while models are registered.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from compute import Config, load_config
from compute.errors import ComputeError
from registry.catalog import ModelCatalog
from registry.collection import CollectionReport
from registry.journals import check_used


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 when it could not be done."""
    parser = argparse.ArgumentParser(prog="python -m registry.collect", description=__doc__)
    parser.add_argument("--storage", metavar="URI", help="the store; by default storage.uri of the configuration")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and report what would go")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    try:
        catalog = ModelCatalog.of(_configured(options.storage))
        check_used(catalog.store)
        report = catalog.collect(dry_run=options.dry_run)
    except ComputeError as error:
        print(error.message, file=sys.stderr)
        return 2
    print(report.model_dump_json() if options.json else _in_words(report))
    return 0


def _configured(storage: str | None) -> Config:
    config = load_config()
    if storage is None:
        return config
    return config.model_copy(update={"storage": config.storage.model_copy(update={"uri": storage})})


def _in_words(report: CollectionReport) -> str:
    return (
        f"{'would free' if report.dry_run else 'freed'} {report.bytes:,} bytes: {report.models} deleted models, "
        f"{report.artifacts} artifacts that no model names, {report.checkpoints} checkpoints"
    )


if __name__ == "__main__":
    sys.exit(main())
