"""A warm worker serves one run at a time, forgets it, and leaves when it is idle or has grown; shares are even."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compute import Config
from compute.errors import WorkerLost
from jobs import open_table, warm_worker
from jobs.row_range import shares
from jobs.warm_worker import WarmWorker


def _worker(left: list[bool], idle: float = 100.0, growth: int = 2**40) -> WarmWorker:
    return WarmWorker(idle, growth, libraries=("json",), leave=left.append)


def _remember(state: dict[str, int], value: int) -> int:
    state["value"] = state.get("value", 0) + value
    return state["value"]


def test_a_worker_serves_one_run_at_a_time_and_forgets_it() -> None:
    worker = _worker([])
    assert worker.reserve("a")
    assert not worker.reserve("b")
    assert (worker.call("a", _remember, 2), worker.call("a", _remember, 3)) == (2, 5)
    with pytest.raises(WorkerLost):
        worker.call("b", _remember, 1)
    worker.release("b")  # not b's to give back
    assert not worker.reserve("b")
    worker.release("a")
    assert worker.reserve("b")
    assert worker.call("b", _remember, 1) == 1


def test_a_failed_call_leaves_the_worker_usable() -> None:
    worker = _worker([])
    worker.reserve("a")
    with pytest.raises(ZeroDivisionError):
        worker.call("a", lambda _state: 1 / 0)
    assert worker.call("a", _remember, 1) == 1


def test_a_run_whose_driver_has_died_gives_the_worker_back(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = _worker([])
    worker.reserve("a")
    monkeypatch.setattr(warm_worker, "_SILENCE", 0.0)
    time.sleep(0.01)
    assert worker.reserve("b")


def test_a_worker_leaves_when_idle_for_long_or_grown_and_never_in_a_run() -> None:
    left: list[bool] = []
    idle = _worker(left)
    idle.reserve("a")
    idle._idle = 0.0  # as if the time had passed
    idle.look()
    assert left == []
    idle.release("a")
    time.sleep(0.01)
    idle.look()
    assert left == [False]  # for good
    assert not idle.reserve("b")
    grown = _worker(left, growth=-1)
    grown.look()
    assert left == [False, True]  # another takes its place


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("groups", [1000, 37, 149, 400])
def test_shares_are_even_and_complete_however_the_file_is_cut(
    groups: int, count: int, tmp_path: Path, config: Config
) -> None:
    frame = pd.DataFrame({"a": range(1000), "k": [f"k{number % 7}" for number in range(1000)]})
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "t.parquet", row_group_size=groups)
    parts = shares(open_table(str(tmp_path / "t.parquet"), config), count)
    assert len(parts) == count
    assert max(part.rows or 0 for part in parts) <= 1.1 * -(-1000 // count)
    read = pd.concat([part.read(["a", "k"]).astype({"k": str}) for part in parts], ignore_index=True)
    pd.testing.assert_frame_equal(read, frame.astype({"k": str}))
