"""Every error crosses process boundaries whole."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator

import pytest
import tblib.pickling_support

from compute import errors
from compute.errors import ComputeError, RemoteCause


def all_errors(kind: type[ComputeError] = ComputeError) -> Iterator[type[ComputeError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from all_errors(child)


KINDS = sorted(set(all_errors()), key=lambda kind: kind.__name__)


class Local(Exception):
    """Cannot be pickled."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.lock = threading.Lock()


def made(kind: type[ComputeError], cause: Exception) -> ComputeError:
    try:
        raise kind("what was wrong", "do this", {"row": 3, "feature": "carrier"}) from cause
    except ComputeError as error:
        error.add_note("a note")
        return error


@pytest.mark.parametrize("kind", KINDS)
def test_it_survives_pickling(kind: type[ComputeError]) -> None:
    error = made(kind, ValueError("the cause"))
    for _ in range(2):
        error = pickle.loads(pickle.dumps(error))
    assert type(error) is kind
    assert (error.detail, error.hint, error.context) == ("what was wrong", "do this", {"row": 3, "feature": "carrier"})
    assert str(error) == "what was wrong. do this"
    assert isinstance(error.__cause__, ValueError)
    assert error.__notes__ == ["a note"]
    problem = json.loads(json.dumps(error.problem()))
    assert (problem["status"], problem["code"]) == (kind.status, kind.code)
    assert type(errors.from_problem(problem)) is kind


def test_a_cause_that_cannot_be_pickled_stays_as_text() -> None:
    # Dask's import changes how exceptions are pickled, in this process from then on.
    tblib.pickling_support.install()
    error = pickle.loads(pickle.dumps(made(errors.TaskFailed, Local(1, "x"))))
    assert isinstance(error.__cause__, RemoteCause)
    assert error.__cause__.kind == "Local"
    assert "1: x" in str(error.__cause__)


def test_codes_and_statuses_are_distinct_facts() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(codes) == len(set(codes))
    assert all(400 <= kind.status < 600 for kind in KINDS)


@pytest.mark.parametrize("kind", [*KINDS])
def test_it_survives_a_trip_through_ray(ray_cluster: str, ray_raises: object, kind: type[ComputeError]) -> None:
    import ray

    with pytest.raises(kind) as caught:
        ray.get(ray_raises.remote(kind))  # type: ignore[attr-defined]
    error = caught.value
    # Ray's own exception, which is of our class as well.
    assert (error.detail, error.hint, error.context["row"]) == ("what was wrong", "do this", 3)
    assert error.problem()["detail"] == "what was wrong. do this"
    assert isinstance(error.cause.__cause__, ValueError)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def ray_raises(ray_cluster: str) -> object:
    import ray

    @ray.remote(max_retries=0, num_cpus=0.1)
    def fail(kind: type[ComputeError]) -> None:
        raise made(kind, ValueError("the cause"))

    return fail
