"""Signatures as MLflow writes them, and as we do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compute.errors import UnsupportedFormat
from registry.signature import Column, DType, Label, Signature
from registry.trial import Trial

_TYPES: dict[str, DType] = {
    "boolean": "bool", "integer": "int", "long": "int", "float": "float", "double": "float", "string": "category",
    "datetime": "datetime",
}  # fmt: skip
_TENSORS: dict[str, DType] = {"b": "bool", "i": "int", "u": "int", "f": "float", "s": "category", "o": "category"}
_CATEGORIES = b"\npandas_categorical:"
_TAIL = 2**22


@dataclass(frozen=True)
class Schema:
    """The inputs of an MLflow model, and what else is known about them."""

    columns: tuple[Column, ...]
    """Empty when it names none."""
    boosted: bool
    categories: tuple[tuple[str, ...], ...] = ()
    """Of the text columns of a booster, in their order."""
    classes: tuple[Label, ...] | None = None
    own: Signature | None = None
    """What an export of ours says, which is all there is to say."""

    @classmethod
    def read(
        cls, inputs: object, flavour: str, path: Path, classes: tuple[Label, ...] | None, own: Signature | None
    ) -> Schema:
        """Read the JSON text that ``MLmodel`` holds; None for none.

        Raises
        ------
        UnsupportedFormat
            When it has types that no column of ours has.
        """
        try:
            items = json.loads(inputs) if isinstance(inputs, str) else []
            columns = tuple(_column(item) for item in items) if all("name" in item for item in items) else ()
        except (ValueError, TypeError, LookupError, RecursionError, AttributeError) as error:
            raise UnsupportedFormat(f"the signature of the MLflow model cannot be read: {error!r:.200}") from error
        categories = _categories(path) if flavour == "lightgbm" else ()
        return cls(columns, flavour in ("xgboost", "lightgbm"), categories, classes, own)

    def signature(self, trial: Trial) -> Signature | None:
        """Return the signature of the model, whose features are in the order that it knows them by.

        Raises
        ------
        UnsupportedFormat
            When a booster takes texts and nothing says as what numbers.
        """
        if self.own is not None:
            return self.own
        known = trial.signature.feature_names if trial.signature is not None else ()
        columns = self.columns
        if not columns:
            return self._with_classes(trial.signature)
        if set(known) == {column.name for column in columns}:
            by_name = {column.name: column for column in columns}
            columns = tuple(by_name[name] for name in known)
        if self.boosted and (texts := [column for column in columns if column.dtype == "category"]):
            if len(texts) != len(self.categories):
                raise UnsupportedFormat(
                    f"the MLflow model takes the text {texts[0].name!r:.100}, and does not say as what number",
                    hint="Give signature=, with the categories of each text in the order of their codes.",
                )
            coded = {column.name: categories for column, categories in zip(texts, self.categories, strict=True)}
            columns = tuple(
                column.model_copy(update={"categories": coded[column.name]}) if column.name in coded else column
                for column in columns
            )
        return self._with_classes(Signature(columns=columns, task=trial.task, classes=trial.classes))

    def _with_classes(self, signature: Signature | None) -> Signature | None:
        if signature is None or not self.classes or len(self.classes) != len(signature.classes or ()):
            return signature
        return signature.model_copy(update={"classes": self.classes})


def _column(item: dict[str, Any]) -> Column:
    """Return a column of ours; one that has to be there may still be NaN, if it is a float."""
    kind = str(item["type"])
    if kind == "tensor":
        described = str(item["tensor-spec"]["dtype"])
        dtype = _TENSORS.get(described[:1])
        if len(item["tensor-spec"]["shape"]) > 2:
            dtype = None
    else:
        dtype, described = _TYPES.get(kind), kind
    if dtype is None:
        raise UnsupportedFormat(
            f"the MLflow model takes {described!r:.50} as {item['name']!r:.100}",
            hint="Features are numbers, booleans, texts and times.",
        )
    nullable = not item.get("required", True) or dtype == "float"
    return Column(
        name=str(item["name"]), dtype=dtype, nullable=nullable, categories=() if dtype == "category" else None
    )


def _categories(path: Path) -> tuple[tuple[str, ...], ...]:
    """Return the categories of the columns that pandas called categories, from the last line of a LightGBM model."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        tail = file.read()
    _, found, line = tail.rpartition(_CATEGORIES)
    try:
        lists = json.loads(line) if found else None
        return tuple(tuple(str(value) for value in values) for values in lists or ())
    except (ValueError, TypeError, RecursionError) as error:
        raise UnsupportedFormat(f"the categories of the LightGBM model cannot be read: {error!r:.200}") from error
