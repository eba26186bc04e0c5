"""What each engine can do, as the README's table: `python -m dask_bridge.capabilities`; connects to nothing."""

from __future__ import annotations

from compute.backend import Capabilities
from compute.local_backend import LocalBackend
from compute.ray_backend import RayBackend
from dask_bridge.backend import WITH_NANNIES, WITHOUT_NANNIES

ENGINES: dict[str, Capabilities] = {
    "local": LocalBackend.capabilities,
    "Ray, dask-on-ray": RayBackend.capabilities,
    "Dask": WITH_NANNIES,
    "Dask, workers without a nanny": WITHOUT_NANNIES,
}

WORDS = {
    "stops_running_tasks": "a running task can be cancelled, and is ended when it outlives its timeout",
    "holds_results": "large results stay with the engine until they are asked for",
    "queues": "short tasks are handed over ahead of need",
    "bundles": "short tasks travel together",
    "keeps_notes": "of those, only what was running runs again when a worker is lost",
}


def table() -> str:
    """Return the table in Markdown.

    Examples
    --------
    >>> print(table().splitlines()[0])
    | | local | Ray, dask-on-ray | Dask | Dask, workers without a nanny |
    """
    lines = [f"| | {' | '.join(ENGINES)} |", "| --- |" + " --- |" * len(ENGINES)]
    for field in Capabilities._fields:
        marks = ["yes" if getattr(able, field) else "no" for able in ENGINES.values()]
        lines.append(f"| {WORDS[field]} | {' | '.join(marks)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
