"""The types of question, each with the schema of its data and of its parameters.

A new type is a class here and a module that answers it, named in `solver.execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compute.errors import InvalidField
from solver.job_queries import (
    BatchPredictionParameters,
    BatchPredictionQuery,
    TrainingParameters,
    TrainingQuery,
    TuningParameters,
    TuningQuery,
)
from solver.optimization.query import DecisionQuery, OptimizationParameters, OptimizationQuery
from solver.records import Table
from solver.simulation_query import SimulationParameters, SimulationQuery, SweepParameters, SweepQuery
from solver.task_parameters import Strict, TaskParameters

DEFAULT_TARGET = "target"

_Model = TypeVar("_Model", bound=BaseModel)


class PredictionQuery(Strict):
    """What a model says of these entities.

    The model is named (`model_id`, or `model`); or trained first, from `training_data`, or from those entities that
    carry the target, for those that do not; or, when nothing of this is given, it is the newest active model of
    `parameters.model_type`.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"type": "prediction", "model": "delays@champion", "entities": [{"distance": 1400, "carrier": "UA"}]},
                {
                    "type": "prediction",
                    "target": "price",
                    "entities": [{"rooms": 3, "price": 310.0}, {"rooms": 5, "price": 480.0}, {"rooms": 4}],
                },
            ]
        }
    )

    type: Literal["prediction"]
    entities: Table
    model_id: str | None = Field(None, min_length=1, description="The model's id.")
    model: str | None = Field(None, min_length=1, description="`name`, `name@alias` or `name:3`.")
    training_data: Table | None = Field(None, description="Labelled records, or the URI of a table of them.")
    target: str | None = Field(None, min_length=1, description="The column to predict; `target` unless named.")

    @model_validator(mode="after")
    def _one_source(self) -> PredictionQuery:
        if self.entities == [] or self.entities == "":
            raise ValueError("entities: there is nothing to predict; give at least one record, or a URI")
        if self.training_data == []:
            raise ValueError("training_data: there is nothing to learn from; give labelled records, or a URI")
        named = [name for name in ("model_id", "model", "training_data") if getattr(self, name) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} are both given; the model has one source")
        if self.target is not None and named and named != ["training_data"]:
            raise ValueError(f"target is given, but {named[0]} names a model that has its own")
        return self


