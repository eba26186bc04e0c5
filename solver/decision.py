"""Answers queries of the type `decision`: the arrays of a program are what registered models predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compute import Config
from compute.errors import InvalidField
from registry import TaskContext, get_model_registry
from solver.optimization.answer import answer_program, hinted
from solver.optimization.answer import needs as needs
from solver.optimization.arrays import read_arrays
from solver.optimization.query import DecisionQuery, OptimizationParameters
from solver.prediction import INLINE_ROWS, predict_rows

MARK = "$predict"

Replace = Callable[[str, "Wanted"], Any]


class Wanted(BaseModel):
    """What stands under ``$predict``."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = Field(min_length=1)
    rows: list[dict[str, Any]] = Field(min_length=1, max_length=INLINE_ROWS)
    probability_of: str | int | float | bool | None = None


def prepare(query: DecisionQuery, parameters: OptimizationParameters, config: Config) -> DecisionQuery:
    """Pin the models, predict, and check the program that results, before the question is accepted.

    Raises
    ------
    InvalidField, ModelNotFound, DataError
        What is wrong with the program, the reference to a model, or a row.
    """
    registry = get_model_registry(config)

    def pin(path: str, wanted: Wanted) -> dict[str, Any]:  # noqa: ARG001
        return {MARK: wanted.model_copy(update={"model": registry.resolve(wanted.model).model_id}).model_dump()}

    pinned = query.model_copy(update={"model": _replaced(query.model, pin)})
    resolved, _ = _resolved(pinned, config)
    hinted(read_arrays(resolved), parameters)
    return pinned


def answer(query: DecisionQuery, parameters: OptimizationParameters, context: TaskContext) -> dict[str, Any]:
    """Predict, solve, and say by which versions of which models."""
    model, predictions = _resolved(query, context.config)
    return {**answer_program(read_arrays(model), parameters, context), "predictions": predictions}


def _resolved(query: DecisionQuery, config: Config) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the model with numbers where predictions stood, and what each of them came from."""
    registry, told = get_model_registry(config), []

    def predict(path: str, wanted: Wanted) -> list[float]:
        record = registry.resolve(wanted.model)
        try:
            values: list[float] = predict_rows(record, wanted.rows, config, wanted.probability_of).tolist()
        except InvalidField as error:
            raise InvalidField(f"{path}: {error.detail}", error.hint, {**error.context, "field": path}) from error
        told.append(
            {
                "field": path,
                "model_id": record.model_id,
                "model": record.name,
                "version": record.version,
                "digest": record.artifact.digest,
                "rows": len(wanted.rows),
                "values": values,
            }
        )
        return values

    return _replaced(query.model, predict), told


def _replaced(model: Mapping[str, Any], replace: Replace, path: str = "model") -> dict[str, Any]:
    """Return a copy in which every ``$predict`` is replaced."""
    return {key: _value(value, replace, f"{path}.{key}") for key, value in model.items()}


def _value(value: Any, replace: Replace, path: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    if MARK not in value:
        return _replaced(value, replace, path)
    if set(value) != {MARK}:
        raise InvalidField(f"{path} has more than {MARK}", context={"field": path})
    try:
        wanted = Wanted.model_validate(value[MARK])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([path, MARK, *(str(part) for part in first["loc"])])
        raise InvalidField(
            f"{where}: {first['msg']}",
            hint='It looks like {"$predict": {"model": "demand@champion", "rows": [{...}, ...]}}.',
            context={"field": where},
        ) from None
    return replace(path, wanted)
