"""`MLTasks` for Dask DataFrames: they are trained on and scored where their partitions are.

Ray, Dask and the rest are imported inside the methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jobs
from compute import ComputeManager, Config
from compute.errors import InvalidField
from dask_bridge.backend import DaskBackend
from dask_bridge.face import get_compute_manager
from jobs import BadRows, DaskTable, evaluate_lazily, find_family, predict_lazily

if TYPE_CHECKING:
    import pandas as pd


class MLTasks(jobs.MLTasks):
    """As `jobs.MLTasks`; Dask DataFrames are data, too, and everything else goes the way it goes there.

    Parameters
    ----------
    config : Config, optional
        By default `load_config`. With ``compute.dask_address``, frames are computed by that Dask cluster, and trained
        on there by `xgboost.dask` and `lightgbm.dask`; else by Ray, and trained on by Ray Train.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._manager: ComputeManager | None = None

    def train_model(
        self,
        data: object,
        target_col: str,
        features: Sequence[str] | None = None,
        model_type: str = "xgboost",
        model_params: Mapping[str, Any] | None = None,
        validation_fraction: float = 0.2,
        distribute_data: bool | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Train a model, measure it and register it: see `jobs.train_model`, whose options these are.

        XGBoost and LightGBM train over the cluster on a Dask DataFrame unless ``distribute_data`` is False; other
        model types, which train on one node, have it brought here if it fits.
        """
        if _is_dask_frame(data):
            data = self._table(data)
            if distribute_data is None and find_family(model_type).distributes and options.get("engine") is None:
                distribute_data = True
        return super().train_model(
            data,
            target_col,
            features,
            model_type,
            model_params,
            validation_fraction,
            distribute_data,
            **options,
        )

    def tune_model(
        self,
        data: object,
        target_col: str,
        features: Sequence[str] | None = None,
        model_type: str = "xgboost",
        search_space: Mapping[str, Any] | None = None,
        trials: int = 32,
        **options: Any,
    ) -> dict[str, Any]:
        """Find good parameters by trials, which run here: see `jobs.tune_model`.

        Rows of a Dask DataFrame are brought to this process, if they fit, and sent from there once.
        """
        manager = options.pop("manager", None) or self._open()
        if _is_dask_frame(data):
            data = self._table(data)
        return super().tune_model(
            data, target_col, features, model_type, search_space, trials, manager=manager, **options
        )

    def predict_batch(
        self,
        model_id: str,
        data: object,
        batch_size: int = 10000,
        distributed: bool | None = None,
        *,
        output: str | None = None,
        key_columns: Sequence[str] | None = None,
        proba: bool = False,
        bad_rows: BadRows = "raise",
        overwrite: bool = False,
        rows_per_part: int | None = None,
    ) -> Any:
        """Score all rows of a table: see `jobs.predict_batch`.

        Of a Dask DataFrame the predictions are a Dask Series or DataFrame of the same partitions: nothing is scored
        before that is computed or written.
        """
        if not _is_dask_frame(data):
            scored: pd.Series[Any] | pd.DataFrame | dict[str, Any] = super().predict_batch(
                model_id,
                data,
                batch_size,
                distributed,
                output=output,
                key_columns=key_columns,
                proba=proba,
                bad_rows=bad_rows,
                overwrite=overwrite,
                rows_per_part=rows_per_part,
            )
            return scored
        if output is not None or bad_rows == "divert" or overwrite or rows_per_part:
            raise InvalidField(
                "output and what goes with it do not apply to a Dask DataFrame, whose predictions are lazy",
                hint="Leave them out, and use to_frame().to_parquet(DIRECTORY) of what is returned.",
            )
        self._open()
        return predict_lazily(model_id, data, batch_size, key_columns=key_columns, proba=proba, config=self.config)

    def evaluate_model(
        self,
        model_id: str,
        data: object,
        target_col: str | None = None,
        *,
        batch_size: int = 10000,
        drop_null_target: bool = False,
        resamples: int = 1000,
    ) -> dict[str, Any]:
        """Measure a model on rows whose target is known: see `jobs.evaluate_model`."""
        if not _is_dask_frame(data):
            return super().evaluate_model(
                model_id,
                data,
                target_col,
                batch_size=batch_size,
                drop_null_target=drop_null_target,
                resamples=resamples,
            )
        return evaluate_lazily(
            model_id,
            data,
            self._compute,
            target_col,
            batch_size=batch_size,
            drop_null_target=drop_null_target,
            resamples=resamples,
            config=self.config,
        )

    def _open(self) -> ComputeManager:
        """Connect when a Dask DataFrame comes: until then nothing here needs a cluster."""
        if self._manager is None or self._manager.closed:
            self._manager = get_compute_manager(config=self.config)
        return self._manager

    def _table(self, frame: Any) -> object:
        backend = self._open().backend
        if isinstance(backend, DaskBackend):
            return DaskTable(frame, backend.client)
        import ray.data

        # Its partitions are computed into the object store, from where the training workers read them.
        return ray.data.from_dask(frame)

    def _compute(self, parts: list[Any]) -> Sequence[Any]:
        backend = self._open().backend
        if isinstance(backend, DaskBackend):
            found: Sequence[Any] = backend.client.gather(backend.client.compute(parts))
            return found
        from dask import base

        module: Any = base
        computed: Sequence[Any] = module.compute(*parts)
        return computed


def get_ml_tasks(config: Config | None = None) -> MLTasks:
    """Return the tasks for a configuration; by default that of `load_config`."""
    return MLTasks(config)


def _is_dask_frame(data: object) -> bool:
    return hasattr(data, "__dask_graph__") and hasattr(data, "npartitions") and hasattr(data, "columns")
