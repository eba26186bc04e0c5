"""Published instances of every kind, as many as TABLEWORK_INSTANCES has, against their published values.

Its INDEX.csv has of each a name, a file, a type, and the published optimum; see the README beside the instances.
TABLEWORK_SECONDS is the time that each may take.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from compute.errors import InvalidField
from solver.optimization.engine import Options
from solver.optimization.files import read_file
from solver.optimization.judge import SETTLED
from solver.optimization.solve import solve_program

ROOT = os.environ.get("TABLEWORK_INSTANCES")
SECONDS = float(os.environ.get("TABLEWORK_SECONDS", "20"))
KINDS = (
    "lp", "qp", "nlp", "minlp", "mip", "cp-jobshop", "cp-flexible-jobshop", "cp-rcpsp", "cp-tsp", "cp-pb", "cp-sat",
)  # fmt: skip
TOLERANCE = {"mip": 1e-4, "minlp": 1e-4}
"""How far a value may be from the published one, relative; of the others by 2e-6, half a digit of what is published."""
BETTER = ("HS106",)
"""Those whose published value is that of a solution that was not the best one."""


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(ROOT is None, reason="TABLEWORK_INSTANCES names no collection")
@pytest.mark.parametrize("kind", KINDS)
def test_published_instances_have_their_published_values(kind: str) -> None:
    root = Path(ROOT or "")
    wrong, told = [], []
    with (root / "INDEX.csv").open(newline="") as index:
        lines = [line for line in csv.DictReader(index) if line["type"] == kind]
    for line in lines:
        try:
            program = read_file(root / line["file"])
        except InvalidField as error:
            told.append(f"{line['name']}: {error}")
            continue
        solution = solve_program(program, Options(time_limit=SECONDS, threads=2 if kind.startswith("cp") else 1))
        value = None if solution.check is None else solution.check.objective
        known, name = line["known_optimum"], line["name"]
        if value is not None and not (solution.check is not None and solution.check.feasible):
            value = None
        if solution.reason not in (*SETTLED, "LOCALLY_OPTIMAL"):
            told.append(f"{name}: {solution.reason} {value} of {known}, gap {solution.gap} {solution.detail}")
        elif not _agrees(solution.reason, value, known, TOLERANCE.get(kind, 2e-6), better=name in BETTER):
            wrong.append(f"{name}: {solution.reason} {value}, and not {known}")
    print(f"{kind}: {len(lines) - len(told) - len(wrong)} of {len(lines)} solved", *told, sep="\n")
    assert wrong == []


def _agrees(reason: str, value: float | None, known: str, tolerance: float, *, better: bool) -> bool:
    if known in ("infeasible", "unbounded"):
        return reason.lower() == known
    if known in ("", "satisfiable"):
        return reason != "INFEASIBLE"
    if value is None:
        return False
    if known.startswith("<="):
        return value <= float(known[2:]) * (1 + tolerance)
    if known.startswith("["):
        low, high = known.strip("[]").split(",")
        return float(low) <= value <= float(high)
    distance = value - float(known)
    return abs(distance) <= tolerance * max(1.0, abs(float(known))) or (better and distance < 0)
