"""Train with warm workers that are up already: each reads its own share, and the libraries' own networks join them.

A run is three calls of each worker: read and say what is there, open a network, fit and score. The steps, and what each
does to rows, are those of `jobs.distributed`. When a worker dies, all of them start anew, and so does the run: nothing
is registered before it is over. ray, xgboost and lightgbm are imported inside functions.
"""

from __future__ import annotations

import importlib
import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compute import Config
from jobs import warm_pool
from jobs.blocks import Encoding, encode_block, say_block, score_block, thin_block
from jobs.distributed import judged, learn, marks_of, marks_since
from jobs.fitting import Fitted
from jobs.marks import Marks, Times, mark_block, times_of, to_fit
from jobs.node import cores
from jobs.planner import Plan
from jobs.preparing import Clock
from jobs.profile import MOST_ROWS
from jobs.ray_dataset import DatasetTable
from jobs.request import Request
from jobs.row_range import shares
from jobs.shard import Watched, booster_bytes, booster_from, fit_shard, split_batch
from jobs.warm_pool import Crew

if TYPE_CHECKING:
    import pandas as pd

    from jobs.families import Matrix, Problem
    from jobs.tables import Table

logger = logging.getLogger(__name__)

# Minutes that LightGBM waits for a peer.
_LIGHTGBM_PATIENCE = 2


def fit_over_group(request: Request, plan: Plan, clock: Clock, config: Config) -> Fitted:
    """Train with as many warm workers as planned, from the start again when one of them dies.

    Raises what `warm_pool.with_workers` does.
    """
    # The library reads the model here, in the end: it is imported while the workers work.
    threading.Thread(target=importlib.import_module, args=(request.family.model_type,), daemon=True).start()
    parts = _shares(request.table, plan.workers)
    return warm_pool.with_workers(lambda crew: _Run(request, plan, clock, parts, crew).fit(), len(parts), plan, config)


@dataclass(frozen=True)
class _Lesson:
    """What every worker must know to fit and to score; of the rows held back it shows at most so many."""

    model_type: str
    encoding: Encoding
    problem: Problem
    patience: int | None
    shown: int


class _Run:
    """One attempt."""

    def __init__(self, request: Request, plan: Plan, clock: Clock, parts: Sequence[Any], crew: Crew) -> None:
        self._request, self._plan, self._clock = request, plan, clock
        self._parts, self._members, self._each = parts, crew.members, crew.each

    def fit(self) -> Fitted:
        """Read, learn what all must know, fit, and join what the workers say of the rows they held back."""
        import numpy as np

        request, clock = self._request, self._clock
        # What came in memory has no file to be told by.
        digest = not request.table.lineage().get("files")
        marks = marks_of(request)
        if request.how.kind == "time":
            told = self._each([(_read_times, part, request.columns, marks) for part in self._parts])
            marks = marks_since(marks, told)
        options = {"columns": request.columns, "features": request.features, "weight": request.weight, "digest": digest}
        read = self._each([(_read, part, options, marks) for part in self._parts])
        clock.lap("read")
        learnt = learn([saying for saying, _, _ in read], request, self._plan.threads)
        shown = MOST_ROWS // len(read)
        lesson = _Lesson(request.family.model_type, learnt.encoding, learnt.problem, request.patience, shown)
        # A library's worker cannot do without rows.
        fitting = [index for index, (_, _, rows) in enumerate(read) if rows]
        network = self._network(request.family.model_type, fitting, [address for _, address, _ in read])
        clock.lap("prepare")
        chosen = [self._members[index].node for index in fitting]
        beside = [chosen.count(node) for node in chosen]
        done = self._each([(_fit, lesson, *one) for one in zip(network, beside, strict=True)], fitting)
        data = next(model for model, *_ in done if model is not None)
        idle = [index for index in range(len(read)) if index not in fitting]
        done += self._each([(_score, lesson, data)] * len(idle), idle)
        clock.lap("fit")

        model = booster_from(request.family.model_type, data)
        truth, predicted, sample = (np.concatenate([part[place] for part in done]) for place in (1, 2, 3))
        fitted = judged(request, learnt, model, truth, predicted, sample)
        clock.lap("evaluate")
        return fitted

    def _network(
        self, model_type: str, fitting: Sequence[int], addresses: Sequence[tuple[str, int]]
    ) -> list[dict[str, Any]]:
        """Return what each worker that fits must know to find the others."""
        if len(fitting) == 1:
            return [{}]
        if model_type == "xgboost":
            (tracker,) = self._each([(_open_tracker, len(fitting), addresses[fitting[0]][0])], fitting[:1])
            # The ranks are in the order of these ids.
            return [{**tracker, "dmlc_task_id": f"{rank:06}"} for rank in range(len(fitting))]
        machines = ",".join(f"{host}:{port}" for host, port in (addresses[index] for index in fitting))
        common = {"machines": machines, "num_machines": len(fitting), "time_out": _LIGHTGBM_PATIENCE}
        return [{**common, "local_listen_port": addresses[index][1]} for index in fitting]


