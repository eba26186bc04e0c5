"""Solve a program in a file, here and now: ``python -m solver model.mps``.

Exit codes: 0 it is solved, or shown to have no solution; 1 time was up, or no engine had a good answer; 2 the file
cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compute.errors import ComputeError
from solver.optimization.engine import Options
from solver.optimization.engines import ENGINES
from solver.optimization.files import read_file
from solver.optimization.job import Incumbent
from solver.optimization.solve import solve_program
from solver.optimization.words import as_answer

_SETTLED = ("OPTIMAL", "LOCALLY_OPTIMAL", "INFEASIBLE", "UNBOUNDED", "INFEASIBLE_OR_UNBOUNDED")
_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m solver", description=__doc__)
    parser.add_argument(
        "file",
        type=Path,
        help="a program: .mps, .qps, .lp, .nl, .opb, .cnf, .json; .txt (job shop), .rcp, .tsp; also .gz and .xz",
    )
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    parser.add_argument("--gap", type=float, default=1e-4, help="relative, for whole numbers; default: 1e-4")
    parser.add_argument("--threads", type=int, help="for engines that race; default: one, and idle CPUs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="may be repeated: asked in this order")
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")
    options = parser.parse_args(arguments)
    try:
        if not options.file.is_file():
            parser.error(f"there is no file {options.file}")
        program = read_file(options.file)
    except ComputeError as error:
        print(error.message, file=sys.stderr)
        return 2
    sign = -1.0 if program.maximize else 1.0

    def tell(seconds: float, best: Incumbent | None) -> None:
        if sys.stderr.isatty():
            value = "no solution yet" if best is None else f"best {sign * best.objective:.9g}"
            print(f"\r\x1b[K{seconds:.0f} s: {value}", end="", file=sys.stderr, flush=True)

    solution = solve_program(
        program,
        Options(options.time_limit, options.gap, options.threads or 1, options.seed),
        engines=options.engine,
        progress=tell,
        spare=options.threads is None,
    )
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    answer = as_answer(program, solution)
    print(json.dumps(answer, indent=2) if options.json else _in_words(answer))
    return 0 if solution.reason in _SETTLED else 1


def _in_words(answer: dict[str, Any]) -> str:
    ended, check = answer["termination"], answer["check"]
    lines = [ended["reason"] + (f" ({ended['limit']} limit)" if ended["limit"] else "")]
    if ended["detail"]:
        lines.append(ended["detail"])
    if answer["objective_value"] is not None:
        gap = "" if answer["relative_gap"] is None else f", gap {answer['relative_gap']:.2%}"
        bound = "" if answer["best_objective_bound"] is None else f", bound {answer['best_objective_bound']:.10g}"
        lines.append(f"objective {answer['objective_value']:.10g}{bound}{gap}")
        lines.append(f"checked: violated by {check['relative_violation']:.1e} at most, relative")
    if (conflict := answer["infeasible_subsystem"]) is not None:
        kind = "each of them is needed" if conflict["irreducible"] else "perhaps not all of them are needed"
        lines.append(f"these contradict each other ({kind}):")
        lines.append("  constraints " + ", ".join(conflict["constraints"]))
        lines.append("  bounds of   " + ", ".join(conflict["variable_bounds"]))
    values = {name: value for name, value in (answer["variable_values"] or {}).items() if value}
    lines += [f"  {name} = {value:.10g}" for name, value in list(values.items())[:_SHOWN]]
    if len(values) > _SHOWN:
        lines.append(f"  and {len(values) - _SHOWN:,} more that are not zero (--json shows them)")
    engine = answer["engine"]
    lines.append(f"{engine['name']} {engine['version']}, {engine['seconds']:.2f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
