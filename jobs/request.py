"""What a training is asked for, its columns checked before any data are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compute.errors import ColumnInvalid, InvalidField
from jobs.columns import choose_features, require_columns
from jobs.continuing import Parent
from jobs.families import Family, Problem
from jobs.split import check_rows
from jobs.tables import Table
from jobs.targets import Target
from jobs.validation import Validation

if TYPE_CHECKING:
    from registry import Signature


@dataclass(frozen=True)
class Request:
    """What was asked for, checked as far as it can be without reading the data."""

    table: Table
    target: str
    features: tuple[str, ...]
    family: Family
    params: Mapping[str, Any]
    fraction: float
    task: str | None
    seed: int
    drop_null_target: bool
    chosen: bool  # the features were named by the caller
    how: Validation
    weight: str | None = None
    class_weight: str | Mapping[Any, float] | None = None
    monotone: Mapping[str, int] = field(default_factory=dict)
    patience: int | None = None
    every: int | None = None
    parent: Parent | None = None

    @property
    def columns(self) -> list[str]:
        """All columns that are read, each once."""
        others = [name for name in (self.how.column, self.weight) if name is not None]
        return list(dict.fromkeys([*self.features, self.target, *others]))


def make_request(
    table: Table, target: str, features: Sequence[str] | None, exclude: Sequence[str] | None, **rest: Any
) -> Request:
    """Return what is asked of a table, its columns checked; the rest are fields of `Request`."""
    how = rest.setdefault("how", Validation(None, rest["fraction"], rest["seed"]))
    weight, parent = rest.get("weight"), rest.get("parent")
    for name, role in ((how.column, how.kind), (weight, "weight")):
        if name is not None:
            require_columns([name], table.columns, table.source, str(role))
    if parent is not None:
        require_columns(parent.signature.feature_names, table.columns, table.source, "feature of the model's")
        features = parent.signature.feature_names
    named = features is not None
    # They say how rows are used; who wants to learn from groups or times as well, names them.
    beside = [name for name in (weight, None if named else how.column) if name is not None and name != target]
    chosen = choose_features(table.columns, target, features, [*(exclude or ()), *beside], table.source)
    if parent is not None and len(chosen) < len(features or ()):
        missing = next(name for name in features or () if name not in chosen)
        raise ColumnInvalid(
            f"{parent.model_id} was trained on {missing!r}, which is left out here",
            hint="Go on with the same features.",
            context={"feature": missing},
        )
    require_columns(rest.get("monotone", ()), chosen, "the list of features", "monotone")
    if table.rows is not None:
        check_rows(table.rows, table.source)
    return Request(table=table, target=target, features=chosen, chosen=named, **rest)


def problem_of(signature: Signature, target: Target, request: Request, threads: int) -> Problem:
    """Return what a family must know to fit."""
    wanted = request.monotone
    if wanted and target.task == "multiclass":
        raise InvalidField(
            "monotone_constraints say whether one number may rise or fall, and a multiclass model gives many",
            hint="Leave them out, or train a model for each class.",
            context={"field": "monotone_constraints"},
        )
    for column in signature.columns:
        if wanted.get(column.name) and column.categories is not None:
            raise ColumnInvalid(
                f"predictions cannot rise or fall with {column.name!r}, whose values are categories without an order",
                hint="Leave it out of monotone_constraints, or make it a number.",
                context={"feature": column.name},
            )
    return Problem(
        target=target,
        columns=tuple(column.name for column in signature.columns),
        categories=tuple(len(column.categories or ()) for column in signature.columns),
        params=request.params,
        seed=request.seed,
        threads=threads,
        monotone=tuple(wanted.get(column.name, 0) for column in signature.columns) if wanted else (),
    )
