"""The promises over a Ray cluster of two nodes, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.conftest import TWO_NODES

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_promise_holds_over_two_ray_nodes() -> None:
    files = [HERE / f"test_{name}.py" for name in ("promises", "flow", "helpers", "models")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-k", "[ray", *map(str, files)]
    run = subprocess.run(
        command, env={**os.environ, TWO_NODES: "1"}, cwd=HERE.parents[1], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
