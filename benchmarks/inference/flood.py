"""Five times as many requests as can be answered: who is answered is so soon, who is not is told at once."""

from __future__ import annotations

import re
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from benchmarks.inference.load import offer, p99
from benchmarks.inference.servers import Load, Server, rate_of, wrk

TIMES = 5
_CONNECTIONS = 640
_PROBES = 100.0


def flood(server: Server, loads: list[Load], seconds: float) -> list[str]:
    """Offer five times what was answered at 64 connections; meanwhile others ask now and then, and are timed.

    Those who flood wait a while between requests, and are as many as five times fill all places; latencies are those of
    a hundred requests a second that are sent whether or not others were answered.
    """
    capacity = statistics.median(load.per_second for load in loads)
    calm = p99(offer(server, _PROBES, 5).answered.values())
    before = _memory()
    with ThreadPoolExecutor(1) as aside:
        said = aside.submit(wrk, server, _CONNECTIONS, seconds, _CONNECTIONS / (TIMES * capacity))
        outcome = offer(server, _PROBES, seconds)
    grown = _memory() - before
    began = time.perf_counter()
    while not p99(offer(server, _PROBES, 0.5).answered.values()) <= 3 * calm and time.perf_counter() < began + 30:
        pass
    back = time.perf_counter() - began
    offered = rate_of(said.result()) + _PROBES
    turned_away = re.search(r"Non-2xx or 3xx responses: (\d+)", said.result())
    answered = rate_of(said.result()) - (int(turned_away[1]) / seconds if turned_away else 0)
    found = p99(outcome.answered.values())
    wrong = re.search(r"Socket errors: .*", said.result())
    return [
        f"  flood of {seconds:.0f} s: {offered:,.0f} requests/s offered, {offered / capacity:.1f} of what 64 "
        f"connections had; {answered:,.0f}/s answered, {answered / capacity:.2f} of that; "
        f"{wrong[0] if wrong else 'no errors'}",
        f"    p99 of answers {found:.1f} ms, {found / calm:.1f} times that of {_PROBES:.0f} requests/s alone; "
        f"of refusals {p99(outcome.refused):.1f} ms; of the timed, {len(outcome.answered):,} answered, "
        f"{len(outcome.refused):,} refused, {outcome.failed} failed",
        f"    memory of the replicas {grown / 2**20:+.1f} MiB; as before within {back:.1f} s",
    ]


def _memory() -> int:
    """Return the memory of the replicas of the inference application."""
    found = 0
    for process in psutil.process_iter(["cmdline", "memory_info"]):
        if any("ServeReplica:inference" in part for part in process.info["cmdline"] or ()):
            found += process.info["memory_info"].rss
    return found
