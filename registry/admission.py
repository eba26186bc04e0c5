"""What is looked at before a model is kept: its fields, its signature, and whether they go together with the model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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

logger = logging.getLogger(__name__)

_TRIED = 100
"""Rows of an example."""
_SAME = 1e-3
"""Relative: tables that are read in single precision may differ by more than a rounding."""


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


def try_example(native: Any, draft: Draft, example: pd.DataFrame, given: object) -> None:
    """See that a model predicts an example, and as it did before it was kept, before anyone relies on it.

    Parameters
    ----------
    native : object
        The model as it was read back.
    draft : Draft
        Its record to be.
    example : DataFrame
        A table as it was trained on.
    given : object
        The model as it came.

    Raises
    ------
    UnsupportedFormat
        When it cannot, or says something else: what lies outside the model that is kept changes its predictions.
    """
    if draft.signature is None or not len(example):
        return
    now = {"version": 1, "created_at": 0, "updated_at": 0}
    record = ModelRecord.model_validate({**draft.model_dump(exclude={"idempotency_key"}), **now})
    kept = LoadedModel(native, record)
    example = example.head(_TRIED)
    try:
        found = kept.predict(example, proba=kept.gives_probabilities)
    except ComputeError:
        raise
    except Exception as error:  # whatever the model's library raises
        raise UnsupportedFormat(
            f"the model cannot predict its own example: {type(error).__name__}: {error!s:.300}",
            hint="Give an example of the columns it was trained on; a model of text columns has to be a pipeline.",
        ) from error
    expected = _said(given, example, draft.signature, proba=kept.gives_probabilities)
    if expected is None or expected.shape != found.shape:
        return
    if expected.dtype.kind in "iuf" and found.dtype.kind in "iuf":
        largest = float(np.nanmax(np.abs(expected), initial=0.0))
        same = np.isclose(found, expected, rtol=_SAME, atol=_SAME * largest, equal_nan=True)
    else:
        same = np.array([str(one) == str(other) for one, other in zip(found.tolist(), expected.tolist(), strict=True)])
    if not same.all():
        row = int(np.nonzero(~same)[0][0])
        raise UnsupportedFormat(
            f"the model would be kept as one that predicts something else: of row {row} of the example it said "
            f"{expected[row]!s:.80}, and would say {found[row]!s:.80}",
            hint="Categories that are numbers have to become text (column.astype(str)) before training; "
            "XGBoost's missing= is not part of its models: make those values NaN.",
            context={"row": row},
        )


def _said(model: Any, example: pd.DataFrame, signature: Signature, *, proba: bool) -> NDArray[Any] | None:
    """Return what an estimator says to an example by itself; None when it cannot be asked like this."""
    ask = getattr(model, "predict_proba" if proba else "predict", None)
    if ask is None or not hasattr(model, "fit"):
        return None  # a booster or a graph, which have no tables of their own
    by_name = example.set_axis([str(name) for name in example.columns], axis=1)
    try:
        names = getattr(model, "feature_names_in_", None)
        if names is not None and len(names):
            return np.asarray(ask(by_name[[str(name) for name in names]]))
        return np.asarray(ask(by_name[list(signature.feature_names)].to_numpy()))
    except Exception as error:  # noqa: BLE001  (of a matrix of texts, or what else it was not trained on)
        logger.info("event=example_not_compared model=%s reason=%r", type(model).__name__, str(error)[:200])
        return None
