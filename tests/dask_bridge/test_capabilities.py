"""The README's table of capabilities is what the engines declare."""

from __future__ import annotations

from pathlib import Path

from dask_bridge.capabilities import table


def test_the_readme_has_the_table_that_the_engines_declare() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    assert table() in readme.read_text(encoding="utf-8")
