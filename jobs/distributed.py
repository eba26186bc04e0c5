"""Train over a cluster: Ray Data reads and encodes, Ray Train fits; the model is kept as one from a single process is.

The table is read once, into the object store. Each block draws its own validation rows and says what its training rows
hold; from those sayings the driver makes the signature, and the blocks are encoded on their way to the workers.
ray, xgboost and lightgbm are imported inside functions.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import pickle
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from compute import Config
from compute.errors import DataError, TaskFailed
from jobs.blocks import Encoding, Said, encode_block, say_block, score_block, thin_block, together
from jobs.files import local_path, storage_options
from jobs.fitting import Fitted, check_weight, errors_of
from jobs.marks import Marks, mark_block, since, times_of
from jobs.metrics import measure
from jobs.planner import Plan
from jobs.preparing import Clock, usable_features
from jobs.profile import MOST_ROWS, profile_of
from jobs.ray_dataset import as_dataset
from jobs.report import describe, importances
from jobs.request import Request, problem_of
from jobs.shard import DiskShard, Watched, booster_bytes, booster_from, fit_shard, split_batch
from jobs.split import check_rows
from jobs.targets import find_target, nulls_in_target
from jobs.validation import no_classes
from jobs.weights import class_weights

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from jobs.families import Problem
    from jobs.marks import Times
    from jobs.targets import Target
    from registry import Signature

logger = logging.getLogger(__name__)

# Blocks a worker: enough that reading goes on while others are encoded.
_BLOCKS_A_WORKER = 4
# Rows that a worker takes from its shard at a time.
_PULL = 65_536
# Checkpoints a run: what is lost with a worker is a tenth of the rounds.
_CHECKPOINTS = 10
# Bytes of encoded rows held back that the driver scores itself.
_SCORED_HERE = 256 * 2**20


def fit_over_cluster(request: Request, plan: Plan, clock: Clock, config: Config) -> Fitted:
    """Train with as many workers as planned; what fails goes on from the last checkpoint."""
    raw = as_dataset(request.table, request.columns, plan.workers * _BLOCKS_A_WORKER)
    marks = marks_of(request)
    if request.how.kind == "time":
        raw = raw.materialize()  # it is read once
        times = functools.partial(_times_row, marks=marks)
        told = raw.map_batches(times, batch_format="pandas", batch_size=None).take_all()
        marks = marks_since(marks, [pickle.loads(row["times"]) for row in told])  # noqa: S301  (from our own workers)
    mark = functools.partial(mark_block, marks=marks)
    marked = raw.map_batches(mark, batch_format="pandas", batch_size=None).materialize()
    del raw
    say = functools.partial(say_block, features=request.features, marks=marks, weight=request.weight)
    rows = marked.map_batches(say, batch_format="pandas", batch_size=None).take_all()
    learnt = learn([row["said"] for row in rows], request, plan.threads)
    problem = learnt.problem
    clock.lap("read")

    encode = functools.partial(encode_block, how=learnt.encoding)
    training = marked.map_batches(functools.partial(encode, held_out=False), batch_format="pandas", batch_size=None)
    # Now, while workers are warm: Ray Train leaves none idle.
    held_out = marked.map_batches(functools.partial(encode, held_out=True), batch_format="pandas", batch_size=None)
    held_out = held_out.materialize()
    clock.lap("prepare")

    model = _fit(request, training, problem, plan, config)
    clock.lap("fit")

    truth, predicted = _score(held_out, model, problem, request)
    fitted = judged(request, learnt, model, truth, predicted, _sample(held_out, len(truth)))
    clock.lap("evaluate")
    return fitted


def marks_of(request: Request) -> Marks:
    """Return which rows are held back, and watched; of times it is not known yet from which one on."""
    return Marks(replace(request.how, fraction=request.fraction, seed=request.seed), request.target,
                 watch=request.patience is not None)  # fmt: skip


def marks_since(marks: Marks, told: Sequence[Times]) -> Marks:
    """Fill in from which times on rows are held back, and watched, by what the blocks tell of theirs."""
    held, watched = since(told, marks)
    return replace(marks, since=held, watched_since=watched)


def _times_row(block: pd.DataFrame, marks: Marks) -> dict[str, list[bytes]]:
    return {"times": [pickle.dumps(times_of(block, marks))]}


def judged(
    request: Request,
    learnt: Learnt,
    model: Any,
    truth: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    sample: npt.NDArray[Any],
) -> Fitted:
    """Return what training gives, by the truth and the prediction of the rows held back, and a sample of them."""
    import numpy as np

    said, target, problem = learnt.said, learnt.target, learnt.problem
    baseline = said.baseline(target)
    metrics = measure(truth, predicted, baseline)
    report = describe(truth, predicted, metrics, target, request.seed)
    report["importances"] = importances(request.family, model, problem, np.empty((0, len(problem.columns))))
    return Fitted(
        model=model,
        signature=learnt.signature,
        target=target,
        metrics=metrics,
        baseline=baseline,
        rows={"training_rows": said.training, "validation_rows": len(truth), "dropped_rows": said.nulls},
        left_out=learnt.left_out,
        residuals=errors_of(truth, predicted, target),
        data=blocks_lineage(request, said.digest),
        report=report,
        profile=profile_of(sample, learnt.signature),
    )


@dataclass(frozen=True)
class Learnt:
    """What the blocks' sayings come to: all that must be known to encode and to fit."""

    said: Said
    encoding: Encoding
    problem: Problem
    left_out: dict[str, str]

    @property
    def target(self) -> Target:
        """What is learnt."""
        return self.encoding.target

    @property
    def signature(self) -> Signature:
        """Of the model."""
        return self.encoding.signature


