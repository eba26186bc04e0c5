"""MLflow as a process of its own environment (`make bench` makes it), asked line by line; see `mlflow_side`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PYTHON = Path(__file__).parents[2] / ".venv-mlflow" / "bin" / "python"
_SCRIPT = Path(__file__).with_name("mlflow_side.py")


class Peer:
    """Asks MLflow's side to do things.

    Parameters
    ----------
    process : Popen
        It, with pipes.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, do: str, **arguments: Any) -> Any:
        """Call a method of `mlflow_side.Side`."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(json.dumps({"do": do, **arguments}), file=stdin, flush=True)
        answer = stdout.readline()
        if not answer:
            raise RuntimeError(f"MLflow's side ended with {self._process.wait()} while it was to {do}; see above")
        return json.loads(answer)


@contextmanager
def mlflow_peer() -> Iterator[Peer]:
    """Run MLflow's side.

    Raises
    ------
    RuntimeError
        When its environment is not there.
    """
    if not _PYTHON.exists():
        raise RuntimeError(f"{_PYTHON} is not there: `make bench` makes the environment of MLflow")
    process = subprocess.Popen([str(_PYTHON), str(_SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Peer(process)
    finally:
        process.communicate()  # closes its input, on which it ends its server and itself
