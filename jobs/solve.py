"""Answer a question in a file: ``ray job submit -- python -m jobs.solve question.json``, or ``model.mps``.

The answer is printed as the last line, in JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from compute.errors import BadRequest, DataNotFound, InvalidField

_EXAMPLE = """example:
  echo '{"query_data": {"type": "prediction", "model": "delays", "entities": [{"distance": 1400}]}}' > question.json
  python -m jobs.solve question.json
  python -m jobs.solve model.mps.gz --parameters '{"time_limit": 60}'
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    from jobs.commands import base_parser

    options = base_parser("python -m jobs.solve", "Answer a question of the solver.", _EXAMPLE)
    options.add_argument(
        "file", type=Path, help="a question as POST /solver/solve takes it (.json), or a program (.mps, .lp, ...)"
    )
    options.add_argument("--parameters", metavar="JSON", help="how to answer it; over those in the file")
    options.add_argument("--timeout", type=float, metavar="SECONDS", help="to wait for the answer")
    return options


def command(options: argparse.Namespace) -> dict[str, Any]:
    """Answer the question; returns the answer."""
    from solver import get_solver_service

    question = read_question(options.file)
    parameters = {**(question.get("parameters") or {}), **_object(options.parameters or "{}", "--parameters")}
    solver = get_solver_service()
    try:
        return solver.solve(question["query_data"], parameters, timeout=options.timeout)
    finally:
        solver.close()


def read_question(path: Path) -> dict[str, Any]:
    """Return the question in a file; a program is a question by itself.

    Raises
    ------
    DataNotFound
        When there is no such file.
    BadRequest, InvalidField
        When it holds no question.
    """
    if not path.is_file():
        raise DataNotFound(f"there is no file {path}", hint="Check the path.", context={"path": str(path)})
    if path.suffix != ".json":
        return {"query_data": {"type": "optimization", "uri": path.absolute().as_uri()}}
    question = _object(path.read_text(encoding="utf-8"), str(path))
    if "query_data" not in question or question.keys() - {"query_data", "parameters"}:
        raise InvalidField(
            f"{path} holds no question", hint='It looks like {"query_data": {"type": ...}, "parameters": {...}}.'
        )
    return question


def _object(text: str, source: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"{source} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest(f"{source} is no JSON object")
    return value


if __name__ == "__main__":
    from jobs.commands import run

    run("jobs.solve")
