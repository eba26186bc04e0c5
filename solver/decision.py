"""Answers queries of the type `decision`: the arrays of a program are what registered models predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compute import Config
from compute.errors import InvalidField
from registry import TaskContext, get_model_registry
from solver.optimization.answer import answer_program, hinted
from solver.optimization.answer import needs as needs
from solver.optimization.arrays import read_arrays
from solver.optimization.engine import Options
from solver.optimization.program import Program
from solver.optimization.query import DecisionQuery, OptimizationParameters
from solver.optimization.solve import solve_program
from solver.optimization.telling import Telling
from solver.optimization.words import as_answer, names_of
from solver.prediction import INLINE_ROWS, predict_rows
from solver.stochastic import compare, extensive, later_variables
from solver.stochastic_query import Uncertainty
from solver.uncertainty import DRAWS

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
    resolved, predictions = _resolved(pinned, config)
    program = read_arrays(resolved)
    if query.uncertainty is None:
        hinted(program, parameters)
        return pinned
    later_variables(program, query.uncertainty.later)
    _scenarios(pinned, predictions, query.uncertainty.model_copy(update={"scenarios": 2}), config)
    return pinned


def answer(query: DecisionQuery, parameters: OptimizationParameters, context: TaskContext) -> dict[str, Any]:
    """Predict, solve, and say by which versions of which models."""
    model, predictions = _resolved(query, context.config)
    program = read_arrays(model)
    if query.uncertainty is None:
        return {**answer_program(program, parameters, context), "predictions": predictions}
    return {**_under_scenarios(query, program, predictions, parameters, context), "predictions": predictions}


def _under_scenarios(
    query: DecisionQuery,
    point: Program,
    predictions: list[dict[str, Any]],
    parameters: OptimizationParameters,
    context: TaskContext,
) -> dict[str, Any]:
    """Find the plan that is best over scenarios, and compare it with the one from point predictions."""
    assert query.uncertainty is not None, "else there are none"
    uncertainty = query.uncertainty
    programs = _scenarios(query, predictions, uncertainty, context.config)
    later = later_variables(point, uncertainty.later)
    whole = extensive(programs, later, uncertainty)
    context.progress(0.0, f"{uncertainty.scenarios} scenarios: {whole.size[1]:,} variables")
    options = Options(parameters.time_limit, parameters.relative_gap, parameters.threads or 1, parameters.seed)
    now = names_of(whole)[0][: int((~later).sum())]
    given = {name: value for name, value in (parameters.hint or {}).items() if name in now}
    begin = options._replace(hint=hinted(whole, parameters.model_copy(update={"hint": given})))
    found = Telling(context, whole, begin, names=now, share=0.5).solve(parameters)
    context.progress(0.5, "comparing with the plan from point predictions")
    answer = as_answer(whole, found)
    values = answer["variable_values"]
    return {
        **answer,
        "variable_values": None if values is None else {name: values.get(name, 0.0) for name in now},
        "program": {"name": whole.name, **whole.statistics(), "notes": list(whole.notes)},
        "uncertainty": uncertainty.model_dump(),
        "comparison": compare(
            whole, found, point, programs, later, uncertainty, lambda one: solve_program(one, options, here=True)
        ),
        "seed": parameters.seed,
    }


def _scenarios(
    query: DecisionQuery, predictions: list[dict[str, Any]], uncertainty: Uncertainty, config: Config
) -> list[Program]:
    """Return the program of each scenario: the predictions with errors that the models made on held-out rows."""
    registry, drawn = get_model_registry(config), {}
    for number, told in enumerate(predictions):
        random = np.random.default_rng(np.random.SeedSequence(uncertainty.seed, spawn_key=(number,)))
        values, record = np.array(told["values"]), registry.get_model(told["model_id"])
        classes = record.signature is not None and record.signature.classes is not None
        drawn[told["field"]] = (
            (random.random((uncertainty.scenarios, len(values))) < values).astype(np.float64)  # it happens, or not
            if classes
            else DRAWS[uncertainty.method](record, values, uncertainty.scenarios, random)
        )

    def scenario(number: int) -> Program:
        return read_arrays(_replaced(query.model, lambda path, wanted: drawn[path][number].tolist()))  # noqa: ARG005

    return [scenario(number) for number in range(uncertainty.scenarios)]


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
