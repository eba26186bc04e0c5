"""Training and scoring whole tables, next to one plain process and to the libraries' own ways over a cluster."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from benchmarks.table import Row


def run(*, quick: bool = False) -> Iterator[Row | str]:
    """Run what each module of this folder measures; peers are programs of other environments."""
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        if name.endswith("_peer"):
            continue
        yield from importlib.import_module(f"{__name__}.{name}").run(quick=quick)
