"""What tasks on Ray survive; each on a cluster of its own, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.faults_on_ray import FAULTS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_and_nothing_runs_twice_unseen(fault: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.conformance.faults_on_ray", fault, str(tmp_path)]
    with (tmp_path / "output").open("w+b") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False, timeout=2900)
        output.seek(max(0, output.tell() - 5_000))
        said = output.read().decode(errors="replace")
    assert done.returncode == 0, said
    assert said.endswith("held\n")
