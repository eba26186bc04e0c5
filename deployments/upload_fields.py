"""The text fields of an upload, as arguments of `ModelRegistry.register_file`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from compute.errors import InvalidField
from deployments.rows import read_json
from registry import Signature

FIELDS = {
    "model_type": "What you call its kind: xgboost, random_forest, ...",
    "name": "By default the model type.",
    "tags": "Joined by commas.",
    "metadata": "A JSON object.",
    "metrics": "A JSON object of numbers.",
    "lineage": "A JSON object: where it came from.",
    "signature": "A JSON object, as in a model's record.",
}
_OBJECTS = ("metadata", "metrics", "lineage", "signature")


def read_fields(given: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the arguments; a field that is not known is a mistake in its name, and refused.

    Examples
    --------
    >>> fields = read_fields({"model_type": ["xgboost"], "tags": ["a,b"], "metrics": ['{"rmse": 2}']})
    >>> fields["model_type"], fields["tags"], fields["metrics"], fields["name"]
    ('xgboost', ['a', 'b'], {'rmse': 2}, None)
    """
    _refuse_unknown(given)
    values: dict[str, Any] = {key: _single(key, given.get(key, ())) for key in FIELDS if key != "tags"}
    for key in _OBJECTS:
        if values[key] is not None:
            values[key] = _object(key, values[key])
    tags = [tag.strip() for text in given.get("tags", ()) for tag in text.split(",") if tag.strip()]
    return json_fields({**values, "tags": tags or None})


def json_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments from fields that came as JSON; what they may be, the registry says."""
    _refuse_unknown(given)
    values = {key: given.get(key) for key in FIELDS}
    if not values["model_type"]:
        raise InvalidField("the field 'model_type' is missing", context={"field": "model_type"})
    if values["signature"] is not None:
        values["signature"] = _signature(values["signature"])
    return values


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    if unknown := sorted(given.keys() - FIELDS.keys()):
        raise InvalidField(
            f"no field {unknown[0][:80]!r}",
            hint=f"Fields are {', '.join(FIELDS)}; and file in a form.",
            context={"field": unknown[0][:80]},
        )


def _single(key: str, values: Sequence[str]) -> str | None:
    if len(values) > 1:
        raise InvalidField(f"the field {key!r} is there more than once", context={"field": key})
    return values[0] if values else None


def _object(key: str, text: str) -> dict[str, Any]:
    value = read_json(text.encode(), f"the field {key!r}", key)
    if not isinstance(value, dict):
        raise InvalidField(f"the field {key!r} is not a JSON object", context={"field": key})
    return value


def _signature(value: object) -> Signature:
    try:
        return Signature.model_validate_json(json.dumps(value))
    except ValueError as error:
        raise InvalidField(f"the signature is not valid: {error}", context={"field": "signature"}) from None