def learn(told: Sequence[bytes], request: Request, threads: int) -> Learnt:
    """Make the signature and the problem from what `say_block` said of each block."""
    import numpy as np

    from registry import capture_signature

    sayings = [pickle.loads(saying) for saying in told]  # noqa: S301  (our own, from our own workers)
    said = together(sayings)
    if said is None:
        if rows := sum(saying.rows for saying in sayings):
            raise _one_side(rows, "held back", request)
        raise DataError(f"{request.table.source} has no rows with a target", hint="Check the target column.")
    if said.nulls and not request.drop_null_target:
        raise nulls_in_target(request.target, said.nulls, said.rows + said.nulls, [])
    check_rows(said.rows, request.table.source)
    if said.training == said.rows:
        raise _one_side(said.rows, "left to train on", request)
    check_weight(said.weight, request)
    target = find_target(said.target, request.task)
    if request.how.kind == "stratified" and target.classes is None:
        raise no_classes()
    features, left_out = usable_features(said.features, request, said.training)
    signature = capture_signature(
        said.features[list(features)], target=request.target, target_values=said.target, task=target.task
    )
    each = None
    if request.class_weight is not None:
        counts = np.array([said.counts.get(label, 0) for label in target.classes or ()])
        each = class_weights(request.class_weight, target, counts)
    encoding = Encoding(signature, target, request.family.dtype, request.weight, each)
    return Learnt(said, encoding, problem_of(signature, target, request, threads), left_out)


def _one_side(rows: int, side: str, request: Request) -> DataError:
    """Return what is wrong with a draw that put all rows on one side: each row or group is drawn by itself."""
    how = request.how
    column = f" of {how.column!r}" if how.column is not None else ""
    return DataError(
        f"all {rows:,} rows are {side}: each {how.kind if how.column else 'row'}{column} is drawn by itself",
        hint="distribute_data=False holds back just the share that was asked for; or give another seed.",
        context={"column": how.column, "validation_fraction": request.fraction},
    )


def _score(
    held_out: Any, model: Any, problem: Problem, request: Request
) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]]:
    """Return the truth and the prediction of the rows held back."""
    import numpy as np

    score = functools.partial(score_block, model=model, model_type=request.family.model_type, problem=problem)
    if held_out.size_bytes() <= _SCORED_HERE:
        # One block at a time; tasks would first import the library in every worker.
        parts = [score(part) for part in held_out.iter_batches(batch_format="numpy", batch_size=None)]
    else:
        scored = held_out.map_batches(score, batch_format="numpy", batch_size=None)
        parts = list(scored.iter_batches(batch_format="numpy", batch_size=None))
    return np.concatenate([part["truth"] for part in parts]), np.concatenate([part["predicted"] for part in parts])


