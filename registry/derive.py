"""What a native model says about itself: its loss, its classes, its features."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from registry.onnx_model import OnnxModel
from registry.signature import Column, Label, Signature, Task
from registry.values import as_category, plain

_OBJECTIVE = re.compile(r"^objective=(\S+)", re.MULTILINE)


def derive_signature(model: Any) -> Signature | None:
    """Return what a native model says about itself: names of its features, all floats; None if it has no names.

    Parameters
    ----------
    model : xgboost.Booster or XGBModel, lightgbm.Booster or LGBMModel, or scikit-learn estimator
    """
    if isinstance(model, OnnxModel):
        return model.signature(*derive_task(model))
    booster = model.get_booster() if hasattr(model, "get_booster") else getattr(model, "booster_", model)
    names: Any = getattr(booster, "feature_names", None)  # of xgboost
    if names is None and callable(getattr(booster, "feature_name", None)):
        names = booster.feature_name()  # of lightgbm
    if names is None:
        names = getattr(model, "feature_names_in_", None)
    if names is None:
        return None
    task, classes = derive_task(model)
    columns = tuple(Column(name=str(name), dtype="float", nullable=True) for name in names)
    return Signature(columns=columns, task=task, classes=classes)


def derive_task(model: Any) -> tuple[Task, tuple[Label, ...] | None]:
    """Return what a native model predicts, and its classes."""
    if hasattr(model, "__sklearn_tags__") and model.__sklearn_tags__().estimator_type == "regressor":
        return "regression", None  # also of a loss that is a classifier's
    known = getattr(model, "classes_", None)
    if known is not None and not isinstance(known, list):
        classes: tuple[Label, ...] = tuple(np.asarray(known).tolist())
    else:
        booster = model.get_booster() if hasattr(model, "get_booster") else getattr(model, "booster_", model)
        name = objective(booster)
        if name.startswith("multi"):
            count = (
                booster.num_model_per_iteration()
                if hasattr(booster, "num_model_per_iteration")
                else int(json.loads(booster.save_config())["learner"]["learner_model_param"]["num_class"])
            )
            classes = tuple(range(count))
        elif name.startswith("binary") or name in ("cross_entropy",):
            classes = (0, 1)
        else:
            return "regression", None
    if len(classes) < 2:
        return "regression", None
    return ("binary" if len(classes) == 2 else "multiclass"), classes


def own_categories(model: Any) -> list[tuple[str, ...]]:
    """Return the categories that a booster of XGBoost or LightGBM was trained on, of each category column in order.

    Their positions are the codes that its trees split by. Empty when it has none, or does not say.
    """
    booster = model.get_booster() if hasattr(model, "get_booster") else getattr(model, "booster_", model)
    known: Any = getattr(booster, "pandas_categorical", None)  # of lightgbm
    if callable(getattr(booster, "get_categories", None)):  # of xgboost
        values = booster.get_categories(export_to_arrow=True).to_arrow()
        known = [each.to_pylist() for _, each in values or () if each is not None]
    return [tuple(as_category(plain(value)) for value in column) for column in known or ()]


def objective(model: Any) -> str:
    """Return the name of the loss that a booster was trained on; empty for other models."""
    if hasattr(model, "save_config"):
        return str(json.loads(model.save_config())["learner"]["objective"]["name"])
    if hasattr(model, "model_to_string"):
        match = _OBJECTIVE.search(model.model_to_string(num_iteration=1))
        return match[1] if match else ""
    return ""
