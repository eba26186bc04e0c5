"""Fit a booster to one worker's shard, together with the other workers; the same for warm workers and for Ray Train.

Who calls it has set up the network: XGBoost's communicator, or LightGBM's parameters. A shard is batches of encoded
rows, in memory or on the worker's disk. numpy, xgboost and lightgbm are imported inside functions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from compute.errors import InvalidField, WorkerLost
from jobs.boosting import Watch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from jobs.families import Matrix, Problem

# The attribute of an XGBoost model that has the scores of the rows that are watched.
_SCORES = "watched_scores"


class Batch(NamedTuple):
    """Encoded rows, what is to be learnt of them, and how much they weigh."""

    matrix: Matrix
    target: Matrix
    weight: Matrix | None = None


class Shard(Protocol):
    """Batches that can be taken as often as is needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch: ...


class DiskShard:
    """Batches kept in a folder on the worker's disk: of the rows, one batch is in memory at a time."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)
        self._kept: list[list[str]] = []

    def append(self, batch: Batch) -> None:
        """Keep one more batch."""
        import numpy as np

        number = len(self._kept)
        there = {name: values for name, values in batch._asdict().items() if values is not None}
        for name, values in there.items():
            np.save(self.folder / f"{number}-{name}.npy", values)
        self._kept.append(list(there))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Batch:
        import numpy as np

        return Batch(**{name: np.load(self.folder / f"{index}-{name}.npy") for name in self._kept[index]})


def split_batch(encoded: Mapping[str, Any]) -> tuple[Batch, Batch | None]:
    """Part what `encode_block` gives of training rows into the rows to fit and those to watch."""
    whole = Batch(encoded["matrix"], encoded["target"], encoded.get("weight"))
    watched = encoded.get("watched")
    if watched is None:
        return whole, None
    return _rows(whole, ~watched), _rows(whole, watched)


def _rows(batch: Batch, mask: npt.NDArray[np.bool_]) -> Batch:
    return Batch(batch.matrix[mask], batch.target[mask], None if batch.weight is None else batch.weight[mask])


@dataclass(frozen=True)
class Watched:
    """Rows of a worker that are watched for early stopping, and for how many rounds they may bring nothing."""

    shard: Shard
    patience: int


def fit_shard(
    model_type: str,
    shard: Shard,
    problem: Problem,
    *,
    watched: Watched | None = None,
    start: Any = None,
    network: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Train on the shard, going on from a model if one is given; every worker gets the same booster.

    Parameters
    ----------
    model_type : {"xgboost", "lightgbm"}
        The family.
    shard : sequence of Batch, or DiskShard
        What XGBoost holds of a DiskShard at a time is a batch, and some ten bytes a row; LightGBM takes none.
    problem : Problem
        The same for all workers.
    watched : Watched, optional
        For XGBoost, whose workers reckon the metric together: they stop after the same round.
    start : Booster, optional
        Its rounds count as done.
    network : mapping, optional
        LightGBM's ``machines``, ``num_machines`` and ``local_listen_port``.
    callbacks : sequence
        Of the library.
    """
    if model_type == "xgboost":
        return _fit_xgboost(shard, problem, watched, start, callbacks)
    assert watched is None, "refused with the request"
    return _fit_lightgbm(shard, problem, start, network or {}, callbacks)


def _fit_xgboost(shard: Shard, problem: Problem, watched: Watched | None, start: Any, callbacks: Sequence[Any]) -> Any:
    import numpy as np
    import xgboost

    from jobs.family_xgboost import booster_params, stopper

    rounds, params = booster_params(problem)
    data = _matrix(shard, problem, params)
    done = 0 if start is None else start.num_boosted_rounds()
    watching: dict[str, Any] = {}
    watch = None
    if watched is not None:
        # The rows are in a matrix of their own.
        watch = Watch(np.empty((0, 0)), np.empty(0), None, watched.patience)
        # What was seen before the checkpoint goes with the model.
        watch.scores, watch.higher = json.loads((start and start.attr(_SCORES)) or "[[], false]")
        if watch.stopped:
            return _best(start, watch)
        seen = _matrix(watched.shard, problem, params, ref=data)
        watching = {"evals": [(seen, "watched")], "verbose_eval": False}
        callbacks = [stopper(watch), _keeper(watch), *callbacks]
    try:
        booster = xgboost.train(params, data, rounds - done, xgb_model=start, callbacks=list(callbacks), **watching)
    except xgboost.core.XGBoostError as error:
        if "collective" in str(error) or "rabit" in str(error) or "socket" in str(error):
            raise WorkerLost(f"XGBoost lost another worker: {_first(error)}", hint="Train again.") from error
        raise InvalidField(f"XGBoost refused the parameters: {_first(error)}") from error
    return booster if watch is None else _best(booster, watch)