def _sample(held_out: Any, rows: int) -> npt.NDArray[Any]:
    """Return the rows held back, or an even part of them."""
    import numpy as np

    thin = functools.partial(thin_block, step=-(-rows // MOST_ROWS))
    # A few are thinned here; tasks would first import the libraries in every worker.
    small = held_out if rows <= MOST_ROWS else held_out.map_batches(thin, batch_format="numpy", batch_size=None)
    parts = [part["matrix"] for part in small.iter_batches(batch_format="numpy", batch_size=None)]
    return np.concatenate(parts)


def blocks_lineage(request: Request, digest: str) -> dict[str, Any]:
    """Say where the data came from; those that came in memory are told by what their blocks said."""
    from jobs.lineage import data_lineage

    source = request.table.lineage()
    return data_lineage(source, ()) if source.get("files") else {**source, "fingerprint": digest}


def _fit(request: Request, training: Any, problem: Problem, plan: Plan, config: Config) -> Any:
    """Run the trainer of the family, and rebuild the model from what the first worker returned."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

    model_type = request.family.model_type
    workers: Any = plan.workers if plan.least == plan.workers else (plan.least, plan.workers)
    every = max(1, request.family.rounds(request.params) // _CHECKPOINTS)
    with _run_folder(config) as (path, filesystem):
        options: dict[str, Any] = {
            "train_loop_config": {
                "problem": problem,
                "every": every,
                "on_disk": plan.on_disk,
                "patience": request.patience,
            },
            "datasets": {"train": training},
            "scaling_config": ScalingConfig(num_workers=workers, resources_per_worker={"CPU": plan.cpus}),
            "run_config": RunConfig(
                name="run",
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=config.task_defaults.retries),
                checkpoint_config=CheckpointConfig(num_to_keep=1),
            ),
        }
        if model_type == "xgboost":
            from ray.train.xgboost import XGBoostTrainer

            trainer: Any = XGBoostTrainer(cast("Any", _xgboost_worker), **options)
        else:
            from ray.train.lightgbm import LightGBMTrainer

            trainer = LightGBMTrainer(cast("Any", _lightgbm_worker), **options)
        try:
            result: Any = trainer.fit()
        except TrainingFailedError as error:
            raise TaskFailed(
                f"the distributed training of the {model_type} model failed: {error}",
                hint="The workers' logs are in Ray's dashboard; distribute_data=False trains in one process.",
            ) from error
    return booster_from(model_type, result.return_value)


@contextlib.contextmanager
def _run_folder(config: Config) -> Iterator[tuple[str, Any]]:
    """Give a place for checkpoints that every node reaches; it goes with the run, or when garbage is collected."""
    place = f"{config.storage.uri.rstrip('/')}/checkpoints/{uuid.uuid4().hex}"
    local = local_path(place)
    if local is not None:
        local.mkdir(parents=True)
        try:
            yield str(local), None
        finally:
            shutil.rmtree(local, ignore_errors=True)
        return
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    store, path = fsspec.core.url_to_fs(place, **storage_options(place, config))
    try:
        yield path, PyFileSystem(FSSpecHandler(store))
    finally:
        with contextlib.suppress(FileNotFoundError):  # it ended before its first checkpoint
            store.rm(path, recursive=True)


def _batches(settings: dict[str, Any], folder: str) -> tuple[Any, Watched | None]:
    """Take this worker's rows to fit, and to watch, encoded: in memory, or on this node's disk."""
    import ray.train

    shard = ray.train.get_dataset_shard("train")
    parts: list[Any] = [DiskShard(Path(folder) / name) if settings["on_disk"] else [] for name in ("fit", "watched")]
    for encoded in shard.iter_batches(batch_format="numpy", batch_size=_PULL):
        for part, batch in zip(parts, split_batch(encoded), strict=True):
            if batch is not None:
                part.append(batch)
    patience = settings["patience"]
    return parts[0], None if patience is None else Watched(parts[1], patience)


def _start(callback: Any) -> Any:
    """Return the model of the last checkpoint, when the run goes on after a failure."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    return None if checkpoint is None else callback.get_model(checkpoint)


def _xgboost_worker(settings: dict[str, Any]) -> bytes | None:
    from ray.train.xgboost import RayTrainReportCallback

    return _worker("xgboost", settings, RayTrainReportCallback, {})


def _lightgbm_worker(settings: dict[str, Any]) -> bytes | None:
    import ray.train
    from ray.train.lightgbm import RayTrainReportCallback, get_network_params

    several = ray.train.get_context().get_world_size() > 1
    return _worker("lightgbm", settings, RayTrainReportCallback, get_network_params() if several else {})


def _worker(model_type: str, settings: dict[str, Any], callback: Any, network: dict[str, Any]) -> bytes | None:
    import ray.train

    class Checkpoints(callback):  # type: ignore[misc]
        """Keeps the model every few rounds; between them nothing is told, for which all workers would have to meet."""

        def _report_metrics(self, report_dict: dict[str, Any]) -> None:
            pass

    checkpoints = [Checkpoints(frequency=settings["every"], checkpoint_at_end=False)]
    with tempfile.TemporaryDirectory(prefix="shard-") as folder:
        (shard, watched), start = _batches(settings, folder), _start(callback)
        booster = fit_shard(
            model_type, shard, settings["problem"],
            watched=watched, start=start, network=network, callbacks=checkpoints,
        )  # fmt: skip
    return booster_bytes(model_type, booster) if ray.train.get_context().get_world_rank() == 0 else None
