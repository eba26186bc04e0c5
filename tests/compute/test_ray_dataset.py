"""What `distributed_apply` leaves in Ray's object store: frames that were put once, and the blocks of Datasets."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from compute import ComputeManager, distributed_apply
from compute.errors import ColumnMissing, DataError
from compute.local_backend import LocalBackend
from compute.ray_backend import RayBackend

pytestmark = [  # Ray Data's own, as it is imported and as its blocks are sorted
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]

KEYS = ["b", "a", None, "c", "b", "a", "b", None, "c", "b"] * 1000


@pytest.fixture(scope="module")
def manager(ray_cluster: str) -> Iterator[ComputeManager]:
    with ComputeManager(RayBackend()) as one:
        yield one


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return pd.DataFrame({"key": KEYS, "value": np.arange(10_000.0)})


def test_a_frame_is_put_once_and_its_parts_are_views(manager: ComputeManager) -> None:
    def where(part: pd.DataFrame) -> tuple[int, int, bool]:
        values = part["value"].to_numpy()
        start = values.__array_interface__["data"][0] - 8 * int(values[0])
        return os.getpid(), start, values.flags.writeable

    data = pd.DataFrame({"value": np.arange(1_000_000.0)})
    found = distributed_apply(where, data, 100_000, manager=manager)
    # All parts that a process has seen lie in the one object that it has mapped, which nobody can write to.
    assert len({(process, start) for process, start, _ in found}) == len({process for process, _, _ in found})
    assert not any(writeable for _, _, writeable in found)


def bounds(part: pd.DataFrame) -> tuple[type, int, float, float]:
    return type(part), len(part), float(part["value"].iloc[0]), float(part["value"].iloc[-1])


def test_parts_are_frames_and_reach_over_blocks(manager: ComputeManager, frame: pd.DataFrame) -> None:
    import ray.data

    dataset = ray.data.from_pandas([frame.iloc[:4000], frame.iloc[4000:4001], frame.iloc[4001:]])
    assert distributed_apply(bounds, dataset, 3000, manager=manager) == [
        (pd.DataFrame, 3000, 0.0, 2999.0),
        (pd.DataFrame, 3000, 3000.0, 5999.0),
        (pd.DataFrame, 3000, 6000.0, 8999.0),
        (pd.DataFrame, 1000, 9000.0, 9999.0),
    ]
    assert distributed_apply(len, dataset.limit(4500), manager=manager, combine=sum) == 4500
    assert distributed_apply(len, dataset.limit(0), manager=manager) == []


@pytest.mark.slow
def test_groups_come_whole_and_sorted(manager: ComputeManager, frame: pd.DataFrame) -> None:
    import ray.data

    dataset = ray.data.from_pandas([frame.iloc[:4000], frame.iloc[4000:4001], frame.iloc[4001:]])
    groups = distributed_apply(
        lambda group: (group["key"].iloc[0], group["key"].nunique(dropna=False), group["value"].sum()),
        dataset,
        by="key",
        manager=manager,
    )
    sums = frame.groupby("key", dropna=False)["value"].sum()
    assert [key for key, _, _ in groups[:3]] == ["a", "b", "c"]
    assert pd.isna(groups[3][0])
    assert [(count, total) for _, count, total in groups] == [(1, total) for total in sums]
    with pytest.raises(ColumnMissing, match="'kay'"):
        distributed_apply(len, dataset, by="kay", manager=manager)


def test_other_engines_say_that_they_cannot_read_it(ray_cluster: str) -> None:
    import ray.data

    with ComputeManager(LocalBackend(1)) as local, pytest.raises(DataError, match="lies in Ray's object store"):
        distributed_apply(len, ray.data.range(5), manager=local)
