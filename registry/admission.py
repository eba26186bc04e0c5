"""What is looked at before a model is kept: its fields, its signature, and whether they go together with the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from compute.errors import ComputeError, InvalidField, UnsupportedFormat
from registry.derive import derive_signature, derive_task
from registry.limits import check_json, check_metrics, check_name, check_tags
from registry.loaded import LoadedModel
from registry.models import Draft, checked_key
from registry.records import ModelRecord
from registry.signature import Signature, capture_signature
from registry.trial import Trial

if TYPE_CHECKING:
    import pandas as pd


def check_fields(
    model_type: str,
    metadata: Mapping[str, Any] | None,
    tags: Iterable[str] | None,
    name: str | None,
    metrics: Mapping[str, Any] | None,
    lineage: Mapping[str, Any] | None,
    idempotency_key: str | None,
) -> dict[str, Any]:
    """Return the fields of a draft that the caller gives, or say which is not allowed and why."""
    return {
        "model_type": check_name(model_type, "model_type"),
        "name": check_name(model_type if name is None else name),
        "metadata": check_json(metadata if metadata is not None else {}, "metadata"),
        "tags": check_tags(tags if tags is not None else ()),
        "metrics": check_metrics(metrics if metrics is not None else {}),
        "lineage": check_json(lineage if lineage is not None else {}, "lineage"),
        "idempotency_key": checked_key(idempotency_key),
    }


def find_signature(model: object, example: pd.DataFrame | None) -> Signature | None:
    """Take the signature from the example's columns that the model knows by name, else from all of them."""
    derived = derive_signature(model)
    if example is None:
        return derived
    if derived is not None and set(derived.feature_names) <= {str(name) for name in example.columns}:
        example = example.set_axis([str(name) for name in example.columns], axis=1)[list(derived.feature_names)]
    task, classes = derive_task(model)
    return capture_signature(example).model_copy(update={"task": task, "classes": classes})


def check_width(trial: Trial, signature: Signature | None) -> None:
    """See that a signature has as many features as the model takes."""
    if signature is not None and trial.width is not None and trial.width != len(signature.columns):
        raise InvalidField(
            f"the signature has {len(signature.columns)} features, and the model takes {trial.width}",
            hint="Give a signature or an example with the columns that the model was trained on, in their order.",
            context={"field": "signature"},
        )


def try_example(native: Any, draft: Draft, example: pd.DataFrame) -> None:
    """See that the model predicts the first row of an example, before anyone relies on it."""
    if draft.signature is None or not len(example):
        return
    now = {"version": 1, "created_at": 0, "updated_at": 0}
    record = ModelRecord.model_validate({**draft.model_dump(exclude={"idempotency_key"}), **now})
    try:
        LoadedModel(native, record).predict(example.head(1))
    except ComputeError:
        raise
    except Exception as error:  # whatever the model's library raises
        raise UnsupportedFormat(
            f"the model cannot predict its own example: {type(error).__name__}: {error!s:.300}",
            hint="Give an example of the columns it was trained on; a model of text columns has to be a pipeline.",
        ) from error
