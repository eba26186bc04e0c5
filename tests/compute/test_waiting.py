"""The queue of waiting tasks and what may be in use at once, against a model of both."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from compute.errors import InvalidField
from compute.resources import Limits, Resources, parse_resources
from compute.retry import BASE, LONGEST, pause
from compute.waiting import Usage, WaitingQueue


@dataclass(eq=False)
class Item:
    need: Resources
    priority: int
    queued_at: float


AGE, PATIENCE = 10.0, 5.0
LIMITS = Limits(cpu=4, memory=8, gpu=1)

needs = st.builds(
    Resources,
    cpu=st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 4.0]),
    memory=st.sampled_from([0, 1, 8]),
    gpu=st.sampled_from([0.0, 0.5, 1.0]),
)


class Queueing(RuleBasedStateMachine):
    """Tasks come, are taken back, are handed over and end, while time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue: WaitingQueue[Item] = WaitingQueue(age=AGE, patience=PATIENCE)
        self.usage = Usage(LIMITS)
        self.waiting: list[Item] = []
        self.running: list[Item] = []
        self.blocked: tuple[Item, float] | None = None

    def rank(self, item: Item) -> tuple[float, int]:
        return item.queued_at - AGE * item.priority, self.waiting.index(item)

    @rule(need=needs, priority=st.integers(-3, 3))
    def push(self, need: Resources, priority: int) -> None:
        item = Item(need, priority, self.now)
        self.queue.push(item)
        self.waiting.append(item)

    @rule(seconds=st.floats(0.01, 4))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.waiting))
        self.queue.discard(item)
        self.waiting.remove(item)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.running))
        self.running.remove(item)
        self.usage.give(item.need)

    @rule()
    def hand_over(self) -> None:
        item = self.queue.pop(lambda one: self.usage.fits(one.need), self.now)
        ranked = sorted(self.waiting, key=self.rank)
        fitting = [one for one in ranked if self.usage.fits(one.need)]
        expected = fitting[0] if fitting else None
        if ranked and expected is not ranked[0]:
            # The first in line does not fit: it is passed, but only for so long since that was first seen.
            if self.blocked is None or self.blocked[0] is not ranked[0]:
                self.blocked = (ranked[0], self.now)
            if self.now - self.blocked[1] > PATIENCE:
                expected = None
        elif ranked:
            self.blocked = None
        assert item is expected
        if item is not None:
            self.usage.take(item.need)
            self.waiting.remove(item)
            self.running.append(item)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), suits=st.booleans())
    def send_along(self, data: st.DataObject, suits: bool) -> None:
        like = data.draw(st.sampled_from(self.running))
        item = self.queue.pop_like(like, lambda _: suits)
        alike = [one for one in sorted(self.waiting, key=self.rank) if one.need == like.need]
        assert item is (alike[0] if suits and alike else None)
        if item is not None:
            self.waiting.remove(item)

    @invariant()
    def all_there(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert {id(item) for item in self.queue} == {id(item) for item in self.waiting}

    @invariant()
    def within_limits(self) -> None:
        assert sum(item.need.cpu for item in self.running) <= 4 + 1e-6
        assert sum(item.need.memory for item in self.running) <= 8
        assert sum(item.need.gpu for item in self.running) <= 1 + 1e-6
        assert self.usage.count == len(self.running)


Queueing.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueing = Queueing.TestCase


def queue_of(*items: tuple[str, Resources, int, float]) -> tuple[WaitingQueue[Item], dict[int, str]]:
    queue: WaitingQueue[Item] = WaitingQueue(age=AGE, patience=PATIENCE)
    names: dict[int, str] = {}
    for name, need, priority, queued_at in items:
        item = Item(need, priority, queued_at)
        queue.push(item)
        names[id(item)] = name
    return queue, names


def drain(queue: WaitingQueue[Item], names: dict[int, str]) -> list[str]:
    order = []
    while (item := queue.pop(lambda _: True, now=0.0)) is not None:
        order.append(names[id(item)])
    return order


def test_priority_goes_before_age_until_age_outweighs_it() -> None:
    one = Resources()
    items = [("old", one, 0, 0.0), ("urgent", one, 1, 5.0), ("late and urgent", one, 1, 15.0), ("equal", one, 0, 0.0)]
    assert drain(*queue_of(*items)) == ["urgent", "old", "equal", "late and urgent"]


def test_a_large_task_is_passed_only_for_so_long() -> None:
    large, small = Resources(cpu=4), Resources(cpu=1)
    queue, names = queue_of(("large", large, 0, 0.0), *((f"small {n}", small, 0, 1.0) for n in range(4)))
    usage = Usage(Limits(cpu=4))
    usage.take(small)

    def pop(now: float) -> str | None:
        item = queue.pop(lambda one: usage.fits(one.need), now)
        return None if item is None else names[id(item)]

    assert pop(0.0) == "small 0"
    assert pop(PATIENCE - 1) == "small 1"
    assert pop(PATIENCE + 1) is None
    usage.give(small)
    assert pop(PATIENCE + 2) == "large"
    assert pop(PATIENCE + 3) == "small 2"


def test_what_is_handed_over_ahead_is_work_for_a_moment() -> None:
    usage = Usage(Limits(), ahead=0.1, cpus=2.0)
    quick, one = 0.001, Resources()
    count = 0
    while usage.fits(one, quick):
        usage.take(one, quick)
        count += 1
    assert count == pytest.approx(200, abs=1)
    usage = Usage(Limits(), ahead=0.1, cpus=2.0)
    for _ in range(2):
        assert usage.fits(one, 10.0)
        usage.take(one, 10.0)
    assert not usage.fits(one, quick)


def test_a_cluster_without_cpus_is_shown_one_task_so_that_it_may_grow() -> None:
    usage = Usage(Limits(), ahead=0.1, cpus=0.0)
    assert usage.fits(Resources(), 0.05)
    usage.take(Resources(), 0.05)
    assert not usage.fits(Resources(), 0.05)


def test_fractions_add_up_to_the_whole() -> None:
    usage = Usage(Limits(cpu=1))
    tenth = Resources(cpu=0.1)
    for _ in range(10):
        assert usage.fits(tenth)
        usage.take(tenth)
    assert not usage.fits(tenth)


@given(st.integers(1, 10**6), st.floats(1, 1e12), st.floats(0, 1))
def test_a_pause_is_never_negative_nor_longer_than_the_longest(attempt: int, factor: float, draw: float) -> None:
    assert 0 <= pause(attempt, factor, draw=lambda: draw) <= LONGEST


def test_pauses_grow_by_the_factor() -> None:
    pauses = [pause(attempt, 1.5, draw=lambda: 1.0) for attempt in range(1, 5)]
    assert pauses == pytest.approx([BASE * 1.5**n for n in range(4)])
    assert len({pause(3, 2.0) for _ in range(20)}) > 1


@given(st.dictionaries(st.sampled_from(["cpu", "memory", "gpu", "disk"]), st.floats() | st.integers() | st.text()))
def test_resources_are_understood_or_refused(asked: dict[str, object]) -> None:
    numbers = [value for key, value in asked.items() if key in ("cpu", "gpu")]
    wrong = "disk" in asked or any(not isinstance(value, int | float) or not 0 <= value < 1e9 for value in numbers)
    if wrong:
        with pytest.raises(InvalidField, match="resources"):
            parse_resources(asked)
    elif "memory" not in asked:
        assert parse_resources(asked) == Resources(cpu=asked.get("cpu", 1.0), gpu=asked.get("gpu", 0.0))  # type: ignore[arg-type]
