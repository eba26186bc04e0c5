"""Whether the trees in a file are trees: compiled code follows them unchecked, out of its memory if they say so.

A checksum tells that a file is as it was written, and nothing of who wrote it. So what comes from outside is looked
through once, before it is kept: every split leads to two nodes of its own tree, none is reached twice, and every
feature it asks for is there. xgboost, lightgbm and scikit-learn are imported when a model of theirs is met.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compute.errors import UnsupportedFormat
from registry.ubjson import read_ubjson

_TREE = re.compile(rb"\nTree=")
_TREES_END = b"\nend of trees\n"
_PARAMETERS_END = b"\nend of parameters\n"
_OF_NODES = (
    "left_children", "right_children", "parents", "split_indices", "split_conditions", "split_type", "default_left",
)  # fmt: skip
_MAX_CATEGORY = 1 << 24  # XGBoost keeps codes as 32-bit floats


def check_lightgbm_text(data: bytes) -> None:
    """Refuse a LightGBM model that is cut off, or whose trees are not whole.

    It is checked before it is loaded: LightGBM itself crashes on some of these.
    """
    end = data.find(_TREES_END)
    if end < 0 or _PARAMETERS_END not in data:
        raise _unsound("it is cut off")
    places = [*(match.start() for match in _TREE.finditer(data, 0, end)), end]
    try:
        head = _fields(data[: places[0]])
        width = int(head["max_feature_idx"]) + 1
        if len(head.get("tree_sizes", "").split()) != len(places) - 1:
            raise _unsound("it says to have another number of trees")
        for start, stop in pairwise(places):
            _check_lightgbm_tree(_fields(data[start:stop]), width)
        data[end:].decode()
    except UnicodeDecodeError as error:
        raise _unsound("it is not text") from error
    except (KeyError, ValueError, OverflowError) as error:
        raise _unsound(f"a tree lacks a field, or has no numbers in it ({error!r:.100})") from error


def check_xgboost_ubjson(data: bytes) -> None:
    """Refuse an XGBoost model that is cut off, or whose trees are not whole.

    It is checked before it is loaded: XGBoost itself crashes on some of these.
    """
    try:
        _check_learner(read_ubjson(data)["learner"])
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _unsound(f"it is cut off or garbled ({error!r:.100})") from error


def check_xgboost_json(data: bytes) -> None:
    """Refuse an XGBoost model in JSON as `check_xgboost_ubjson` does one in UBJSON."""
    try:
        _check_learner(json.loads(data)["learner"])
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise _unsound(f"it is cut off or garbled ({error!r:.100})") from error


def check_estimator(model: object) -> None:
    """Refuse a scikit-learn estimator with a tree that is not whole; it is loaded, and has not predicted yet."""
    for part in _parts(model):
        _check_part(part)


def check_tree(left: ArrayLike, right: ArrayLike, feature: ArrayLike, width: int) -> None:
    """Refuse a tree unless each node but the root is reached once, from a split on a feature that exists.

    Parameters
    ----------
    left, right : array of int, shape (nodes,)
        Where a split leads; -1 for a leaf.
    feature : array of int, shape (nodes,)
        What a split asks for.
    width : int
        Number of features.

    Examples
    --------
    >>> check_tree([1, -1, -1], [2, -1, -1], [0, 0, 0], width=1)
    >>> check_tree([1, 2, -1], [2, 2, -1], [0, 0, 0], width=1)
    Traceback (most recent call last):
    ...
    compute.errors.UnsupportedFormat: the model is not sound: two ways lead to a node of a tree...
    """
    lefts, rights, features = (np.asarray(values, dtype=np.int64) for values in (left, right, feature))
    if not len(lefts) == len(rights) == len(features) >= 1:
        raise _unsound("a tree has nodes without children")
    if min(lefts.min(), rights.min()) < -1:
        raise _unsound("a split of a tree leads nowhere")
    reached = np.zeros(len(lefts), dtype=bool)
    level: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
    while len(level):
        if level.min() < 0 or level.max() >= len(lefts):
            raise _unsound("a split of a tree leads nowhere")
        if reached[level].any() or len(np.unique(level)) != len(level):
            raise _unsound("two ways lead to a node of a tree")
        reached[level] = True
        splits = level[(lefts[level] >= 0) | (rights[level] >= 0)]
        if len(splits) and (features[splits].min() < 0 or features[splits].max() >= width):
            raise _unsound("a split of a tree asks for a feature that is not there")
        level = np.concatenate([lefts[splits], rights[splits]])


def _check_lightgbm_tree(fields: dict[str, str], width: int) -> None:
    leaves = int(fields["num_leaves"])
    if len(fields["leaf_value"].split()) != leaves or leaves < 1:
        raise _unsound("a tree has another number of leaves than it says")
    if leaves == 1:
        return
    left, right, feature, kind = (
        np.array(fields[name].split(), dtype=np.int64)
        for name in ("left_child", "right_child", "split_feature", "decision_type")
    )
    threshold = np.array(fields["threshold"].split(), dtype=np.float64)
    if not len(left) == len(right) == len(feature) == len(threshold) == len(kind) == leaves - 1:
        raise _unsound("a tree has another number of splits than of leaves")
    for child in (left, right):
        if child.max() >= leaves - 1 or child.min() < -leaves:
            raise _unsound("a split of a tree leads nowhere")
    # Leaves are written as negative numbers; here they follow the splits.
    lefts, rights = (np.where(child < 0, leaves - 1 + ~child, child) for child in (left, right))
    ends = np.full(leaves, -1)
    check_tree(np.append(lefts, ends), np.append(rights, ends), np.append(feature, ends), width)
    count = int(fields.get("num_cat", "0"))
    used = threshold[(kind & 1) == 1]
    if len(used) and (count < 1 or used.min() < 0 or used.max() >= count):
        raise _unsound("a split of a tree asks for categories that are not there")
    if count:
        bounds = np.array(fields["cat_boundaries"].split(), dtype=np.int64)
        if len(bounds) != count + 1 or bounds[0] != 0 or (np.diff(bounds) < 0).any():
            raise _unsound("the categories of a tree are garbled")
        if bounds[-1] != len(fields["cat_threshold"].split()):
            raise _unsound("the categories of a tree are garbled")


def _fields(block: bytes) -> dict[str, str]:
    lines = (line.partition("=") for line in block.decode().splitlines())
    return {name: value for name, is_field, value in lines if is_field}


def _check_learner(learner: dict[str, Any]) -> None:
    sizes = learner["learner_model_param"]
    width = int(sizes["num_feature"])
    groups = max(1, *(int(sizes.get(name, 1)) for name in ("num_class", "num_target")))
    model = learner["gradient_booster"].get("gbtree", learner["gradient_booster"])["model"]
    if "trees" not in model:
        if len(model["weights"]) != (width + 1) * groups:
            raise _unsound("the linear model has another number of weights than of features")
        return
    info = np.asarray(model["tree_info"], dtype=np.int64)
    if len(info) != len(model["trees"]) or (len(info) and (info.min() < 0 or info.max() >= groups)):
        raise _unsound("a tree belongs to an output that is not there")
    dropped = learner["gradient_booster"].get("weight_drop")
    if dropped is not None and len(dropped) != len(info):
        raise _unsound("the trees have another number of weights")
    rounds = np.asarray(model.get("iteration_indptr", [0, len(info)]), dtype=np.int64)
    if len(rounds) and (rounds[0] != 0 or rounds[-1] != len(info) or (np.diff(rounds) < 0).any()):
        raise _unsound("the rounds of training do not cover the trees")
    for tree in model["trees"]:
        _check_xgboost_tree(tree, width)


def _check_xgboost_tree(tree: dict[str, Any], width: int) -> None:
    nodes, outputs = int(tree["tree_param"]["num_nodes"]), max(1, int(tree["tree_param"]["size_leaf_vector"]))
    if any(len(tree[field]) != nodes for field in _OF_NODES) or len(tree["base_weights"]) != nodes * outputs:
        raise _unsound("a tree has another number of nodes than it says")
    left, right = (np.asarray(tree[f"{side}_children"], dtype=np.int64) for side in ("left", "right"))
    leaf = left == -1
    if outputs > 1:  # the right child of a leaf is the place of its values
        places = right[leaf]
        if len(places) and (places.min() < 0 or (places.max() + 1) * outputs > len(tree["leaf_weights"])):
            raise _unsound("a leaf of a tree has no values")
    check_tree(left, np.where(leaf, -1, right), tree["split_indices"], width)
    starts, sizes, owners, categories = (
        np.asarray(tree[name], dtype=np.int64)
        for name in ("categories_segments", "categories_sizes", "categories_nodes", "categories")
    )
    if not len(starts) == len(sizes) == len(owners):
        raise _unsound("the categories of a tree are garbled")
    if len(starts) and (
        min(starts.min(), sizes.min(), owners.min()) < 0
        or (starts + sizes).max() > len(categories)
        or owners.max() >= nodes
        or (np.diff(owners) <= 0).any()
    ):
        raise _unsound("the categories of a tree are garbled")
    if len(categories) and (categories.min() < 0 or categories.max() >= _MAX_CATEGORY):
        raise _unsound("a category of a tree is out of range")
    if not np.array_equal(np.flatnonzero(np.asarray(tree["split_type"]) == 1), owners):
        raise _unsound("a split of a tree asks for categories that are not there")


def _check_part(part: object) -> None:
    from sklearn.ensemble import IsolationForest
    from sklearn.ensemble._forest import BaseForest
    from sklearn.ensemble._gb import BaseGradientBoosting
    from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
    from sklearn.tree import BaseDecisionTree

    width = getattr(part, "n_features_in_", None)
    if isinstance(part, BaseDecisionTree) and hasattr(part, "tree_"):
        if part.tree_.n_features != width:
            raise _unsound("a tree has another number of features than its estimator")
        nodes = part.tree_.__getstate__()["nodes"]
        check_tree(nodes["left_child"], nodes["right_child"], nodes["feature"], part.tree_.n_features)
    elif isinstance(part, BaseForest | BaseGradientBoosting) and hasattr(part, "estimators_"):
        if any(getattr(tree, "n_features_in_", None) != width for tree in np.ravel(part.estimators_)):
            raise _unsound("the trees of a forest have another number of features than the forest")
    elif isinstance(part, IsolationForest) and hasattr(part, "estimators_"):
        for tree, features in zip(part.estimators_, part.estimators_features_, strict=True):
            if tree.n_features_in_ != len(features) or np.max(features) >= width or np.min(features) < 0:
                raise _unsound("the trees of a forest have another number of features than the forest")
    elif isinstance(part, BaseHistGradientBoosting) and hasattr(part, "_predictors"):
        for predictor in (item for stage in part._predictors for item in stage):
            nodes = predictor.nodes
            inner = nodes["is_leaf"] == 0
            left, right = (np.where(inner, nodes[side].astype(np.int64), -1) for side in ("left", "right"))
            check_tree(left, right, nodes["feature_idx"], int(width or 0))
            sets = nodes["bitset_idx"][inner & (nodes["is_categorical"] != 0)]
            if len(sets) and sets.max() >= len(predictor.raw_left_cat_bitsets):
                raise _unsound("a split of a tree asks for categories that are not there")


def _parts(root: object) -> Iterator[object]:
    """Give everything that an estimator holds, at any depth."""
    seen: set[int] = set()
    pending = [root]
    while pending:
        part = pending.pop()
        if id(part) in seen or isinstance(part, str | bytes | int | float | type | None):
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            pending.extend(part.values())
        elif isinstance(part, list | tuple | set):
            pending.extend(part)
        elif isinstance(part, np.ndarray):
            pending.extend(part.ravel().tolist() if part.dtype == object else [])
        else:
            yield part
            pending.extend(getattr(part, "__dict__", {}).values())


def _unsound(reason: str) -> UnsupportedFormat:
    return UnsupportedFormat(
        f"the model is not sound: {reason}", hint="Save it again with the library that trained it."
    )