class PredictionParameters(TaskParameters):
    """How the answer is to be found."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model_type": "xgboost", "distribute_data": True}, {"probabilities": True}]}
    )

    model_type: str | None = Field(
        None,
        description="What to train: xgboost (default), lightgbm, random_forest, gradient_boosting, linear, logistic.",
    )
    distribute_data: bool | None = Field(None, description="Over many workers, or one; left out: the planner chooses.")
    model_params: dict[str, Any] | None = Field(None, description="Parameters of the training library.")
    features: list[str] | None = Field(
        None, min_length=1, description="Columns to learn from; left out: all but the target."
    )
    validation_fraction: float = Field(0.2, ge=0, lt=1, description="Share of the labelled rows held back to measure.")
    name: str | None = Field(None, min_length=1, description="The name under which a trained model is registered.")
    seed: int = Field(0, ge=0, description="Seed of what is random in training.")
    probabilities: bool = Field(False, description="Of a classification, also the probability of each class.")
    coverage: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Also intervals (of a classification: sets of classes) that hold the truth in this share of cases.",
    )
    explain: bool = Field(False, description="Also what each feature contributed; of models of trees that are boosted.")
    output: str | None = Field(
        None, pattern=r"\.parquet$", description="The URI of the Parquet file that the predictions go to."
    )


Query = (
    PredictionQuery
    | TrainingQuery
    | TuningQuery
    | BatchPredictionQuery
    | OptimizationQuery
    | SimulationQuery
    | SweepQuery
    | DecisionQuery
)
Parameters = (
    PredictionParameters
    | TrainingParameters
    | TuningParameters
    | BatchPredictionParameters
    | OptimizationParameters
    | SimulationParameters
    | SweepParameters
)

QUERY_TYPES: Mapping[str, tuple[type[Query], type[Parameters]]] = {
    "prediction": (PredictionQuery, PredictionParameters),
    "training": (TrainingQuery, TrainingParameters),
    "tuning": (TuningQuery, TuningParameters),
    "batch_prediction": (BatchPredictionQuery, BatchPredictionParameters),
    "optimization": (OptimizationQuery, OptimizationParameters),
    "simulation": (SimulationQuery, SimulationParameters),
    "sweep": (SweepQuery, SweepParameters),
    "decision": (DecisionQuery, OptimizationParameters),
}


class SolveRequest(Strict):
    """The body of `POST /solver/solve` and `/solver/solve-sync`."""

    query_data: Annotated[Query, Field(discriminator="type")]
    parameters: Parameters | None = Field(None, description="Of the same type as the question.")


def parse(query_data: object, parameters: object = None) -> tuple[Query, Parameters]:
    """Check a question against the schema of its type.

    Parameters
    ----------
    query_data : mapping
        With ``type``, and what that type asks for.
    parameters : mapping, optional
        How to answer it.

    Returns
    -------
    tuple of (Query, Parameters)
        Of the type's own classes.

    Raises
    ------
    InvalidField
        Naming the field, what is wrong with it, and for an unknown type the types there are.

    Examples
    --------
    >>> query, parameters = parse({"type": "prediction", "entities": [{"x": 1}]}, {"model_type": "xgboost"})
    >>> query.entities, parameters.model_type
    ([{'x': 1}], 'xgboost')
    >>> parse({"type": "sorcery"})
    Traceback (most recent call last):
    ...
    compute.errors.InvalidField: query_data.type is 'sorcery', which is no type of query. The types are: prediction, ...
    """
    if not isinstance(query_data, Mapping):
        raise InvalidField(
            f"query_data is a {type(query_data).__name__}, not an object",
            hint='It looks like {"type": "prediction", "entities": [...]}.',
            context={"field": "query_data"},
        )
    kind = query_data.get("type")
    if not isinstance(kind, str) or kind not in QUERY_TYPES:
        raise InvalidField(
            f"query_data.type is {str(kind)[:100]!r}, which is no type of query"
            if kind
            else "query_data.type is missing",
            hint=f"The types are: {', '.join(QUERY_TYPES)}.",
            context={"field": "query_data.type", "types": list(QUERY_TYPES)},
        )
    query_class, parameters_class = QUERY_TYPES[kind]
    return (
        _validate(query_class, "query_data", query_data),
        _validate(parameters_class, "parameters", {} if parameters is None else parameters),
    )


def replace_uris(query: Query, parameters: Parameters, check: Callable[[str], str]) -> tuple[Query, Parameters]:
    """Pass every URI that the question names through `check`, and take what it returns instead.

    Examples
    --------
    >>> query, parameters = parse({"type": "prediction", "entities": "a.csv", "model": "m"})
    >>> replace_uris(query, parameters, lambda uri: "file:///data/" + uri)[0].entities
    'file:///data/a.csv'
    """
    uris = {
        field: check(value)
        for field in ("entities", "training_data", "data", "uri")
        if isinstance(value := getattr(query, field, None), str)
    }
    output = getattr(parameters, "output", None)
    outputs = {} if output is None else {"output": check(output)}
    return query.model_copy(update=uris), parameters.model_copy(update=outputs)


def _validate(kind: type[_Model], field: str, value: object) -> _Model:
    try:
        # JSON has one form of each key: str; a copy, because values are brought to JSON's form in place.
        return kind.model_validate(_copied(value))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        first = ".".join([field, *(str(part) for part in problems[0]["loc"])])
        text = "; ".join(
            f"{'.'.join([field, *(str(part) for part in item['loc'])])}: {item['msg'].removeprefix('Value error, ')}"
            for item in problems[:10]
        )
        raise InvalidField(text, context={"field": first, "problems": len(problems)}) from None


def _copied(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return {
        key: [dict(row) if isinstance(row, Mapping) else row for row in item] if isinstance(item, list) else item
        for key, item in value.items()
    }
