"""How the requests to a name are shared out among its versions: canaries, experiments, a shadow, and when to go back.

Plain values and decisions, free of I/O: the registry keeps them, the replicas that answer requests follow them.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compute.errors import InvalidField

if TYPE_CHECKING:
    from typing import Self

_MAX_ARMS = 16
SHADOW = "shadow:"
"""Before the target in the counts of a shadow."""

Target = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class Rollback(BaseModel):
    """When an arm is given up. An arm is not blamed for what happens to the arm `to` no less."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: Target = Field(description="The arm that gets the share of one that is given up.")
    error_rate: float | None = Field(None, ge=0, lt=1, description="Share of failed requests, at most.")
    latency: float | None = Field(None, gt=0, description="Seconds of the 95th percentile, at most.")
    min_requests: int = Field(50, ge=1, description="Requests to an arm before it is judged.")
    window: float = Field(60, ge=1, le=3600, description="Seconds that are looked back.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.error_rate is None and self.latency is None:
            raise ValueError("give error_rate, latency, or both")
        return self


class TrafficPlan(BaseModel):
    """Which versions of a name answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arms: dict[Target, Annotated[float, Field(ge=0, le=1e9)]] = Field(
        min_length=1, max_length=_MAX_ARMS, description="Weights of versions (`3`) and aliases (`champion`)."
    )
    shadow: Target | None = Field(None, description="Is asked as well; its answers are compared, never returned.")
    shadow_fraction: float = Field(1.0, gt=0, le=1, description="Share of the requests that the shadow gets.")
    sticky: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$",
        description="Header, or parameter of a V2 request: requests with one value of it get one arm.",
    )
    rollback: Rollback | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not sum(self.arms.values()) > 0:
            raise ValueError("no arm has a weight")
        if self.rollback is not None and self.rollback.to not in self.arms:
            raise ValueError(f"rollback.to is {self.rollback.to!r}, which is none of the arms")
        return self

    @property
    def targets(self) -> frozenset[str]:
        """All versions and aliases that it names."""
        return frozenset(self.arms) | ({self.shadow} if self.shadow is not None else set())


class Traffic(BaseModel):
    """The plan of a name, and how it came to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    plan: TrafficPlan | None = Field(description="None: what the name alone stands for answers.")
    revision: int = Field(ge=1, description="Counts the changes; results are of one revision.")
    changed_at: datetime
    reason: str | None = Field(None, description="Why it was changed, if that was said; a rollback always says.")


def read_plan(value: Mapping[str, Any]) -> TrafficPlan:
    """Return the plan that JSON, or arguments, describe.

    Raises
    ------
    InvalidField
        Naming what is wrong.

    Examples
    --------
    >>> read_plan({"arms": {"champion": 90, "challenger": 10}}).arms
    {'champion': 90.0, 'challenger': 10.0}
    >>> read_plan({"arms": {"champion": -1}})
    Traceback (most recent call last):
    ...
    compute.errors.InvalidField: traffic.arms.champion: Input should be greater than or equal to 0...
    """
    try:
        return TrafficPlan.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["traffic", *map(str, first["loc"])])
        raise InvalidField(
            f"{where}: {first['msg'].removeprefix('Value error, ')}",
            hint='Such as {"arms": {"champion": 90, "challenger": 10}}.',
            context={"field": where},
        ) from None


def pick_arm(plan: TrafficPlan, name: str, key: str | None) -> str:
    """Return the arm that answers a request.

    Parameters
    ----------
    plan : TrafficPlan
        The weights.
    name : str
        Of the model: the same keys fall differently for each name.
    key : str or None
        Requests with one key get one arm, in every process; without a key, chance decides. When weights change, only
        as many keys move as must, and they move to an arm that gained (weighted rendezvous hashing).

    Examples
    --------
    >>> plan = read_plan({"arms": {"1": 80, "2": 20}})
    >>> [pick_arm(plan, "delays", f"user-{number}") for number in range(6)]
    ['1', '1', '2', '1', '1', '1']
    """
    arms = [(target, weight) for target, weight in plan.arms.items() if weight > 0]
    if len(arms) == 1:
        return arms[0][0]
    if key is None:
        return random.choices([target for target, _ in arms], [weight for _, weight in arms])[0]  # noqa: S311

    def score(arm: tuple[str, float]) -> float:
        digest = hashlib.blake2b(f"{name}\0{arm[0]}\0{key}".encode(), digest_size=8).digest()
        return -arm[1] / math.log((int.from_bytes(digest) + 1) / (2**64 + 1))

    return max(arms, key=score)[0]


