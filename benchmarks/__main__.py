"""``python -m benchmarks [--quick] [NAME ...]``: run all benchmarks, or those named, and print a table.

``--quick`` shows in a minute or two that they work; figures come from a full run.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import time

import benchmarks

_NOT_BENCHMARKS = {"__main__", "table"}


def main(arguments: list[str]) -> int:
    """Run and print; 1 when a name is unknown."""
    quick = "--quick" in arguments
    names = [argument for argument in arguments if argument != "--quick"]
    known = sorted({module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - _NOT_BENCHMARKS)
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 1
    for name in names or known:
        module = importlib.import_module(f"benchmarks.{name}")
        summary = (module.__doc__ or name).splitlines()[0].rstrip(".")
        print(f"{name}: {summary} ({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before)", flush=True)
        began = time.perf_counter()
        for row in module.run(quick=quick):
            print(row, flush=True)
        print(f"  in {time.perf_counter() - began:.0f} s\n", flush=True)
    return 0


sys.exit(main(sys.argv[1:]))
