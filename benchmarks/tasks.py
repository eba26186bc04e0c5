"""Empty tasks: ComputeManager on Ray and on local processes, next to plain Ray and concurrent.futures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from benchmarks.table import Row, in_turns
from compute import ComputeManager, load_config
from compute.local_backend import LocalBackend

COUNT = 2_000
TURNS = 9
ROUND_TRIPS = 150
WORKERS = 2


def nothing(number: int) -> int:
    """Do nothing; the work of a task here."""
    return number


def run(*, quick: bool = False) -> list[Row]:
    """Measure tasks a second, and one task and its result."""
    import ray

    from compute.ray_backend import RayBackend

    turns = 1 if quick else TURNS
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        plain = ray.remote(nothing)
        with ComputeManager(RayBackend(), load_config()) as manager:
            rows = _compare(
                "Ray",
                "plain @ray.remote",
                lambda: ray.get([plain.remote(number) for number in range(COUNT)]),
                lambda: ray.get(plain.remote(1)),
                manager,
                turns,
                targets=(0.9, 1.1),
            )
    finally:
        ray.shutdown()
    with ProcessPoolExecutor(WORKERS) as pool, ComputeManager(LocalBackend(WORKERS), load_config()) as manager:
        rows += _compare(
            "local",
            "concurrent.futures",
            lambda: [future.result() for future in [pool.submit(nothing, number) for number in range(COUNT)]],
            lambda: pool.submit(nothing, 1).result(),
            manager,
            turns,
        )
    return rows


def _compare(
    engine: str,
    peer: str,
    many: Callable[[], object],
    one: Callable[[], object],
    manager: ComputeManager,
    turns: int,
    targets: tuple[float | None, float | None] = (None, None),
) -> list[Row]:
    def several(call: Callable[[], object]) -> Callable[[], None]:
        def repeat() -> None:
            # Enough of them that the clock and the turn's first one do not matter.
            for _ in range(ROUND_TRIPS):
                call()

        return repeat

    seconds = in_turns(
        {
            "peer many": many,
            "many": lambda: manager.gather_results([manager.submit_task(nothing, number) for number in range(COUNT)]),
            "map": lambda: sum(1 for _ in manager.map(nothing, range(COUNT))),
            "peer one": several(one),
            "one": several(lambda: manager.get_result(manager.submit_task(nothing, 1))),
        },
        turns,
    )
    rates = {name: COUNT / seconds[name] for name in ("peer many", "many", "map")}
    trips = {name: seconds[name] / ROUND_TRIPS * 1e6 for name in ("peer one", "one")}
    return [
        Row(f"{peer}, {COUNT} tasks", rates["peer many"], "tasks/s"),
        Row(f"{engine}: submit_task and gather_results", rates["many"], "tasks/s", _ratio(rates, "many"), targets[0]),
        Row(f"{engine}: map", rates["map"], "tasks/s", _ratio(rates, "map")),
        Row(f"{peer}, one and its result", trips["peer one"], "us"),
        Row(f"{engine}: submit_task and get_result", trips["one"], "us", trips["one"] / trips["peer one"], targets[1]),
    ]


def _ratio(rates: dict[str, float], name: str) -> float:
    return rates[name] / rates["peer many"]