# Counts: `requests`, `errors`, `latency.<bucket>`; of a shadow also `skipped`, `rows`, `disagreed`, `difference`

Counts = Counter[str]


def latency_bucket(seconds: float) -> str:
    """Return the count that a latency goes into: four to an octave of microseconds.

    Examples
    --------
    >>> latency_bucket(0.001)
    'latency.40'
    """
    return f"latency.{math.ceil(4 * math.log2(max(seconds * 1e6, 1.0)))}"


def latency_quantile(counts: Mapping[str, float], quantile: float) -> float | None:
    """Return the seconds within which a share of the requests was answered; up to a fifth too high, None without any.

    Examples
    --------
    >>> round(latency_quantile({"latency.40": 99, "latency.48": 1}, 0.95), 6)
    0.001024
    """
    buckets = sorted((int(key[8:]), count) for key, count in counts.items() if key.startswith("latency."))
    rank = quantile * sum(count for _, count in buckets)
    for bucket, count in buckets:
        rank -= count
        if rank <= 0:
            return float(1e-6 * 2 ** (bucket / 4))
    return None


def summary(counts: Mapping[str, float]) -> dict[str, Any]:
    """Return what an arm did, for people."""
    requests, errors = int(counts.get("requests", 0)), int(counts.get("errors", 0))
    found: dict[str, Any] = {"requests": requests, "errors": errors}
    found["latency"] = {f"p{round(100 * share)}": latency_quantile(counts, share) for share in (0.5, 0.95, 0.99)}
    if rows := int(counts.get("rows", 0)):
        found["rows"] = rows
        found["disagreed"] = int(counts.get("disagreed", 0))
        found["disagreement"] = found["disagreed"] / rows
        found["mean_difference"] = counts["difference"] / rows if "difference" in counts else None
    if skipped := int(counts.get("skipped", 0)):
        found["skipped"] = skipped
    return found


def judge(plan: TrafficPlan, counts: Mapping[str, Mapping[str, float]]) -> tuple[str, str] | None:
    """Return the arm that has to be given up, and why; None when all are well.

    Parameters
    ----------
    plan : TrafficPlan
        Its `rollback` is the rule.
    counts : mapping
        Of each arm, within the window of the rule.

    Examples
    --------
    >>> rule = {"to": "1", "error_rate": 0.1, "min_requests": 10}
    >>> plan = read_plan({"arms": {"1": 50, "2": 50}, "rollback": rule})
    >>> judge(plan, {"1": {"requests": 90}, "2": {"requests": 20, "errors": 5}})
    ('2', '5 of 20 requests to 2 failed within 60 s, more than 10 %')
    """
    rule = plan.rollback
    if rule is None:
        return None
    base = counts.get(rule.to, {})
    for arm in plan.arms:
        seen = counts.get(arm, {})
        requests = seen.get("requests", 0)
        if arm == rule.to or requests < rule.min_requests:
            continue
        errors = seen.get("errors", 0)
        usual = base.get("errors", 0) / max(base.get("requests", 0), 1)
        if rule.error_rate is not None and errors / requests > max(rule.error_rate, usual):
            told = f"{errors:g} of {requests:g} requests to {arm} failed within {rule.window:g} s"
            return arm, f"{told}, more than {100 * rule.error_rate:g} %"
        slow, usually = latency_quantile(seen, 0.95), latency_quantile(base, 0.95) or 0.0
        if rule.latency is not None and slow is not None and slow > max(rule.latency, usually):
            told = f"the 95th percentile of {requests:g} requests to {arm} within {rule.window:g} s is {slow:.3g} s"
            return arm, f"{told}, more than {rule.latency:g} s"
    return None


def give_up(plan: TrafficPlan, arm: str) -> TrafficPlan:
    """Return the plan with the share of an arm given to the one that `rollback` names.

    Examples
    --------
    >>> plan = read_plan({"arms": {"1": 90, "2": 10}, "rollback": {"to": "1", "error_rate": 0.1}})
    >>> give_up(plan, "2").arms
    {'1': 100.0}
    """
    assert plan.rollback is not None  # else no arm is given up
    arms = {target: weight for target, weight in plan.arms.items() if target != arm}
    arms[plan.rollback.to] += plan.arms[arm]
    return plan.model_copy(update={"arms": arms})