def _matrix(shard: Shard, problem: Problem, params: Mapping[str, Any], ref: Any = None) -> Any:
    """Quantise the batches one by one, so that they are never joined into a second copy."""
    import xgboost

    from jobs.family_xgboost import matrix_options

    options = {name: value for name, value in matrix_options(problem).items() if name != "enable_categorical"}

    class Batches(xgboost.DataIter):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            self.position = 0
            super().__init__(cache_prefix=str(shard.folder / "cache") if isinstance(shard, DiskShard) else None)

        def next(self, input_data: Any) -> bool:
            if self.position == len(shard):
                return False
            batch = shard[self.position]
            input_data(data=batch.matrix, label=batch.target, weight=batch.weight, **options)
            self.position += 1
            return True

        def reset(self) -> None:
            self.position = 0

    make = xgboost.ExtMemQuantileDMatrix if isinstance(shard, DiskShard) else xgboost.QuantileDMatrix
    more = {"max_bin": params.get("max_bin"), "nthread": problem.threads, "enable_categorical": True}
    return make(Batches(), ref=ref, **more)


def _keeper(watch: Watch) -> Any:
    import xgboost

    class Keeper(xgboost.callback.TrainingCallback):  # type: ignore[misc,unused-ignore]
        """Writes the scores into the model, for a run that goes on from its checkpoint."""

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002
            model.set_attr(**{_SCORES: json.dumps([watch.scores, watch.higher])})
            return False

    return Keeper()


def _best(booster: Any, watch: Watch) -> Any:
    """Return the rounds that did best on the rows that were watched."""
    best = booster[: watch.best]
    best.set_attr(**{_SCORES: None})
    return best


def _fit_lightgbm(
    shard: Shard, problem: Problem, start: Any, network: Mapping[str, Any], callbacks: Sequence[Any]
) -> Any:
    import lightgbm
    import numpy as np

    from jobs.family_lightgbm import booster_params, dataset_options

    rounds, params = booster_params(problem)
    if network:
        params |= {"tree_learner": "data_parallel", "pre_partition": True, **network}
    parts = [shard[index] for index in range(len(shard))]
    matrices: Any = [part.matrix for part in parts]
    weights = [part.weight for part in parts if part.weight is not None]
    data = lightgbm.Dataset(
        # What a model said of them so far it can say of one array only.
        matrices if start is None else np.concatenate(matrices),
        label=np.concatenate([part.target for part in parts]),
        weight=np.concatenate(weights) if weights else None,
        params=params,
        free_raw_data=True,
        **dataset_options(problem),
    )
    done = 0 if start is None else start.current_iteration()
    try:
        booster = lightgbm.train(params, data, rounds - done, init_model=start, callbacks=list(callbacks))
    except lightgbm.basic.LightGBMError as error:
        if any(word in str(error).lower() for word in ("socket", "linker", "connect", "port ")):
            raise WorkerLost(f"LightGBM lost another worker: {error}", hint="Train again.") from error
        raise InvalidField(f"LightGBM refused the parameters: {error}") from error
    if network:
        booster.free_network()
    return booster


def _first(error: Exception) -> str:
    """Return what is said before the stack trace of C++."""
    return str(error).partition("Stack trace")[0].strip()


def booster_bytes(model_type: str, booster: Any) -> bytes:
    """Return a booster as its library writes it."""
    return bytes(booster.save_raw("ubj")) if model_type == "xgboost" else booster.model_to_string().encode()


def booster_from(model_type: str, data: bytes) -> Any:
    """Return the booster of `booster_bytes`."""
    if model_type == "xgboost":
        import xgboost

        return xgboost.Booster(model_file=bytearray(data))
    import lightgbm

    return lightgbm.Booster(model_str=data.decode())
