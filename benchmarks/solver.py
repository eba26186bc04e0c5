"""A small optimization through the service, next to HiGHS in this process; stops; twelve MIPs by one engine and a race.

The MIPs are those of the directory in TABLEWORK_INSTANCES (MIPLIB 3 and MIPcc23); without it they are left out.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import Row, in_turns
from compute import load_config
from solver import get_solver_service
from solver.optimization.engine import Options
from solver.optimization.engines.highs import make_highs
from solver.optimization.expressions import read_expressions
from solver.optimization.files import read_program
from solver.optimization.job import Incumbent, Job
from solver.optimization.judge import SETTLED
from solver.optimization.model import minimised
from solver.optimization.process import run_job
from solver.optimization.program import Program
from solver.optimization.solve import solve_program

PROGRAM = {
    "variables": {"chairs": {"lower": 0, "integer": True}, "tables": {"lower": 0, "integer": True}},
    "maximize": "45*chairs + 80*tables",
    "subject_to": ["5*chairs + 20*tables <= 400", "10*chairs + 15*tables <= 450"],
}
MIPS = (
    "p0201", "vpm2", "l152lav", "gesa2_o", "fiber", "misc07", "stein45", "10teams", "air05", "qiu", "noswot",
    "series/obj_s1_i01",
)  # fmt: skip
SECONDS = 60.0
TURNS = 15


def run(*, quick: bool = False) -> Iterator[Row]:
    """Measure both in turns; the MIPs one after another, by one engine and by two that race."""
    yield from _overhead(3 if quick else TURNS)
    yield from _stops(2 if quick else TURNS)
    root = os.environ.get("TABLEWORK_INSTANCES")
    if not quick and root is not None:
        yield from _mips(Path(root) / "mip")


def _overhead(turns: int) -> list[Row]:
    config = load_config()
    with tempfile.TemporaryDirectory() as state:
        storage = config.storage.model_copy(update={"uri": state})
        compute = config.compute.model_copy(update={"backend": "local", "local_workers": 1})
        service = get_solver_service(config.model_copy(update={"storage": storage, "compute": compute}))
        program = minimised(read_expressions(PROGRAM))
        work: dict[str, Any] = {
            "HiGHS in this process": lambda: _by_hand(program),
            "a durable task of the service": lambda: service.solve({"type": "optimization", "expressions": PROGRAM}),
        }
        try:
            for call in work.values():
                call()
            seconds = in_turns(work, turns)
        finally:
            service.close()
    by_hand, ours = seconds.values()
    return [
        Row("HiGHS in this process", by_hand * 1e3, "ms"),
        Row("a durable task in a process of its own, beyond that", (ours - by_hand) * 1e3, "ms", limit=400),
    ]


def _stops(turns: int) -> list[Row]:
    """Stop engines when they have found something and search on, at different moments."""
    program, random = minimised(read_expressions(_hard())), np.random.default_rng(0)
    rows = []
    for engine in ("highs", "scip", "cp-sat"):
        seconds = []
        for _ in range(turns):
            after, found, asked = random.uniform(0.1, 1.0), list[float](), list[float]()

            def seen(_: float, best: Incumbent | None, found: list[float] = found) -> None:
                if best is not None:
                    found.append(time.monotonic())

            def stopped(after: float = after, found: list[float] = found, asked: list[float] = asked) -> bool:
                if not asked and found and time.monotonic() - found[0] > after:
                    asked.append(time.monotonic())
                return bool(asked)

            run = run_job(Job(program, engine, Options(SECONDS)), progress=seen, stopped=stopped)
            seconds.append(time.monotonic() - asked[0])
            assert run.outcome.x is not None, "what it had found is kept"
        longest = max(seconds)
        rows.append(Row(f"{engine} told to stop, until it has, the longest of {turns}", longest * 1e3, "ms", limit=500))
    return rows


def _hard() -> dict[str, Any]:
    """Return a program with a first solution at hand and a proof out of reach: a market share problem."""
    random = np.random.default_rng(1)
    rows, columns = range(4), range(40)
    weights = random.integers(0, 100, (4, 40))
    variables: dict[str, Any] = {f"x{one}": {"lower": 0, "upper": 1, "integer": True} for one in columns}
    variables |= {f"{side}{row}": {"lower": 0, "integer": True, "upper": 4000} for side in "ou" for row in rows}
    return {
        "variables": variables,
        "minimize": " + ".join(f"o{row} + u{row}" for row in rows),
        "subject_to": [
            " + ".join(f"{weights[row, one]}*x{one}" for one in columns)
            + f" + o{row} - u{row} == {weights[row].sum() // 2}"
            for row in rows
        ],
    }


def _by_hand(program: Program) -> None:
    engine = make_highs(program, Options())
    engine.setOptionValue("output_flag", False)
    engine.run()


def _mips(root: Path) -> list[Row]:
    totals: dict[str, list[float]] = {"HiGHS alone, one thread": [], "a race, two threads": []}
    solved = dict.fromkeys(totals, 0)
    for name in MIPS:
        program = read_program(root / f"{name}.mps.gz")
        for (label, seconds), options, engines in zip(
            totals.items(), (Options(SECONDS), Options(SECONDS, threads=2)), (["highs"], None), strict=True
        ):
            began = time.perf_counter()
            solution = solve_program(program, options, engines=engines)
            seconds.append(time.perf_counter() - began)
            solved[label] += solution.reason in SETTLED
            value = np.nan if solution.check is None else solution.check.objective
            print(f"    {name:<20} {label:<26} {solution.reason:<10} {value:>14.6g} {seconds[-1]:8.2f} s", flush=True)
    alone, together = (sum(seconds) for seconds in totals.values())
    return [
        Row("HiGHS alone, one thread: solved", solved["HiGHS alone, one thread"], "of 12"),
        Row("the same, time of all", alone, "s"),
        Row("a race, two threads: solved", solved["a race, two threads"], "of 12"),
        Row("the same, time of all", together, "s", together / alone, 0.9),
    ]
