"""What is done to each block of a table that is spread over workers, and what blocks say together."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from compute.errors import ColumnInvalid, ComputeError
from jobs.blocks import Encoding, encode_block, say_block, together
from jobs.families import Problem
from jobs.marks import HELD_OUT, WATCHED, Marks, Times, mark_block, since, times_of
from jobs.shard import Batch, DiskShard, Watched, booster_bytes, booster_from, fit_shard
from jobs.targets import find_target
from jobs.validation import Kind, Validation
from registry import capture_signature
from tests.jobs.conftest import FLIGHT_FEATURES


def _marks(target: str, fraction: float = 0.2, seed: int = 0, kind: Kind | None = None, by: str | None = None) -> Marks:
    return Marks(Validation(kind, fraction, seed, by), target, watch=True)


def test_what_blocks_say_together_is_the_signature_of_the_whole(flights: pd.DataFrame) -> None:
    columns = [*FLIGHT_FEATURES, "tailnum", "arr_delay"]
    blocks = [
        mark_block(flights[columns].iloc[i : i + 3000], _marks("arr_delay")) for i in range(0, len(flights), 3000)
    ]
    rows = [say_block(block, columns[:-1], _marks("arr_delay"))["said"][0] for block in blocks]
    said = together([pickle.loads(row) for row in rows])
    assert said is not None
    training = pd.concat([block[~block[HELD_OUT]] for block in blocks])
    assert capture_signature(said.features) == capture_signature(training[columns[:-1]])
    assert (said.training, said.rows, said.nulls) == (len(training), len(flights), 0)
    assert len(training) == pytest.approx(0.8 * len(flights), rel=0.05)
    target = find_target(said.target, None)
    assert said.baseline(target)["mean"] == pytest.approx(training["arr_delay"].mean())
    assert sum(len(row) for row in rows) < 2_000_000  # what reaches the driver is small


def test_blocks_are_marked_alike_every_time_and_cut_in_two(flights: pd.DataFrame) -> None:
    block = flights[["distance", "origin", "arr_delay"]].head(1000)
    marked = mark_block(block, _marks("arr_delay", 0.3, 4))
    pd.testing.assert_frame_equal(marked, mark_block(block, _marks("arr_delay", 0.3, 4)))
    assert (marked[HELD_OUT] != mark_block(block, _marks("arr_delay", 0.3, 5))[HELD_OUT]).any()
    target = find_target(block["arr_delay"], None)
    signature = capture_signature(block, target="arr_delay", target_values=block["arr_delay"], task="regression")
    parts = [encode_block(marked, Encoding(signature, target), held_out=held) for held in (False, True)]
    assert [len(part["matrix"]) for part in parts] == [int((~marked[HELD_OUT]).sum()), int(marked[HELD_OUT].sum())]
    assert sorted(np.concatenate([part["target"] for part in parts])) == sorted(block["arr_delay"].astype("float32"))


def test_classes_are_counted_and_nulls_are_told(bundle: dict[str, pd.DataFrame]) -> None:
    frame = bundle["wine"].copy()
    frame.loc[::10, "target"] = None
    marked = mark_block(frame, _marks("target", 0.25))
    said = together([pickle.loads(say_block(marked, ["alcohol"], _marks("target"))["said"][0])])
    assert said is not None
    assert said.nulls == 18
    target = find_target(said.target, None)
    kept = marked[~marked[HELD_OUT]]["target"].dropna()
    assert said.baseline(target)["prior"] == pytest.approx(kept.value_counts(normalize=True).sort_index().tolist())
    assert together([]) is None


def _blocks(frame: pd.DataFrame, rows: int = 700) -> list[pd.DataFrame]:
    return [frame.iloc[start : start + rows] for start in range(0, len(frame), rows)]


def test_groups_lie_on_one_side_whatever_block_they_are_in(flights: pd.DataFrame) -> None:
    marks = _marks("arr_delay", kind="group", by="tailnum")
    marked = pd.concat([mark_block(block, marks) for block in _blocks(flights)])
    by_plane = marked.groupby("tailnum")[[HELD_OUT, WATCHED]].nunique()
    assert (by_plane == 1).all().all()
    assert marked[HELD_OUT].mean() == pytest.approx(0.2, abs=0.05)
    assert marked[~marked[HELD_OUT]][WATCHED].mean() == pytest.approx(0.1, abs=0.05)
    # A number is the same group whether a block has it as an integer or not.
    ids = [pd.DataFrame({"id": values, "y": 1.0}) for values in ([1, 2, 3], [1.0, 2.0, 3.0])]
    one, two = (mark_block(block, _marks("y", 0.5, kind="group", by="id"))[HELD_OUT] for block in ids)
    assert one.tolist() == two.tolist()
    # And each seed draws others.
    many = pd.DataFrame({"id": range(1000), "y": 1.0})
    one, two = (mark_block(many, _marks("y", 0.5, seed, "group", "id"))[HELD_OUT] for seed in (0, 1))
    assert 0.4 < (one == two).mean() < 0.6


def test_the_latest_rows_are_held_back_and_those_before_them_watched(flights: pd.DataFrame) -> None:
    marks = _marks("arr_delay", kind="time", by="time_hour")
    blocks = _blocks(flights.sample(frac=1.0, random_state=0))
    held, watched = since([times_of(block, marks) for block in blocks], marks)
    marks = Marks(marks.how, marks.target, watch=True, since=held, watched_since=watched)
    marked = pd.concat([mark_block(block, marks) for block in blocks])
    fitted = marked[~marked[HELD_OUT] & ~marked[WATCHED]]["time_hour"]
    seen, kept = marked[marked[WATCHED]]["time_hour"], marked[marked[HELD_OUT]]["time_hour"]
    assert fitted.max() < seen.min() <= seen.max() < kept.min()
    assert len(kept) / len(marked) == pytest.approx(0.2, abs=0.01)
    assert len(seen) / (len(marked) - len(kept)) == pytest.approx(0.1, abs=0.01)


def test_times_that_tell_nothing_apart_are_refused() -> None:
    marks = _marks("y", kind="time", by="t")
    for values, message in (
        ([pd.Timestamp(2024, 1, 1)] * 4, "only one value"),
        ([pd.Timestamp(2024, 1, 1), None], "null in 1 rows"),
        (["monday", "tuesday"], "which are no times"),
        ([1, 2], "only one value"),  # one to hold back, and none is left to watch
    ):
        block = pd.DataFrame({"t": values, "y": 1.0})
        with pytest.raises(ComputeError, match=message):
            since([times_of(block, marks)], marks)


@given(
    st.lists(st.integers(0, 40), min_size=3, max_size=200).filter(lambda days: len(set(days)) > 2),
    st.floats(0.05, 0.9),
    st.integers(1, 50),
)
def test_the_share_by_time_is_as_close_as_whole_times_allow(days: list[int], share: float, rows: int) -> None:
    frame = pd.DataFrame({"day": days, "y": 1.0})
    marks = Marks(Validation("time", share, 0, "day"), "y")
    held, _ = since([times_of(block, marks) for block in _blocks(frame, rows)], marks)
    count = sum(day >= held for day in days)
    possible = [sum(day >= first for day in days) for first in sorted(set(days))[1:]]
    assert abs(count - share * len(days)) <= min(abs(one - share * len(days)) for one in possible) + 1e-9


def test_times_of_a_block_are_told_by_few() -> None:
    block = pd.DataFrame({"t": np.arange(100_000), "y": 1.0})
    told = times_of(block, _marks("y", kind="time", by="t"))
    assert isinstance(told, Times)
    assert (len(told.values), int(told.counts.sum())) == (10_000, 100_000)


def test_each_class_gives_its_share() -> None:
    frame = pd.DataFrame({"kind": ["often"] * 2000 + ["rare"] * 50, "x": range(2050)})
    marks = _marks("kind", kind="stratified")
    marked = pd.concat([mark_block(block, marks) for block in _blocks(frame.sample(frac=1.0, random_state=1), 205)])
    shares = marked.groupby("kind")[HELD_OUT].mean()
    assert shares["often"] == pytest.approx(0.2, abs=0.01)
    assert 0.05 < shares["rare"] < 0.4


def test_rows_and_classes_weigh_in_what_is_fitted() -> None:
    frame = pd.DataFrame({"x": range(40), "y": ["no"] * 30 + ["yes"] * 10, "w": [2.0] * 40})
    marks = Marks(Validation(None, 0.5, 0), "y")
    marked = mark_block(frame, marks)
    target = find_target(frame["y"], None)
    signature = capture_signature(frame[["x"]], target="y", target_values=frame["y"], task="binary")
    each = np.array([1.0, 3.0], dtype="float32")
    encoded = encode_block(marked, Encoding(signature, target, "float32", "w", each), held_out=False)
    assert encoded["weight"].tolist() == [6.0 if place else 2.0 for place in encoded["target"]]
    assert "weight" not in encode_block(marked, Encoding(signature, target, "float32", "w", each), held_out=True)
    wrong = mark_block(frame.assign(w=-1.0), marks)
    said = pickle.loads(say_block(wrong, ["x"], marks, "w")["said"][0])
    with pytest.raises(ColumnInvalid, match=r"has -1\.0 in row 0"):
        together([said])


@pytest.mark.parametrize("on_disk", [False, True])
def test_early_stopping_goes_on_from_a_checkpoint_to_the_same_model(on_disk: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    matrix = random.random((4000, 3)).astype("float32")
    truth = (matrix @ [1.0, 2.0, 0.0] + random.normal(0, 0.3, 4000)).astype("float32")
    batches = [Batch(matrix[i : i + 500], truth[i : i + 500], np.ones(500, "float32")) for i in range(0, 4000, 500)]
    target = find_target(pd.Series(truth), None)
    problem = Problem(
        target=target, columns=("a", "b", "c"), categories=(0, 0, 0),
        params={"n_estimators": 200, "max_depth": 3}, seed=0, threads=1,
    )  # fmt: skip
    kept: list[bytes] = []

    class Keep(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            kept.append(booster_bytes("xgboost", model))
            return False

    def fit(folder: Path, start: Any = None, *callbacks: Any) -> Any:
        folder.mkdir()
        parts: list[Any] = [DiskShard(folder / name) if on_disk else [] for name in "fw"]
        for number, batch in enumerate(batches):
            parts[number % 4 == 0].append(batch)
        watched = Watched(parts[1], patience=5)
        return fit_shard("xgboost", parts[0], problem, watched=watched, start=start, callbacks=callbacks)

    whole = fit(tmp_path / "whole", None, Keep())
    rounds = whole.num_boosted_rounds()
    assert rounds < len(kept) + 1 <= 200
    assert len(kept) in (rounds + 4, rounds + 5)  # the last round stops before it is kept
    for place in (3, rounds, len(kept) - 1):
        again = fit(tmp_path / str(place), booster_from("xgboost", kept[place]))
        assert again.num_boosted_rounds() == rounds
        np.testing.assert_allclose(again.inplace_predict(matrix), whole.inplace_predict(matrix), rtol=1e-5)
        assert again.attributes() == whole.attributes() == {}
