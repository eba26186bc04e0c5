"""Aliases, deletion and restoring over HTTP, and everything bad that may be said about a model."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from compute import Config
from deployments.tokens import Role
from registry import ModelRegistry, get_model_registry


@pytest.fixture(scope="module")
def registry(ray_cluster: str, served_config: Config) -> ModelRegistry:
    return get_model_registry(served_config)


@pytest.fixture(scope="module")
def register(registry: ModelRegistry) -> Callable[..., str]:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    return lambda name, **options: registry.register_model(model, "linear", name=name, **options)


@pytest.fixture
def name() -> str:
    return f"record-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def http(models_url: str, client: Callable[..., httpx.Client]) -> httpx.Client:
    return client(models_url, Role.ADMIN)


def _problem(response: httpx.Response, status: int, **context: Any) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    for key, value in context.items():
        assert body["context"][key] == value
    return body


def test_an_alias_is_pointed_moved_and_taken_away(http: httpx.Client, register: Callable[..., str], name: str) -> None:
    first, second = register(name), register(name)
    for version, model_id in ((1, first), (2, second), (2, second)):
        answer = http.put(f"/aliases/{name}/champion", json={"version": version})
        assert answer.status_code == 200, answer.text
        assert (answer.json()["model_id"], answer.json()["aliases"]) == (model_id, ["champion"])
        assert http.get(f"/{name}@champion").json() == answer.json()
        assert http.get(f"/{name}").headers["etag"] == answer.headers["etag"]
    assert http.get(f"/{first}").json()["aliases"] == []
    assert http.delete(f"/aliases/{name}/champion").status_code == 204
    _problem(http.delete(f"/aliases/{name}/champion"), 404)
    _problem(http.put(f"/aliases/{name}/champion", json={"version": 3}), 404)
    _problem(http.put("/aliases/nothing-of-this-name/champion", json={"version": 1}), 404)


def test_an_alias_moves_only_if_the_record_is_as_it_was_read(
    http: httpx.Client, register: Callable[..., str], name: str
) -> None:
    model_id = register(name)
    stale = http.get(f"/{model_id}").headers["etag"]
    current = http.patch(f"/{model_id}", json={"step": 1}).headers["etag"]
    path = f"/aliases/{name}/champion"
    _problem(http.put(path, json={"version": 1}, headers={"If-Match": stale}), 412)
    pointed = http.put(path, json={"version": 1}, headers={"If-Match": current})
    assert pointed.status_code == 200
    _problem(http.delete(path, headers={"If-Match": current}), 412)
    assert http.delete(path, headers={"If-Match": pointed.headers["etag"]}).status_code == 204


@pytest.mark.parametrize(
    "body", [{}, {"version": None}, {"version": "1"}, {"version": True}, {"version": 1.5}, {"version": 0}, {"x": 1}, []]
)
def test_a_body_that_names_no_version_is_refused(
    http: httpx.Client, register: Callable[..., str], name: str, body: Any
) -> None:
    register(name)
    _problem(http.put(f"/aliases/{name}/champion", json=body), 422)


def test_a_deleted_model_is_listed_and_restored(http: httpx.Client, register: Callable[..., str], name: str) -> None:
    ids = [register(name) for _ in range(5)]
    http.put(f"/aliases/{name}/champion", json={"version": 1})
    _problem(http.delete(f"/{ids[0]}"), 409, aliases=["champion"])
    for model_id in ids:
        assert http.delete(f"/{model_id}", params={"force": "true"}).status_code == 204
    assert http.get("/", params={"name": name}).json()["models"] == []
    query: dict[str, Any] = {"name": name, "deleted": "true", "limit": 2}
    found: list[dict[str, Any]] = []
    while True:
        page = http.get("/", params=query).json()
        found += page["models"]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert [model["model_id"] for model in found] == ids[::-1]
    assert all(model["deleted_at"] < model["restorable_until"] for model in found)
    _problem(http.get("/", params={"deleted": "true", "status": "active"}), 422, field="deleted")
    _problem(http.get("/", params={"deleted": "true", "cursor": "x"}), 422, field="cursor")

    _problem(http.post(f"/{ids[0]}/restore", headers={"If-Match": '"99"'}), 412, model_id=ids[0])
    revision = found[-1]["revision"]
    restored = http.post(f"/{ids[0]}/restore", headers={"If-Match": f'"{revision}"'})
    assert restored.status_code == 200, restored.text
    assert (restored.json()["version"], restored.json()["aliases"]) == (1, [])
    assert http.get(f"/{ids[0]}").json() == restored.json()
    assert http.post(f"/{ids[0]}/restore").json() == restored.json()
    _problem(http.post("/m-0/restore"), 404)
    assert len(http.get("/", params={"name": name, "deleted": "true"}).json()["models"]) == 4


def test_every_listing_carries_the_aliases(http: httpx.Client, register: Callable[..., str], name: str) -> None:
    register(name)
    http.put(f"/aliases/{name}/champion", json={"version": 1})
    for url, query in (("/", {"name": name}), ("/search", {"q": f'name = "{name}"'})):
        [model] = http.get(url, params=query).json()["models"]
        assert model["aliases"] == ["champion"]


def test_pages_of_a_search_neither_shift_nor_repeat_while_models_are_registered(
    http: httpx.Client, register: Callable[..., str], name: str
) -> None:
    ids = [register(name, metrics={"rmse": float(index % 3)}) for index in range(7)]
    for sort in (None, "metrics.rmse", "-metrics.rmse"):
        query: dict[str, Any] = {"q": f'name = "{name}"', "limit": 2, **({"sort": sort} if sort else {})}
        found: list[str] = []
        while True:
            page = http.get("/search", params=query).json()
            found += [model["model_id"] for model in page["models"]]
            register(f"{name}-more", metrics={"rmse": 1.0})
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        assert sorted(found) == sorted(ids)


def test_a_bad_query_says_where_and_what_was_expected(http: httpx.Client) -> None:
    body = _problem(http.get("/search", params={"q": 'model_type = "xgboost" and metrics.rmse <'}), 422)
    assert isinstance(body["context"]["position"], int)
    assert "expected" in body["detail"]
    _problem(http.get("/search", params={"q": "(" * 1500}), 422)
    _problem(http.get("/search", params={"q": "x" * 3000}), 422)
    for sort in ("metrics", "nothing", "version desc"):
        _problem(http.get("/search", params={"sort": sort}), 422, field="sort")


@pytest.mark.parametrize("path", ["/", "/search", "/events", "/m-0", "/webhooks"])
def test_a_mistake_in_the_name_of_a_query_parameter_is_told(http: httpx.Client, path: str) -> None:
    body = _problem(http.get(path, params={"limitt": "3"}), 422, field="limitt")
    assert body["detail"].startswith("there is no query parameter 'limitt' here")


def test_a_name_where_an_id_is_needed_is_told(http: httpx.Client, register: Callable[..., str], name: str) -> None:
    model_id = register(name)
    for method, path in (("PATCH", f"/{name}"), ("DELETE", f"/{name}"), ("POST", f"/{name}/restore")):
        body = _problem(http.request(method, path, json={"status": "active"}), 404)
        assert model_id in body["detail"]
        assert f"no model of the id '{name}', which is a name" in body["detail"]


# Bad input

TEXTS = {
    "slashes": "a/b",
    "backslashes": "a\\b",
    "up": "../../etc/passwd",
    "dots": "..",
    "nul": "a\0b",
    "newline": "a\nb",
    "control": "a\x1bb",
    "long": "x" * 10_000,
    "emoji": "👩‍🚀",
    "accents": "équipe",
    "bidi": "a\u202eb",
    "space": " a",
    "empty": "",
    "id": "m-" + "0" * 32,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_names_of_paths_forms_and_bodies_are_refused_with_the_rule(
    http: httpx.Client, register: Callable[..., str], name: str, text: str
) -> None:
    register(name)
    if text and text != "..":  # a client takes dots away itself
        quoted = quote(text, safe="")
        for method, path in (("GET", f"/{quoted}"), ("PATCH", f"/{quoted}"), ("GET", f"/{quoted}/artifact")):
            status = http.request(method, path, json={} if method == "PATCH" else None).status_code
            assert status in (404, 422), (method, path, status)
        refused = http.put(f"/aliases/{name}/{quoted}", json={"version": 1})
        assert refused.status_code in ((404,) if "/" in text else (422,)), refused.text
        if refused.status_code == 422 and len(text) < 300:
            assert "A-Z a-z 0-9" in refused.json()["detail"] or "model id" in refused.json()["detail"]
    for field in ("name", "model_type"):
        form = {"model_type": "linear", field: text}
        refused = http.post("/upload", files={"file": b"x"}, data=form)
        assert refused.status_code in (415, 422) if field == "name" and not text else refused.status_code == 422, field
        query = http.post("/upload", params=form, content=b"x", headers={"Content-Type": "application/octet-stream"})
        assert query.status_code in (415, 422), field


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_tags_are_refused_with_the_rule_or_come_back_as_they_went_in(
    http: httpx.Client, register: Callable[..., str], name: str, text: str
) -> None:
    model_id = register(name)
    answer = http.patch(f"/{model_id}", json={"tags": [text]})
    if text in (TEXTS["nul"], TEXTS["newline"], TEXTS["control"], TEXTS["long"], TEXTS["space"], TEXTS["empty"]):
        assert "A tag has 1 to 128" in _problem(answer, 422, field="tags")["detail"]
    else:
        assert answer.json()["tags"] == [text]
        assert http.get(f"/{model_id}").json()["tags"] == [text]
        found = http.get("/", params={"name": name, "tags": text}).json()["models"]
        assert [model["model_id"] for model in found] == [model_id]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_of_json_is_refused(
    http: httpx.Client, register: Callable[..., str], name: str, number: str
) -> None:
    model_id = register(name)
    for body in (f'{{"metrics": {{"rmse": {number}}}}}', f'{{"metadata": {{"x": [{number}]}}}}'):
        assert http.patch(f"/{model_id}", content=body).status_code in (400, 422)
    octets = {"Content-Type": "application/octet-stream"}
    query = {"model_type": "linear", "metrics": f'{{"rmse": {number}}}'}
    assert http.post("/upload", params=query, content=b"x", headers=octets).status_code in (400, 422)
    assert http.get(f"/{model_id}").json()["metrics"] == {}


def test_metadata_that_is_deep_or_large_is_refused_quickly(
    http: httpx.Client, register: Callable[..., str], name: str
) -> None:
    model_id = register(name)
    started = time.monotonic()
    for depth, statuses in ((1_000, (400, 422)), (100_000, (400, 422))):
        for opening, closing in (('{"a":', "}"), ("[", "]")):
            body = '{"metadata": {"x": ' + opening * depth + "1" + closing * depth + "}}"
            answer = http.patch(f"/{model_id}", content=body)
            assert answer.status_code in statuses, answer.text[:300]
            form = {"model_type": "linear", "metadata": '{"x": ' + opening * depth + "1" + closing * depth + "}"}
            refused = http.post("/upload", files={"file": b"x"}, data=form)
            assert refused.status_code in statuses, refused.text[:300]
    large = json.dumps({"metadata": {"x": "y" * 10 * 2**20}})
    _problem(http.patch(f"/{model_id}", content=large), 413)
    _problem(http.patch(f"/{model_id}", json={"metadata": {"x": "y" * 300_000}}), 422)
    form = {"model_type": "linear", "metadata": json.dumps({"x": "y" * 2**20})}
    _problem(http.post("/upload", files={"file": b"x"}, data=form), 413)
    wide = {"metadata": {f"k{index}": index for index in range(50_000)}}
    _problem(http.patch(f"/{model_id}", json=wide), 422)
    assert time.monotonic() - started < 20
    assert http.get(f"/{model_id}").json()["metadata"] == {}


@pytest.mark.parametrize(
    "field",
    ["model_id", "name", "version", "aliases", "model_type", "format", "artifact", "signature", "lineage", "created_at",
     "updated_at", "revision"],
)  # fmt: skip
def test_a_field_that_may_not_change_is_named(
    http: httpx.Client, register: Callable[..., str], name: str, field: str
) -> None:
    model_id = register(name)
    body = _problem(http.patch(f"/{model_id}", json={"status": "archived", field: "x"}), 409, field=field)
    assert f"'{field}'" in body["detail"]
    assert http.get(f"/{model_id}").json()["status"] == "active"
