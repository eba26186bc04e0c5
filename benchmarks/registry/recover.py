"""``python -m benchmarks.registry.recover PATH``: read a registry from a directory; print seconds and bytes as JSON.

In a process of its own, because the memory of one that did something else before tells nothing.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.registry.population import fill
from registry import FileStore
from registry.catalog import ModelCatalog


def main(path: str) -> None:
    """Recover, and tell what it took."""
    with tempfile.TemporaryDirectory() as directory:  # what is loaded at the first use belongs to no model
        fill(FileStore(directory), 2)
        ModelCatalog(FileStore(directory))
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    began = time.perf_counter()
    catalog = ModelCatalog(FileStore(Path(path)))
    seconds = time.perf_counter() - began
    gc.collect()
    grown = process.memory_info().rss - before
    models = catalog.journal.read(lambda table: len(table.records))
    print(json.dumps({"seconds": seconds, "bytes": grown, "models": models}))


if __name__ == "__main__":
    main(sys.argv[1])