def _shares(table: Table, count: int) -> list[Any]:
    """Cut the table for so many workers; the blocks of a Ray Dataset stay where they are."""
    return table.shares(count) if isinstance(table, DatasetTable) else shares(table, count)


def _read_times(state: dict[str, Any], part: Table, columns: Sequence[str], marks: Marks) -> Times:
    """Read a share, and return what it says of its times."""
    state["block"] = part.read(columns)
    return times_of(state["block"], marks)


def _read(
    state: dict[str, Any], part: Table, options: Mapping[str, Any], marks: Marks
) -> tuple[bytes, tuple[str, int], int]:
    """Read a share, once; return what it says, where others can reach this worker, and its number of rows to fit."""
    import ray

    block = state.pop("block") if "block" in state else part.read(options["columns"])
    marked = mark_block(block, marks)
    state["marked"] = marked
    said = say_block(marked, options["features"], marks, options["weight"], digest=options["digest"])["said"][0]
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # ray does not type it
    with socket.socket() as probe:
        probe.bind((address, 0))
        return said, (address, probe.getsockname()[1]), to_fit(marked, marks)


def _open_tracker(state: dict[str, Any], count: int, host: str) -> dict[str, Any]:
    """Start XGBoost's tracker beside the first worker; it ends with the run."""
    from xgboost import RabitTracker

    tracker = RabitTracker(n_workers=count, host_ip=host, sortby="task")
    tracker.start()
    # It serves in a thread of its own as long as somebody waits for it.
    threading.Thread(target=tracker.wait_for, name="tracker", daemon=True).start()
    state["tracker"] = tracker
    return dict(tracker.worker_args())


def _fit(
    state: dict[str, Any], lesson: _Lesson, network: dict[str, Any], beside: int
) -> tuple[bytes | None, Matrix, Matrix, Matrix]:
    """Fit with the others; return the model, from the first of them, and what `_scored` gives.

    Of more threads than the node has cores, most would wait for the others: ``beside`` is how many workers share them.
    """
    model_type, problem = lesson.model_type, lesson.problem
    problem = replace(problem, threads=max(1, min(problem.threads, cores() // beside)))
    marked = state.pop("marked")
    training = _encode(marked, lesson, held_out=False)
    held = _encode(marked, lesson, held_out=True)
    del marked
    fitted, seen = split_batch(training)
    del training
    shard, watched = [fitted], None if seen is None or lesson.patience is None else Watched([seen], lesson.patience)
    if model_type == "xgboost" and network:
        from xgboost.collective import CommunicatorContext

        with CommunicatorContext(**network):
            booster = fit_shard(model_type, shard, problem, watched=watched)
        first = network["dmlc_task_id"] == f"{0:06}"
    else:
        booster = fit_shard(model_type, shard, problem, watched=watched, network=network)
        first = not network or network["machines"].split(",")[0].endswith(f":{network['local_listen_port']}")
    return booster_bytes(model_type, booster) if first else None, *_scored(held, booster, lesson)


def _score(state: dict[str, Any], lesson: _Lesson, model: bytes) -> tuple[None, Matrix, Matrix, Matrix]:
    """Score held rows where there was nothing to fit."""
    held = _encode(state.pop("marked"), lesson, held_out=True)
    return None, *_scored(held, booster_from(lesson.model_type, model), lesson)


def _encode(marked: pd.DataFrame, lesson: _Lesson, *, held_out: bool) -> dict[str, Any]:
    return encode_block(marked, lesson.encoding, held_out=held_out)


def _scored(held: dict[str, Any], model: Any, lesson: _Lesson) -> tuple[Matrix, Matrix, Matrix]:
    """Return the truth and the prediction of held rows, and at most so many of the rows themselves, evenly taken."""
    scored: dict[str, Any] = score_block(held, model, lesson.model_type, lesson.problem)
    thinned: dict[str, Any] = thin_block(held, step=max(1, -(-len(held["matrix"]) // lesson.shown)))
    return scored["truth"], scored["predicted"], thinned["matrix"]
