"""Questions whose work is that of `jobs`: training, tuning and the prediction of tables."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from solver.records import Table
from solver.task_parameters import Strict, TaskParameters

_ROWS: Any = [{"distance": 100 * n, "night": n % 3 == 0, "delay": n + (0 if n % 3 else 2.0)} for n in range(1, 13)]


class _Learning(Strict):
    """What training and tuning are given."""

    data: Table = Field(description="Labelled records, or the URI of a CSV or Parquet table.")
    target: str = Field(min_length=1, description="The column to predict.")
    features: list[str] | None = Field(None, min_length=1, description="Columns to learn from; left out: all others.")
    exclude: list[str] | None = Field(None, description="Columns not to learn from.")

    @model_validator(mode="after")
    def _some(self) -> _Learning:
        if self.data in ([], ""):
            raise ValueError("data: there is nothing to learn from; give labelled records, or a URI")
        return self


class TrainingQuery(_Learning):
    """Train a model, measure it on rows it has not seen, and register it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "training", "data": _ROWS, "target": "delay"}]})

    type: Literal["training"]


class TuningQuery(_Learning):
    """Find good parameters by trials, train a model with them, and register it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"type": "tuning", "data": _ROWS, "target": "delay"}]})

    type: Literal["tuning"]


class BatchPredictionQuery(Strict):
    """Predict all rows of a table into a Parquet file."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "batch_prediction",
                    "model": "delays@champion",
                    "data": [{"distance": 1400, "carrier": "UA", "night": False}],
                }
            ]
        }
    )

    type: Literal["batch_prediction"]
    model: str = Field(min_length=1, description="A model id, `name`, `name@alias` or `name:3`.")
    data: Table = Field(description="Records, or the URI of a CSV or Parquet table.")
    key_columns: list[str] | None = Field(None, description="Columns to carry along, to tell the rows apart.")

    @model_validator(mode="after")
    def _some(self) -> BatchPredictionQuery:
        if self.data in ([], ""):
            raise ValueError("data: there is nothing to predict; give records, or a URI")
        return self


class _LearningParameters(TaskParameters):
    model_type: str = Field(
        "xgboost", description="xgboost, lightgbm, random_forest, gradient_boosting, linear, logistic."
    )
    model_params: dict[str, Any] | None = Field(None, description="Parameters of the training library.")
    task: Literal["regression", "classification", "binary", "multiclass"] | None = Field(
        None, description="Left out: found from the target."
    )
    validation_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the rows held back to measure.")
    validation: Literal["random", "stratified", "group", "time"] | None = Field(
        None, description="Which rows are held back; left out: class by class where there are classes, else at random."
    )
    group_col: str | None = Field(None, min_length=1, description="Hold back whole groups: none is on both sides.")
    time_col: str | None = Field(None, min_length=1, description="Hold back the latest rows.")
    weight_col: str | None = Field(None, min_length=1, description="How much each row counts.")
    class_weight: Literal["balanced"] | dict[str, float] | None = Field(
        None, description="How much the rows of each class count: all classes alike, or a number for a class."
    )
    monotone_constraints: dict[str, Literal[-1, 0, 1]] | None = Field(
        None, description="For a feature 1 where predictions may only rise with it, -1 where they may only fall."
    )
    drop_null_target: bool = Field(False, description="Leave out rows without a target, instead of refusing them.")
    name: str | None = Field(None, min_length=1, description="The name under which the model is registered.")
    tags: list[str] | None = Field(None, description="For finding the model again.")
    metadata: dict[str, Any] | None = Field(None, description="Whatever else is to be kept with the model.")
    seed: int = Field(0, ge=0, description="Seed of what is random.")


class TrainingParameters(_LearningParameters):
    """How a model is to be trained."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model_type": "linear", "name": "delays"}]})

    distribute_data: bool | None = Field(None, description="Over many workers, or one; left out: the planner chooses.")
    cross_validation: int | None = Field(None, ge=2, le=100, description="Measure by so many folds.")
    early_stopping: int | None = Field(
        None, ge=1, description="Rounds without gain after which boosters stop; they keep the best."
    )


class TuningParameters(_LearningParameters):
    """How parameters are to be searched."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model_type": "linear", "trials": 3, "search_space": {"alpha": [0.1, 1.0, 10.0]}}]
        }
    )

    search_space: dict[str, Any] | None = Field(
        None, description='For each parameter a list, or {"low", "high", "log"}; left out: what matters most.'
    )
    trials: int = Field(32, ge=1, le=10_000)
    metric: str | None = Field(
        None, description="rmse, mae, r2; log_loss, accuracy, precision, recall, f1, roc_auc, average_precision."
    )
    folds: int | None = Field(None, ge=2, le=100, description="Measure by cross-validation.")
    time_limit: float | None = Field(None, gt=0, description="Seconds after which no trial begins.")


class BatchPredictionParameters(TaskParameters):
    """How a table is to be predicted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"probabilities": True}]})

    output: str | None = Field(None, pattern=r"\.parquet$", description="The URI of the file; left out: one is made.")
    distribute_data: bool | None = Field(None, description="Over many workers, or one; left out: the planner chooses.")
    batch_size: int = Field(10_000, ge=1, le=10_000_000, description="Rows at a time.")
    probabilities: bool = Field(False, description="Of a classification, also the probability of each class.")
