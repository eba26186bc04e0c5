"""What is looked at before a model is kept: its fields, its signature, and whether they go together with the model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compute.errors import ComputeError, InvalidField, UnsupportedFormat
from registry.derive import derive_signature, derive_task, own_categories
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
    signature = capture_signature(example)
    columns = list(signature.columns)
    # The codes are the model's: an example need not have all categories, nor in the same order.
    if own := own_categories(model):
        if len(own) != len(signature.categorical):
            raise InvalidField(
                f"the model was trained with {len(own)} category columns, and the example has "
                f"{len(signature.categorical)}",
                hint="Give an example of the table that it was trained on.",
                context={"field": "example"},
            )
        for place, categories in zip(signature.categorical, own, strict=True):
            columns[place] = columns[place].model_copy(update={"categories": categories})
    return signature.model_copy(update={"columns": tuple(columns), "task": task, "classes": classes})


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
    places = np.unique(np.linspace(0, len(example) - 1, _TRIED).astype(int))
    example = example.iloc[places]
    try:
        found = kept.answer(example, labels=True, proba=kept.gives_probabilities)
    except ComputeError:
        raise
    except Exception as error:  # whatever the model's library raises
        raise UnsupportedFormat(
            f"the model cannot predict its own example: {type(error).__name__}: {error!s:.300}",
            hint="Give an example of the columns it was trained on; a model of text columns has to be a pipeline.",
        ) from error
    for method, answers in zip(("predict", "predict_proba"), found, strict=True):
        expected = None if answers is None else _said(given, method, example, draft.signature)
        if answers is not None and expected is not None:
            _compare(answers, expected, places)


def _compare(found: NDArray[Any], expected: NDArray[Any], places: NDArray[np.intp]) -> None:
    if found.shape != expected.shape:
        raise UnsupportedFormat(
            f"the model would be kept as one that gives {_each(found)} a row, and it gives {_each(expected)}",
            hint="Several labels a row, and losses of one's own in a classifier, cannot be kept.",
        )
    if expected.dtype.kind in "iuf" and found.dtype.kind in "iuf":
        largest = float(np.nanmax(np.abs(expected), initial=0.0))
        same = np.isclose(found, expected, rtol=_SAME, atol=_SAME * largest, equal_nan=True)
        same = same.reshape(len(same), -1).all(axis=1)
    else:
        pairs = zip(found.tolist(), expected.tolist(), strict=True)
        same = np.array([one == other or str(one) == str(other) for one, other in pairs])
    if not same.all():
        row = int(np.nonzero(~same)[0][0])
        raise UnsupportedFormat(
            f"the model would be kept as one that predicts something else: of row {places[row]} of the example it said "
            f"{expected[row]!s:.80}, and would say {found[row]!s:.80}",
            hint="Categories that are numbers have to become text (column.astype(str)) before training; "
            "XGBoost's missing= is not part of its models: make those values NaN.",
            context={"row": int(places[row])},
        )


def _each(answers: NDArray[Any]) -> str:
    width = answers.size // max(len(answers), 1)
    return "one value" if width == 1 else f"{width} values"


def _said(model: Any, method: str, example: pd.DataFrame, signature: Signature) -> NDArray[Any] | None:
    """Return what an estimator says to an example by itself; None when it cannot be asked like this."""
    ask = getattr(model, method, None)
    if ask is None or not hasattr(model, "fit"):
        return None  # a booster or a graph, which have no tables of their own
    table = example.set_axis([str(name) for name in example.columns], axis=1)
    if hasattr(model, "get_booster") or hasattr(model, "booster_"):
        # They know the codes of categories, and take no texts.
        texts = [column.name for column in signature.columns if column.categories is not None]
        table = table.astype({name: "category" for name in texts if table[name].dtype != "category"})
    try:
        names = getattr(model, "feature_names_in_", None)
        if names is not None and len(names):
            return np.asarray(ask(table[[str(name) for name in names]]))
        return np.asarray(ask(table[list(signature.feature_names)].to_numpy()))
    except Exception as error:  # noqa: BLE001  (of a matrix of texts, or what else it was not trained on)
        logger.info("event=example_not_compared model=%s reason=%r", type(model).__name__, str(error)[:200])
        return None
