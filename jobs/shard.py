"""Fit a booster to one worker's shard, together with the other workers; the same for warm workers and for Ray Train.

Who calls it has set up the network: XGBoost's communicator, or LightGBM's parameters. A shard is batches of encoded
rows, in memory or on the worker's disk. numpy, xgboost and lightgbm are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compute.errors import InvalidField, WorkerLost

if TYPE_CHECKING:
    from jobs.families import Matrix, Problem


class Shard(Protocol):
    """Batches of encoded rows with their targets, which can be taken as often as is needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Matrix, Matrix]: ...


class DiskShard:
    """Batches kept in a folder on the worker's disk: of the rows, one batch is in memory at a time."""

    def __init__(self, batches: Iterable[tuple[Matrix, Matrix]], folder: str) -> None:
        import numpy as np

        self.folder = Path(folder)
        self._count = 0
        for matrix, target in batches:
            np.save(self.folder / f"{self._count}-matrix.npy", matrix)
            np.save(self.folder / f"{self._count}-target.npy", target)
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Matrix, Matrix]:
        import numpy as np

        return np.load(self.folder / f"{index}-matrix.npy"), np.load(self.folder / f"{index}-target.npy")


def fit_shard(
    model_type: str,
    shard: Sequence[tuple[Matrix, Matrix]] | DiskShard,
    problem: Problem,
    *,
    start: Any = None,
    network: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Train on the shard, going on from a model if one is given; every worker gets the same booster.

    Parameters
    ----------
    model_type : {"xgboost", "lightgbm"}
        The family.
    shard : sequence of (matrix, target), or DiskShard
        What XGBoost holds of a DiskShard at a time is a batch, and some ten bytes a row; LightGBM takes none.
    problem : Problem
        The same for all workers.
    start : Booster, optional
        Its rounds count as done.
    network : mapping, optional
        LightGBM's ``machines``, ``num_machines`` and ``local_listen_port``.
    callbacks : sequence
        Of the library.
    """
    if model_type == "xgboost":
        return _fit_xgboost(shard, problem, start, callbacks)
    return _fit_lightgbm(shard, problem, start, network or {}, callbacks)


def _fit_xgboost(shard: Shard, problem: Problem, start: Any, callbacks: Sequence[Any]) -> Any:
    import xgboost

    from jobs.family_xgboost import booster_params, matrix_options

    rounds, params = booster_params(problem)
    options = {name: value for name, value in matrix_options(problem).items() if name != "enable_categorical"}
    on_disk = isinstance(shard, DiskShard)

    class Batches(xgboost.DataIter):  # type: ignore[misc,unused-ignore]
        """Gives the batches one by one, so that they are never joined into a second copy."""

        def __init__(self) -> None:
            self.position = 0
            super().__init__(cache_prefix=str(shard.folder / "cache") if isinstance(shard, DiskShard) else None)

        def next(self, input_data: Any) -> bool:
            if self.position == len(shard):
                return False
            matrix, target = shard[self.position]
            input_data(data=matrix, label=target, **options)
            self.position += 1
            return True

        def reset(self) -> None:
            self.position = 0

    make = xgboost.ExtMemQuantileDMatrix if on_disk else xgboost.QuantileDMatrix
    data = make(Batches(), max_bin=params.get("max_bin"), nthread=problem.threads, enable_categorical=True)
    done = 0 if start is None else start.num_boosted_rounds()
    try:
        return xgboost.train(params, data, rounds - done, xgb_model=start, callbacks=list(callbacks))
    except xgboost.core.XGBoostError as error:
        if "collective" in str(error) or "rabit" in str(error) or "socket" in str(error):
            raise WorkerLost(f"XGBoost lost another worker: {_first(error)}", hint="Train again.") from error
        raise InvalidField(f"XGBoost refused the parameters: {_first(error)}") from error


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
    matrices: Any = [matrix for matrix, _ in parts]
    data = lightgbm.Dataset(
        # What a model said of them so far it can say of one array only.
        matrices if start is None else np.concatenate(matrices),
        label=np.concatenate([target for _, target in parts]),
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
