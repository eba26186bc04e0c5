"""Answers queries of the type `optimization`: reads the program, has it solved, and puts the answer into words."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from compute import Config
from compute.errors import DataNotFound, InvalidField, KeyNotFound
from registry import TaskContext, open_store
from solver.optimization.engine import Options
from solver.optimization.files import read_file
from solver.optimization.model import Model
from solver.optimization.program import Floats
from solver.optimization.query import OptimizationParameters, OptimizationQuery, WarmStart
from solver.optimization.sources import read_source
from solver.optimization.telling import Telling
from solver.optimization.words import as_answer, names_of, placed


def prepare(query: OptimizationQuery, parameters: OptimizationParameters, config: Config) -> OptimizationQuery:
    """Check the program before the question is accepted.

    Raises
    ------
    InvalidField
        Naming what is wrong with the program, and where.
    DataNotFound
        When there is no file at the URI.
    """
    hinted(read(query, config), parameters)
    return query


def needs(parameters: OptimizationParameters) -> dict[str, float]:
    """Return what a task takes of the cluster."""
    return {"cpu": float(parameters.threads or 1)}


def answer(query: OptimizationQuery, parameters: OptimizationParameters, context: TaskContext) -> dict[str, Any]:
    """Solve the program, and say what was found."""
    return answer_program(read(query, context.config), parameters, context)


def answer_program(program: Model, parameters: OptimizationParameters, context: TaskContext) -> dict[str, Any]:
    """Solve a program that was read, and say what was found."""
    options = Options(
        time_limit=parameters.time_limit,
        relative_gap=parameters.relative_gap,
        threads=parameters.threads or 1,
        seed=parameters.seed,
        hint=hinted(program, parameters),
        solutions=parameters.solutions,
    )
    told: dict[str, Any] = {"program": {"name": program.name, **program.statistics(), "notes": list(program.notes)}}
    if parameters.validation_only:
        return {"termination": None, **told}
    solution = Telling(context, program, options).solve(parameters)
    return {**as_answer(program, solution), **told, "seed": parameters.seed}


def read(query: OptimizationQuery, config: Config) -> Model:
    """Return the program that a question gives."""
    if query.uri is not None:
        return _read_uri(query.uri, config)
    return read_source({name: getattr(query, name) for name in ("expressions", "constraints", "model")})


def hinted(program: Model, parameters: OptimizationParameters) -> Floats | None:
    """Return the hint by the number of each variable; NaN where there is none."""
    earlier = (parameters.warm_start.values if parameters.warm_start is not None else None) or {}
    if not parameters.hint and not earlier:
        return None
    hint = parameters.hint or {}
    unknown = hint.keys() - set(names_of(program)[0])
    if unknown:
        raise InvalidField(
            f"parameters.hint names the variable {min(unknown)[:100]!r}, which the program does not have",
            context={"field": "parameters.hint"},
        )
    return placed(program, {**earlier, **hint})


def warmed(parameters: OptimizationParameters, answer_of: Callable[[str], Mapping[str, Any]]) -> OptimizationParameters:
    """Fill in the answer of the task to begin with, so that the question does not depend on that task any more.

    Raises
    ------
    InvalidField
        When it has found no values of variables.
    """
    if parameters.warm_start is None:
        return parameters
    task = parameters.warm_start.task
    values = answer_of(task).get("variable_values")
    if not values:
        raise InvalidField(
            f"the task {task} has no values of variables to begin with",
            hint="Name an optimization or a decision that has found a plan.",
            context={"field": "parameters.warm_start.task"},
        )
    return parameters.model_copy(update={"warm_start": WarmStart(task=task, values=values)})


def _read_uri(uri: str, config: Config) -> Model:
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        path = Path(unquote(parts.path) if parts.scheme else uri)
        if not path.is_file():
            raise DataNotFound(f"there is no file {uri}", context={"uri": uri})
        return read_file(path)
    folder, _, name = uri.rpartition("/")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        try:
            open_store(folder, config).download(name, path)
        except KeyNotFound as error:
            raise DataNotFound(f"there is no file {uri}", context={"uri": uri}) from error
        return read_file(path)
