"""Names, tags, metadata, metrics: either valid, and then they come back as they went in, or refused with the rule."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.errors import InvalidField
from registry import Artifact, FileStore
from registry.admission import check_fields
from registry.catalog import ModelCatalog
from registry.limits import MAX_JSON, check_id, check_json, check_metrics, check_name, check_tags, merge
from registry.models import Draft, new_id

HOSTILE = [
    "",
    " ",
    "a/b",
    "../../etc/passwd",
    "..",
    "a\0b",
    "a" * 10_000,
    "a\nb",
    "a b",
    "é",
    "🦆",
    "a@b",
    "a:1",
    "-a",
    ".a",
    "a%2fb",
    "a\\b",
    "<script>",
    "a?b",
    "a#b",
    "\ud800",
    "\u202ea",
    "m-" + "0" * 32,
]


@pytest.mark.parametrize("name", [*HOSTILE, None, 5, b"a", ["a"]])
def test_names_that_are_refused(name: Any) -> None:
    with pytest.raises(InvalidField) as caught:
        check_name(name)
    assert caught.value.context == {"field": "name"}
    assert caught.value.hint
    str(caught.value).encode()  # it can be sent


@pytest.mark.parametrize("name", ["a", "A1", "flight-delays.v2_x", "9", "a..b", "x" * 128])
def test_names_that_are_taken(name: str) -> None:
    assert check_name(name) == name


@given(st.text())
def test_every_tag_comes_back_or_is_refused(tag: str) -> None:
    try:
        [checked] = check_tags([tag])
    except InvalidField:
        return
    assert checked == tag
    assert json.loads(json.dumps(checked).encode()) == tag
    assert tag.strip() == tag
    assert "\n" not in tag
    assert "\0" not in tag


@pytest.mark.parametrize("tag", ["", " a", "a ", "a\0", "a\nb", "\x1b[31m", "\ud800", "x" * 129, 5, None, "\u2028"])
def test_tags_that_are_refused(tag: Any) -> None:
    with pytest.raises(InvalidField, match="tags"):
        check_tags(["fine", tag])


@pytest.mark.parametrize(
    "tag", ["fraud", "équipe 7", "🦆", "👩‍🚒", "a/b", "..", "key=value", "a,b", '"quoted"', "العربية"]
)
def test_tags_that_are_taken(tag: str) -> None:
    assert check_tags([tag, tag]) == (tag,)


@pytest.mark.parametrize("tags", ["fraud", b"x", 5, {"a": 1}, [f"t{n}" for n in range(65)]])
def test_lists_of_tags_that_are_refused(tags: Any) -> None:
    with pytest.raises(InvalidField, match="tags"):
        check_tags(tags)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(KEYS, JSON, max_size=5))
def test_json_comes_back_as_it_was(value: dict[str, Any]) -> None:
    checked = check_json(value, "metadata")
    assert checked == value
    assert json.loads(json.dumps(checked)) == value
    assert checked is not value


def nested(depth: int, *, lists: bool = False) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if lists else {"a": value}
    return value if not lists else {"a": value}


def test_depth_and_size_have_limits() -> None:
    assert check_json(nested(16), "metadata") == nested(16)
    for deep in (nested(17), nested(1000), nested(100_000), nested(1000, lists=True)):
        with pytest.raises(InvalidField, match="16 deep"):
            check_json(deep, "metadata")
    own: dict[str, Any] = {}
    own["self"] = own
    with pytest.raises(InvalidField, match="16 deep"):
        check_json(own, "metadata")
    with pytest.raises(InvalidField, match=f"at most {MAX_JSON:,}"):
        check_json({"a": "x" * (10 * 2**20)}, "metadata")


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": math.nan}, "metadata.a"),
        ({"a": [1, {"b": -math.inf}]}, r"metadata.a\[1\].b"),
        ({"a": {1, 2}}, "metadata.a"),
        ({1: 2}, "metadata"),
        ({"": 1}, "metadata"),
        ({"a": b"x"}, "metadata.a"),
        ({"a": object()}, "metadata.a"),
        ({"a": "\ud800"}, "metadata.a"),
        ({"\ud800": 1}, "metadata"),
        ([1], "metadata"),
        ("x", "metadata"),
        ({"a": np.array([1])}, "metadata.a"),
        ({"k" * 257: 1}, "metadata"),
    ],
)
def test_json_that_is_refused_says_where(value: Any, place: str) -> None:
    with pytest.raises(InvalidField, match=rf"^{place} ") as caught:
        check_json(value, "metadata")
    str(caught.value).encode()
    json.dumps(caught.value.context).encode()


def test_numpy_scalars_become_numbers() -> None:
    checked = check_json(
        {"a": np.int64(3), "b": np.float32(0.5), "c": np.bool_(True), "d": (np.str_("x"),)}, "metadata"
    )
    assert checked == {"a": 3, "b": 0.5, "c": True, "d": ["x"]}
    assert [type(value) for value in checked.values()] == [int, float, bool, list]


def test_metrics_are_finite_numbers_in_groups() -> None:
    assert check_metrics({"rmse": 1, "baseline": {"rmse": np.float64(2.5)}}) == {"rmse": 1.0, "baseline": {"rmse": 2.5}}
    for bad in (
        {"a": math.nan},
        {"a": math.inf},
        {"a": "1"},
        {"a": True},
        {"a": None},
        {"a": [1]},
        {"a": {"b": {"c": 1}}},
        {"a": 10**400},
        {"a": 2**53 + 1},
    ):
        with pytest.raises(InvalidField, match=r"metrics\.a"):
            check_metrics(bad)
    with pytest.raises(InvalidField, match="more than 1000"):
        check_metrics({f"m{number}": number for number in range(1001)})


def test_ids() -> None:
    assert check_id("m-" + "0" * 32)
    for bad in ("m-0", "../x", None, "m-" + "g" * 32, "m-" + "0" * 32 + "\n"):
        with pytest.raises(InvalidField):
            check_id(bad)


def test_merge_removes_by_null() -> None:
    assert merge({"a": 1, "b": None, "c": 3}, {"a": None, "d": 4}) == {"b": None, "c": 3, "d": 4}


ANY_TEXT = st.text(st.characters(), max_size=140) | st.sampled_from(
    ["../../etc/passwd", "a\0b", "🦆", "a/b", "..", "x" * 10_000, "\x1b[31m", "\u202e", "\ud800", "'; drop", '"', "\\"]
)  # fmt: skip
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"[A-Za-z0-9._-]{1,20}", fullmatch=True) | ANY_TEXT,
        "tags": st.lists(ANY_TEXT, max_size=3),
        "metadata": st.dictionaries(ANY_TEXT, JSON | st.floats() | ANY_TEXT, max_size=3),
        "metrics": st.dictionaries(ANY_TEXT, st.floats() | st.integers(-(2**70), 2**70), max_size=3),
        "idempotency_key": ANY_TEXT,
    },
)


@settings(max_examples=150, deadline=None)
@given(FIELDS)
def test_what_is_taken_comes_back_after_a_restart_and_is_found(fields: dict[str, Any]) -> None:
    given = {"name": None, "tags": None, "metadata": None, "metrics": None, "idempotency_key": None, **fields}
    try:
        checked = check_fields(model_type="t", lineage=None, **given)
    except InvalidField as error:
        refusal = error  # either outcome is right
    else:
        refusal = None
    if refusal is not None:
        assert refusal.hint  # the rule
        assert refusal.context["field"].split(".")[0] in fields
        json.dumps(refusal.problem()).encode()
        return
    artifact = Artifact(digest="sha256:" + "0" * 64, size=1)
    draft = Draft(model_id=new_id(), format="xgboost-ubj", artifact=artifact, **checked)
    with tempfile.TemporaryDirectory() as directory:
        record = ModelCatalog(FileStore(directory)).register(draft)
        again = ModelCatalog(FileStore(directory))
        assert again.get(record.model_id) == record
        assert again.register(draft) == record
        assert record.name == (fields["name"] if given["name"] is not None else "t")
        assert list(record.tags) == list(dict.fromkeys(fields.get("tags", [])))
        assert record.metadata == fields.get("metadata", {})
        assert record.metrics == fields.get("metrics", {})
        found = {
            "name": record.name,
            **{f"metadata.{json.dumps(key)}": value for key, value in record.metadata.items()},
        }
        for field, value in found.items():
            if isinstance(value, str) and len(value) < 1000:
                assert again.search(f"{field} = {json.dumps(value)}").models == [record]
        for tag in record.tags:
            assert again.search(f"tags contains {json.dumps(tag)}").models == [record] == again.list(tags=[tag])
        files = [path.name for path in Path(directory).rglob("*") if path.is_file()]
        assert files == ["00000000000000000001.json"]
