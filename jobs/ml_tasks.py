"""`MLTasks`: training, scoring and measuring with one configuration.

Nothing heavy is imported before a method is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compute import Config, load_config
from jobs.compare import compare_models
from jobs.drift import measure_drift
from jobs.evaluate import evaluate_model
from jobs.importance import feature_importance
from jobs.predict import predict_batch
from jobs.rejects import BadRows
from jobs.train import train_model
from jobs.tune import tune_model

if TYPE_CHECKING:
    import pandas as pd


class MLTasks:
    """Work on tables with one configuration.

    Parameters
    ----------
    config : Config, optional
        By default `load_config`.

    Examples
    --------
    >>> [name for name in dir(MLTasks) if name.endswith("_model")]
    ['evaluate_model', 'train_model', 'tune_model']
    """

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or load_config()

    @property
    def config(self) -> Config:
        """The configuration in use."""
        return self._config

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
        """Train a model, measure it and register it: see `jobs.train_model`, whose options these are."""
        return train_model(
            data,
            target_col,
            features,
            model_type,
            model_params,
            validation_fraction,
            distribute_data,
            **{"config": self._config, **options},
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
        """Find good parameters by trials, and train with the best: see `jobs.tune_model`, whose options these are."""
        return tune_model(
            data, target_col, features, model_type, search_space, trials, **{"config": self._config, **options}
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
    ) -> pd.Series[Any] | pd.DataFrame | dict[str, Any]:
        """Score all rows of a table: see `jobs.predict_batch`."""
        return predict_batch(
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
            config=self._config,
        )

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
        return evaluate_model(
            model_id,
            data,
            target_col,
            batch_size=batch_size,
            drop_null_target=drop_null_target,
            resamples=resamples,
            config=self._config,
        )

    def compare_models(
        self, model_ids: Sequence[str], data: object, target_col: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Tell which differences between models are more than chance: see `jobs.compare_models`."""
        return compare_models(model_ids, data, target_col, **{"config": self._config, **options})

    def measure_drift(self, model_id: str, data: object, *, by: str | None = None, **options: Any) -> dict[str, Any]:
        """Compare rows with those a model was trained on: see `jobs.measure_drift`."""
        return measure_drift(model_id, data, by=by, **{"config": self._config, **options})

    def feature_importance(
        self, model_id: str, data: object, target_col: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Tell what a model's predictions rest on: see `jobs.feature_importance`."""
        return feature_importance(model_id, data, target_col, **{"config": self._config, **options})


def get_ml_tasks(config: Config | None = None) -> MLTasks:
    """Return the tasks for a configuration; by default that of `load_config`."""
    return MLTasks(config)
