"""Formats of other packages: nothing of them is imported before an operator names them, and then they are like ours."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from compute import Config
from compute.errors import CapabilityMissing, ConfigurationError, UnsupportedFormat
from registry import ModelRegistry, client, get_model_registry, trial
from registry.cache import ModelCache
from registry.custom_formats import open_formats

pytestmark = [pytest.mark.parametrize("config", ["directory"], indirect=True), pytest.mark.usefixtures("installed")]

PACKAGE = '''
"""Lines through points: a format for tests."""
import json, os, sys
from pathlib import Path
import numpy as np
from compute.errors import UnsupportedFormat

Path(__file__).with_suffix(".imported").touch()

class Line:
    n_features_in_ = 1
    def __init__(self, slope):
        self.slope = slope
    def predict(self, table):
        return np.asarray(table, dtype="float64")[:, 0] * self.slope

class Sign(Line):
    classes_ = np.array(["minus", "plus"])
    def predict(self, table):
        return self.classes_[(super().predict(table) > 0).astype(int)]
    def predict_proba(self, table):
        plus = (super().predict(table) > 0).astype(float)
        return np.column_stack([1 - plus, plus])

def recognises(head):
    return head.startswith(b"line:") or b"pickle" in head or head.startswith(b"\\x80")
def takes(model):
    return isinstance(model, Line)
def dump(model, path):
    path.write_text(f"line:{type(model).__name__}:{model.slope}")
def load(path, *, foreign):
    head, kind, slope = path.read_text().split(":")
    if kind == "crash":
        print("some noise of a library", flush=True)
        os.abort()
    if kind not in ("Line", "Sign") or (foreign and not slope):
        raise UnsupportedFormat(f"{kind} is no line", "Draw one.", {"kind": kind})
    print("some noise of a library", flush=True)
    return {"Line": Line, "Sign": Sign}[kind](float(slope))
'''


def install(site: Path, package: str, entries: str, code: str = "") -> None:
    """Put a package into a directory as an installer does."""
    info = site / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[registry.formats]\n{entries}\n")
    (site / f"{package}.py").write_text(code)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with packages that are installed for this test."""
    site = tmp_path / "site"
    install(site, "test_lines", "test-line = test_lines", PACKAGE)
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "test_lines", raising=False)
    open_formats.cache_clear()
    return site


def enabling(config: Config, *names: str) -> Config:
    return config.model_copy(update={"security": config.security.model_copy(update={"custom_formats": names})})


@pytest.fixture
def enabled(config: Config, local_registry: ModelRegistry) -> ModelRegistry:
    return get_model_registry(enabling(config, "test-line"))


def test_what_is_not_enabled_is_never_imported(local_registry: ModelRegistry, installed: Path, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("line:Line:2.0")
    with pytest.raises(UnsupportedFormat):
        local_registry.register_file(tmp_path / "model", "line")
    with pytest.raises(UnsupportedFormat):
        local_registry.register_model(object(), "line")
    assert not (installed / "test_lines.imported").exists()


def test_models_go_in_and_come_out(enabled: ModelRegistry, tmp_path: Path) -> None:
    from test_lines import Line, Sign  # type: ignore[import-not-found]

    table = pd.DataFrame({"x": [-1.0, 3.0]})
    by_object = enabled.register_model(Line(2.0), "line", example=table)
    (tmp_path / "model").write_text("line:Line:2.0")
    by_file = enabled.register_file(tmp_path / "model", "line")
    assert enabled.get_model(by_file).format == "test-line"
    assert enabled.get_model(by_file).artifact == enabled.get_model(by_object).artifact
    assert enabled.load_model(by_object).predict(table).tolist() == [-2.0, 6.0]
    assert enabled.load_model(by_file).predict(np.array([[4.0]])).tolist() == [8.0]
    loaded = enabled.load_model(enabled.register_model(Sign(1.0), "sign", example=table))
    assert loaded.record.signature is not None
    assert loaded.record.signature.classes == ("minus", "plus")
    assert loaded.predict(table).tolist() == ["minus", "plus"]
    assert loaded.predict(table, proba=True).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_its_own_refusals_and_those_of_others(enabled: ModelRegistry, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("line:Curve:2.0")
    with pytest.raises(UnsupportedFormat, match="Curve is no line"):
        enabled.register_file(tmp_path / "model", "line")
    (tmp_path / "model").write_bytes(pickle.dumps({"a": 1}))  # which the plugin says it knows
    with pytest.raises(UnsupportedFormat, match="is a pickle"):
        enabled.register_file(tmp_path / "model", "line")
    assert enabled.list_models() == []


def test_large_files_are_tried_in_a_process_of_their_own(
    enabled: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader that crashes, refuses or prints does so there."""
    monkeypatch.setattr(trial, "_LARGE", 1)
    (tmp_path / "model").write_text("line:Sign:2.0")
    record = enabled.get_model(enabled.register_file(tmp_path / "model", "line"))
    assert record.format == "test-line"
    (tmp_path / "model").write_text("line:Curve:2.0")
    with pytest.raises(UnsupportedFormat, match=r"Curve is no line\. Draw one\.") as caught:
        enabled.register_file(tmp_path / "model", "line")
    assert caught.value.context == {"kind": "Curve"}
    (tmp_path / "model").write_text("line:crash:2.0")
    with pytest.raises(UnsupportedFormat, match="SIGABRT"):
        enabled.register_file(tmp_path / "model", "line")
    monkeypatch.setattr(trial, "_SECONDS", 0.05)
    with pytest.raises(UnsupportedFormat, match="was not loaded within"):
        enabled.register_file(tmp_path / "model", "line")


def test_a_record_outlives_its_plugin(
    enabled: ModelRegistry, local_registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_lines import Line

    model_id = enabled.register_model(Line(2.0), "line", name="line")
    monkeypatch.setattr(client, "_cache", ModelCache())  # as in another process
    with pytest.raises(CapabilityMissing, match=r"'test-line', which is not enabled here.*security\.custom_formats"):
        local_registry.load_model(model_id)
    assert local_registry.list_models()[0].format == "test-line"
    assert [record.model_id for record in local_registry.search_models('format = "test-line"').models] == [model_id]
    local_registry.update_model_metadata(model_id, {"status": "archived"})
    local_registry.delete_model(model_id)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("onnx", "which is built in"),
        ("../evil", "which no format can have"),
        ("unheard-of", "no installed package offers.*installed are: .*test-line"),
        ("twice", "several packages offer: test_one, test_two"),
        ("broken", "cannot be imported from test_broken"),
        ("lacking", r"which has no recognises\(\)"),
    ],
)
def test_what_cannot_be_enabled_is_named(config: Config, installed: Path, name: str, problem: str) -> None:
    install(installed, "test_one", "twice = test_one\nonnx = test_one")
    install(installed, "test_two", "twice = test_two")
    install(installed, "test_broken", "broken = test_broken", "raise RuntimeError('no licence')")
    install(installed, "test_lacking", "lacking = test_lacking")
    with pytest.raises(ConfigurationError, match=problem) as caught:
        get_model_registry(enabling(config, "test-line", name))
    assert caught.value.context == {"key": "security.custom_formats"}
