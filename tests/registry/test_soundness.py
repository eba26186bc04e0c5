"""Trees that lead compiled code out of its memory are refused when they come from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from compute.errors import UnsupportedFormat
from registry import ModelRegistry
from registry.soundness import check_lightgbm_text, check_tree, check_xgboost_ubjson
from registry.ubjson import read_ubjson

_random = np.random.default_rng(3)
ROWS = _random.random((300, 4))
ROWS[:, 3] = _random.integers(0, 40, 300)
TARGET = ROWS[:, 0] + (ROWS[:, 3] % 3)


def raw(**params: Any) -> bytes:
    table = xgboost.DMatrix(ROWS, TARGET, feature_types=["q", "q", "q", "c"], enable_categorical=True)
    booster = xgboost.train({"max_depth": 4, "max_cat_to_onehot": 1, **params}, table, 3)
    return bytes(booster.save_raw("ubj"))


@pytest.mark.parametrize("params", [{}, {"booster": "dart", "rate_drop": 0.5}, {"num_parallel_tree": 2}])
def test_what_xgboost_trains_is_sound(params: dict[str, Any]) -> None:
    check_xgboost_ubjson(raw(**params))


@pytest.mark.parametrize(
    "params",
    [
        {"gamma": 5, "tree_method": "exact"},  # prunes, and leaves nodes that nothing leads to
        {"booster": "gblinear"},
        {"objective": "multi:softprob", "num_class": 4},
        {"tree_method": "hist", "grow_policy": "lossguide", "max_leaves": 7},
        {"tree_method": "approx"},
    ],
)
def test_what_xgboost_trains_in_other_ways_is_sound(params: dict[str, Any]) -> None:
    table = xgboost.DMatrix(ROWS[:, :3], (TARGET // 1).astype(int))
    check_xgboost_ubjson(bytes(xgboost.train(params, table, 3).save_raw("ubj")))


def test_several_outputs_of_xgboost_are_sound() -> None:
    table = xgboost.DMatrix(ROWS, np.column_stack([TARGET, -TARGET]))
    for strategy in ("one_output_per_tree", "multi_output_tree"):
        params = {"multi_strategy": strategy, "tree_method": "hist"}
        check_xgboost_ubjson(bytes(xgboost.train(params, table, 3).save_raw("ubj")))


def damaged(data: bytes, field: str, value: int) -> bytes:
    """Put another number first into the first array of this name that has any."""
    start = 0
    while True:
        start = data.index(field.encode() + b"[$", start) + len(field) + 2
        kind, count = data[start : start + 1], int.from_bytes(data[start + 3 : start + 11], "big")
        if count:
            break
    size = {b"l": 4, b"L": 8, b"U": 1}[kind]
    return data[: start + 11] + value.to_bytes(size, "big", signed=kind != b"U") + data[start + 11 + size :]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("left_children", 10**6), ("left_children", 0), ("left_children", -5), ("right_children", 1),
        ("split_indices", 4), ("split_indices", 10**6), ("split_indices", -1), ("categories_sizes", 10**6),
        ("categories_segments", -1), ("categories_nodes", 10**6), ("categories", -7), ("categories", 2**30),
        ("split_type", 1),
    ],
)  # fmt: skip
def test_garbled_xgboost_trees_are_refused(
    local_registry: ModelRegistry, tmp_path: Path, field: str, value: int
) -> None:
    sound = raw()
    garbled = damaged(sound, field, value)
    if garbled == sound:
        garbled = damaged(sound, field, 0)
    assert len(garbled) == len(sound)
    assert garbled != sound
    (tmp_path / "model").write_bytes(garbled)
    with pytest.raises(UnsupportedFormat, match="not sound"):
        local_registry.register_file(tmp_path / "model", "any")


def test_an_xgboost_model_is_refused_wherever_it_is_cut() -> None:
    data = raw()
    for end in range(0, len(data), 53):
        with pytest.raises(UnsupportedFormat, match="not sound"):
            check_xgboost_ubjson(data[:end])


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat):
        check_xgboost_ubjson(data)


def test_nesting_has_a_limit() -> None:
    with pytest.raises(ValueError, match="nest"):
        read_ubjson(b"[" * 100_000)


def light(**params: Any) -> bytes:
    data = lightgbm.Dataset(ROWS, TARGET, categorical_feature=[3])
    params = {"verbosity": -1, "num_leaves": 6, "min_data_in_leaf": 5, "cat_smooth": 1, **params}
    text: str = lightgbm.train(params, data, 3).model_to_string()
    return text.encode()


@pytest.mark.parametrize(
    "params",
    [{}, {"boosting": "dart"}, {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, {"linear_tree": True}],
)
def test_what_lightgbm_trains_is_sound(params: dict[str, Any]) -> None:
    check_lightgbm_text(light(**params))


def test_a_lightgbm_model_without_a_split_is_sound() -> None:
    data = lightgbm.Dataset(ROWS, np.ones(len(ROWS)))
    check_lightgbm_text(lightgbm.train({"verbosity": -1}, data, 2).model_to_string().encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("left_child", "999"), ("right_child", "-999"), ("left_child", "0"), ("left_child", "x"),
        ("split_feature", "77"), ("split_feature", "-1"), ("num_leaves", "1000000"), ("num_leaves", "0"),
        ("cat_boundaries", "5"), ("cat_boundaries", "0"),
    ],
)  # fmt: skip
def test_garbled_lightgbm_trees_are_refused(
    local_registry: ModelRegistry, tmp_path: Path, field: str, value: str
) -> None:
    lines = light().decode().splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith(f"{field}="))
    first, _, rest = lines[place].partition("=")[2].partition(" ")
    assert first != value or field == "cat_boundaries"
    lines[place] = f"{field}={value} {rest}" if field not in ("num_leaves", "cat_boundaries") else f"{field}={value}"
    (tmp_path / "model").write_text("\n".join(lines) + "\n")
    with pytest.raises(UnsupportedFormat, match="not sound"):
        local_registry.register_file(tmp_path / "model", "any")


def test_a_lightgbm_model_is_refused_wherever_it_is_cut() -> None:
    text = light()
    for end in range(0, text.index(b"end of parameters"), 37):
        with pytest.raises(UnsupportedFormat, match="not sound"):
            check_lightgbm_text(text[:end])


@given(st.lists(st.tuples(st.integers(-2, 12), st.integers(-2, 12), st.integers(-1, 4)), min_size=1, max_size=12))
def test_a_walk_through_a_tree_that_is_taken_always_ends(nodes: list[tuple[int, int, int]]) -> None:
    left, right, feature = (list(column) for column in zip(*nodes, strict=True))
    try:
        check_tree(left, right, feature, width=3)
    except UnsupportedFormat:
        return
    pending, steps = [0], 0
    while pending:
        node = pending.pop()
        steps += 1
        assert steps <= len(nodes)
        if left[node] >= 0 or right[node] >= 0:
            assert 0 <= feature[node] < 3
            pending += [left[node], right[node]]
            assert min(pending) >= 0
            assert max(pending) < len(nodes)
