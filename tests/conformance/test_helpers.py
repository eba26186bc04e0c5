"""`distributed_apply` and its family over every engine."""

from __future__ import annotations

import functools
import operator

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from compute import ComputeManager, distributed_apply, distributed_filter, distributed_map, distributed_reduce
from compute.errors import ColumnMissing, DataError, InvalidField

ROWS = 100_000


def frame() -> pd.DataFrame:
    return pd.DataFrame({"value": np.arange(float(ROWS)), "group": pd.Categorical(["a", "b"] * (ROWS // 2))})


def bounds(part: pd.DataFrame) -> tuple[type, int, float, float]:
    return type(part), len(part), float(part["value"].iloc[0]), float(part["value"].iloc[-1])


def test_a_frame_comes_in_parts_in_order(manager: ComputeManager) -> None:
    results = distributed_apply(bounds, frame(), 30_000, manager=manager)
    assert results == [
        (pd.DataFrame, 30_000, 0.0, 29_999.0),
        (pd.DataFrame, 30_000, 30_000.0, 59_999.0),
        (pd.DataFrame, 30_000, 60_000.0, 89_999.0),
        (pd.DataFrame, 10_000, 90_000.0, 99_999.0),
    ]


def test_the_index_is_kept(manager: ComputeManager) -> None:
    data = frame().set_index(pd.date_range("2020", periods=ROWS, freq="min"))
    parts = distributed_apply(lambda part: part.tail(1), data, 40_000, manager=manager)
    pd.testing.assert_frame_equal(pd.concat(parts), data.iloc[[39_999, 79_999, 99_999]], check_freq=False)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (np.arange(ROWS), np.ndarray),
        (np.ones((ROWS, 3)), np.ndarray),
        (pd.Series(np.arange(ROWS)), pd.Series),
        (pa.table({"value": np.arange(ROWS)}), pa.Table),
        (pd.DataFrame({"text": [str(n) for n in range(1000)]}, dtype=object), pd.DataFrame),
        (np.array([{"n": n} for n in range(100)], dtype=object), np.ndarray),
        (list(range(100)), list),
        (tuple(range(100)), tuple),
        (range(100), range),
    ],
    ids=["array", "matrix", "series", "arrow", "objects", "object array", "list", "tuple", "range"],
)
def test_every_kind_of_data_comes_as_itself(manager: ComputeManager, data: object, kind: type) -> None:
    rows = len(data)  # type: ignore[arg-type]
    results = distributed_apply(lambda part: (type(part), len(part)), data, rows // 3 + 1, manager=manager)
    assert {one for one, _ in results} == {kind}
    assert [size for _, size in results] == [rows // 3 + 1, rows // 3 + 1, rows - 2 * (rows // 3 + 1)]


def test_an_iterable_comes_in_lists(manager: ComputeManager) -> None:
    results = distributed_apply(lambda part: (type(part), len(part)), iter(range(10)), 4, manager=manager)
    assert results == [(list, 4), (list, 4), (list, 2)]


def test_by_default_there_are_parts_for_every_cpu(manager: ComputeManager) -> None:
    cpus = int(manager.resources()["total"]["cpu"])
    assert len(distributed_apply(len, frame(), manager=manager)) == 4 * cpus


def test_combine_takes_the_list(manager: ComputeManager) -> None:
    assert distributed_apply(len, frame(), 7_000, manager=manager, combine=sum) == ROWS


def test_no_rows_are_no_parts(manager: ComputeManager) -> None:
    for data in (frame().head(0), np.empty((0, 3)), [], pa.table({"a": []})):
        assert distributed_apply(len, data, 10, manager=manager) == []
        assert distributed_apply(len, data, manager=manager, combine=sum) == 0


@pytest.mark.parametrize(
    ("data", "size", "error"),
    [
        (5, None, DataError),
        ("text", None, DataError),
        ({"a": 1}, None, DataError),
        (np.array(5), None, DataError),
        ([1], 0, InvalidField),
        ([1], -5, InvalidField),
    ],
)
def test_what_has_no_parts_is_refused(
    manager: ComputeManager, data: object, size: int | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        distributed_apply(len, data, size, manager=manager)


def test_a_failing_part_names_its_rows(manager: ComputeManager) -> None:
    def check(part: pd.DataFrame) -> None:
        if part["value"].iloc[0] == 40_000:
            raise ValueError("out of range")

    with pytest.raises(ValueError, match="out of range") as caught:
        distributed_apply(check, frame(), 20_000, manager=manager)
    assert "In rows 40000 to 59999 of 100000." in caught.value.__notes__
    # And where in the worker: the line of the function itself.
    assert any('raise ValueError("out of range")' in note for note in caught.value.__notes__)


def test_failures_can_take_the_place_of_results(manager: ComputeManager) -> None:
    def check(part: list[int]) -> int:
        if 4 in part:
            raise ValueError("four")
        return sum(part)

    first, second, third = distributed_apply(check, range(9), 3, manager=manager, return_exceptions=True)
    assert (first, third) == (3, 21)
    assert isinstance(second, ValueError)
    assert "In rows 3 to 5 of 9." in second.__notes__


def grouped() -> pd.DataFrame:
    """Groups of different sizes, not side by side, one of them without a key."""
    keys = ["b", "a", None, "c", "b", "a", "b", None, "c", "b"] * 1000
    return pd.DataFrame({"key": keys, "day": [1, 2] * 5000, "value": np.arange(10_000.0)})


def summary(group: pd.DataFrame) -> tuple[object, int, float, bool]:
    key = group["key"].iloc[0]
    return None if pd.isna(key) else key, len(group), group["value"].sum(), group["value"].is_monotonic_increasing


EXPECTED = [
    ("b", 4000, grouped()["value"][grouped()["key"] == "b"].sum(), True),
    ("a", 2000, grouped()["value"][grouped()["key"] == "a"].sum(), True),
    (None, 2000, grouped()["value"][grouped()["key"].isna()].sum(), True),
    ("c", 2000, grouped()["value"][grouped()["key"] == "c"].sum(), True),
]


@pytest.mark.parametrize("size", [None, 1, 6000, 1_000_000])
def test_groups_come_whole_in_the_order_of_their_first_rows(manager: ComputeManager, size: int | None) -> None:
    assert distributed_apply(summary, grouped(), size, by="key", manager=manager) == EXPECTED


@pytest.mark.parametrize("dtype", ["category", "object"])
def test_groups_of_categories_and_of_objects(manager: ComputeManager, dtype: str) -> None:
    data = grouped().astype({"key": dtype})
    if dtype == "category":
        data["key"] = data["key"].cat.add_categories(["unused"])
    assert distributed_apply(summary, data, by="key", manager=manager) == EXPECTED


def test_groups_of_an_arrow_table_and_of_several_columns(manager: ComputeManager) -> None:
    table = pa.Table.from_pandas(grouped(), preserve_index=False)
    sizes = distributed_apply(
        lambda group: (group["key"][0].as_py(), group["day"][0].as_py(), group.num_rows),
        table,
        by=["key", "day"],
        manager=manager,
    )
    pairs = grouped().groupby(["key", "day"], sort=False, dropna=False).size()
    assert sizes == [(None if pd.isna(key) else key, day, count) for (key, day), count in pairs.items()]


def test_a_group_keeps_its_index(manager: ComputeManager) -> None:
    data = grouped().set_index(pd.RangeIndex(50, 10_050))
    first = distributed_apply(lambda group: group.head(2).index.tolist(), data, by="key", manager=manager)[0]
    assert first == [50, 54]


def test_a_failing_group_is_named(manager: ComputeManager) -> None:
    def check(group: pd.DataFrame) -> int:
        if group["key"].iloc[0] == "a":
            raise ValueError("not a")
        return len(group)

    with pytest.raises(ValueError, match="not a") as caught:
        distributed_apply(check, grouped(), by="key", manager=manager)
    assert "In the group key='a', of 2000 rows." in caught.value.__notes__
    results = distributed_apply(check, grouped(), by="key", manager=manager, return_exceptions=True)
    assert [type(one) for one in results] == [int, ValueError, int, int]


def test_what_has_no_groups_is_refused(manager: ComputeManager) -> None:
    with pytest.raises(ColumnMissing, match="'kay'"):
        distributed_apply(len, grouped(), by="kay", manager=manager)
    for data in ([1, 2], np.arange(3)):
        with pytest.raises(DataError, match="no columns to group by"):
            distributed_apply(len, data, by="key", manager=manager)
    with pytest.raises(DataError, match="names no column"):
        distributed_apply(len, grouped(), by=[], manager=manager)
    assert distributed_apply(len, grouped().head(0), by="key", manager=manager, combine=sum) == 0


def test_no_task_is_left_behind(manager: ComputeManager) -> None:
    before = len(manager._table)
    distributed_apply(len, frame(), 10_000, manager=manager)
    with pytest.raises(ZeroDivisionError):
        distributed_map(lambda n: 1 // n, [1, 0, 1, 1, 1, 1, 1, 1], partition_size=1, manager=manager)
    assert len(manager._table) <= before + 8
    list(manager.map(abs, range(10)))
    assert len(manager._table) <= before + 8


def test_map_and_filter_are_the_built_in_ones(manager: ComputeManager) -> None:
    items = list(range(-20, 20))
    assert distributed_map(abs, items, manager=manager) == list(map(abs, items))
    assert distributed_map(abs, iter(items), partition_size=7, manager=manager) == list(map(abs, items))
    assert distributed_filter(lambda n: n % 3, items, manager=manager) == [n for n in items if n % 3]
    assert distributed_filter(None, [0, 1, "", "a", None], manager=manager) == [1, "a"]
    assert distributed_map(abs, [], manager=manager) == []
    assert distributed_filter(abs, [], manager=manager) == []


def test_a_failing_item_is_named(manager: ComputeManager) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        distributed_map(lambda n: 1 // n, [3, 2, 1, 0], partition_size=2, manager=manager)
    assert "For item 3 of 4." in caught.value.__notes__


@pytest.mark.parametrize("size", [None, 1, 3, 1000])
def test_reduce_keeps_the_order_and_uses_the_initial_value_once(manager: ComputeManager, size: int | None) -> None:
    words = [f"{n} " for n in range(30)]
    expected = functools.reduce(operator.add, words, ">")
    assert distributed_reduce(operator.add, words, ">", partition_size=size, manager=manager) == expected
    assert distributed_reduce(operator.add, words, partition_size=size, manager=manager) == "".join(words)


def test_reduce_of_nothing(manager: ComputeManager) -> None:
    assert distributed_reduce(operator.add, [], 5, manager=manager) == 5
    assert distributed_reduce(operator.add, [7], manager=manager) == 7
    with pytest.raises(TypeError, match="empty iterable"):
        distributed_reduce(operator.add, [], manager=manager)
