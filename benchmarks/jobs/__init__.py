"""Training and scoring whole tables, next to one plain process and to the libraries' own ways over a cluster."""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.table import Row


def run(*, quick: bool = False) -> list[Row]:
    """Run what each module of this folder measures."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [row for name in names for row in importlib.import_module(f"{__name__}.{name}").run(quick=quick)]
