"""Traffic of a name: who answers, when an arm is given up, and that all of it is kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from compute import Config
from compute.errors import Conflict, InvalidField, ModelNotFound, RevisionMismatch
from registry import ModelRegistry, latency_bucket, open_store, pick_arm
from registry.catalog import ModelCatalog
from registry.traffic import judge, latency_quantile, read_plan

FRAME = pd.DataFrame({"x": [0.0, 1.0, 2.0]})
MODEL = LinearRegression().fit(FRAME, [1.0, 3.0, 5.0])
RULE = {"to": "champion", "error_rate": 0.1, "min_requests": 20}


@pytest.fixture
def registry(local_registry: ModelRegistry) -> ModelRegistry:
    """With the versions 1 and 2 of `line`, champion and challenger."""
    registry = local_registry
    for _ in range(2):
        registry.register_model(MODEL, "linear", name="line", example=FRAME)
    registry.set_alias("line", "champion", 1)
    registry.set_alias("line", "challenger", 2)
    return registry


def test_traffic_is_kept_by_the_journal(registry: ModelRegistry, config: Config) -> None:
    assert registry.traffic() == {}
    assert registry.traffic_results("line")["plan"] is None
    first = registry.set_traffic("line", {"champion": 90, 2: 10}, sticky="X-User", rollback=RULE, reason="a try")
    assert (first.revision, first.reason) == (1, "a try")
    second = registry.set_traffic("line", {"champion": 1}, shadow="challenger", revision=1)
    assert second.revision == 2
    fresh = ModelCatalog(open_store(config.storage.uri, config), snapshot_every=1)
    assert fresh.traffic() == registry.traffic() == {"line": second}
    registry.set_traffic("line", None)
    assert registry.traffic() == {}
    assert registry.set_traffic("line", {"1": 1}).revision == 4
    assert registry.traffic_results("line")["results"] == {"since": None, "arms": {}, "shadow": None}
    kinds = [change for change in registry.changes(after="1.0").changes if change.kind == "model.traffic_changed"]
    assert [change.changed["revision"] for change in kinds] == [1, 2, 3, 4]
    assert (kinds[0].version, kinds[0].changed["reason"]) == (1, "a try")


def test_traffic_survives_a_snapshot(registry: ModelRegistry, config: Config) -> None:
    kept = registry.set_traffic("line", {"champion": 3, "challenger": 1}, rollback=RULE)
    catalog = ModelCatalog(open_store(config.storage.uri, config), snapshot_every=1)
    catalog.set_alias("line", "other", 2, "a change")
    catalog.journal.wait_for_snapshot()
    table = catalog.journal.read(lambda table: table)
    copy = type(table)()
    copy.load(iter(list(table.dump())))
    assert copy.traffic == {"line": kept}
    assert ModelCatalog(open_store(config.storage.uri, config)).traffic() == {"line": kept}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arms": {}}, "at least 1"),
        ({"arms": {"champion": 0}}, "no arm has a weight"),
        ({"arms": {"champion": -1}}, "greater than or equal to 0"),
        ({"arms": {"champion": float("nan")}}, "traffic.arms.champion"),
        ({"arms": {"../x": 1}}, "pattern"),
        ({"arms": {"champion": 1}, "sticky": "a b"}, "traffic.sticky"),
        ({"arms": {"champion": 1}, "shadow_fraction": 0}, "shadow_fraction"),
        ({"arms": {"champion": 1}, "rollback": {"to": "champion"}}, "error_rate, latency, or both"),
        ({"arms": {"1": 1}, "rollback": RULE}, "none of the arms"),
        ({"arms": {"champion": 1}, "rollback": {**RULE, "when": 1}}, "traffic.rollback.when"),
        ({"arms": {"champion": 1}, "reason": 7}, "the reason is not a text"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(registry: ModelRegistry, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidField, match=said):
        registry.set_traffic("line", **options)
    assert registry.traffic() == {}


def test_what_is_not_there_is_refused_and_what_is_used_stays(registry: ModelRegistry) -> None:
    for name, arms in (("line", {"3": 1}), ("line", {"gone": 1}), ("other", {"1": 1})):
        with pytest.raises(ModelNotFound):
            registry.set_traffic(name, arms)
    registry.set_traffic("line", {"champion": 1}, shadow="challenger")
    with pytest.raises(RevisionMismatch):
        registry.set_traffic("line", {"1": 1}, revision=0)
    with pytest.raises(Conflict, match="traffic"):
        registry.set_alias("line", "challenger", None)
    registry.set_alias("line", "challenger", 1)
    registry.set_traffic("line", {"1": 1, "2": 1})
    with pytest.raises(Conflict, match="traffic"):
        registry.delete_model(registry.resolve("line:2").model_id)
    registry.delete_model(registry.resolve("line:2").model_id, force=True)


def test_keys_are_shared_out_by_weight_and_few_move_when_weights_change() -> None:
    keys = [f"user-{number}" for number in range(4000)]
    before = read_plan({"arms": {"1": 90, "2": 10, "3": 0}})
    after = read_plan({"arms": {"1": 70, "2": 30, "3": 0}})
    old, new = ({key: pick_arm(plan, "line", key) for key in keys} for plan in (before, after))
    assert Counter(old.values())["2"] == pytest.approx(400, abs=80)
    assert Counter(new.values())["2"] == pytest.approx(1200, abs=120)
    assert "3" not in old.values()
    assert {(old[key], new[key]) for key in keys if old[key] != new[key]} == {("1", "2")}
    chance = Counter(pick_arm(before, "line", None) for _ in range(4000))
    assert chance["2"] == pytest.approx(400, abs=120)


def test_latencies_are_told_within_a_fifth() -> None:
    for seconds in (1e-6, 3e-4, 0.02, 7.0):
        found = latency_quantile({latency_bucket(seconds): 1}, 0.5)
        assert found is not None
        assert seconds <= found * 1.0001 <= seconds * 1.2
    assert latency_quantile({}, 0.5) is None


def _counts(requests: int, errors: int = 0, seconds: float = 0.001) -> dict[str, float]:
    return {"requests": requests, "errors": errors, latency_bucket(seconds): requests}


def test_an_arm_is_given_up_for_failures_and_slowness_of_its_own() -> None:
    plan = read_plan({"arms": {"champion": 90, "challenger": 10}, "rollback": {**RULE, "latency": 0.1}})
    assert judge(plan, {"champion": _counts(100), "challenger": _counts(100, 10)}) is None
    assert judge(plan, {"champion": _counts(100), "challenger": _counts(10, 10)}) is None  # too few to tell
    verdict = judge(plan, {"champion": _counts(100), "challenger": _counts(100, 11)})
    assert verdict is not None
    assert verdict[0] == "challenger"
    assert "11 of 100" in verdict[1]
    assert judge(plan, {"champion": _counts(100, 40), "challenger": _counts(100, 11)}) is None  # as it goes for all
    assert judge(plan, {"champion": _counts(100, 40), "challenger": _counts(0)}) is None
    slow = judge(plan, {"champion": _counts(100), "challenger": _counts(100, seconds=0.5)})
    assert slow is not None
    assert "95th percentile" in slow[1]
    assert judge(plan, {"champion": _counts(100, seconds=0.6), "challenger": _counts(100, seconds=0.5)}) is None


def test_reports_of_replicas_are_added_up_and_a_bad_arm_is_rolled_back(registry: ModelRegistry) -> None:
    set_ = registry.set_traffic("line", {"champion": 90, "challenger": 10}, shadow="2", rollback=RULE)
    for _ in range(2):  # two replicas
        registry.report_traffic("line", set_.revision, {"champion": _counts(50), "challenger": _counts(9, 9)})
    registry.report_traffic("line", set_.revision - 1, {"champion": _counts(1000)})  # of another time
    shadow = {**_counts(5), "rows": 10, "disagreed": 4, "difference": 1.0}
    registry.report_traffic("line", set_.revision, {"shadow:2": shadow})
    found = registry.traffic_results("line")["results"]
    assert found["arms"]["champion"]["requests"] == 100
    assert found["arms"]["challenger"]["errors"] == 18
    assert found["arms"]["champion"]["latency"]["p95"] == pytest.approx(0.001, rel=0.2)
    assert (found["shadow"]["disagreement"], found["shadow"]["mean_difference"]) == (0.4, 0.1)

    registry.report_traffic("line", set_.revision, {"challenger": _counts(5, 5)})
    told = registry.traffic_results("line")
    assert told["plan"]["arms"] == {"champion": 100.0}
    assert told["revision"] == set_.revision + 1
    assert "23 of 23 requests to challenger failed" in told["reason"]
    registry.report_traffic("line", set_.revision, {"challenger": _counts(500, 500)})  # late: nothing happens
    assert registry.traffic_results("line")["revision"] == set_.revision + 1
