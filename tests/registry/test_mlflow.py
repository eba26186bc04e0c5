"""Models from MLflow's directories, as MLflow 3.17 wrote those in ``mlflow_models``; none reads what lies outside.

What MLflow makes of our exports is seen in ``tests/mlflow``, in an environment that has it.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import yaml

from compute import Config
from compute.errors import CapabilityMissing, Conflict, DataNotFound, UnsupportedFormat
from registry import ModelRegistry, Signature, capture_signature, mlflow_pyfunc
from tests.environment import environment

pytestmark = pytest.mark.parametrize("config", ["directory"], indirect=True)

MODELS = Path(__file__).with_name("mlflow_models")
# What tests/mlflow/write_models.py had MLflow predict.
SHOWN = pd.DataFrame({"amount": [0.5, 1.5, 2.5, 3.5] * 3, "count": [1, 2, 3] * 4})
PREDICTIONS = json.loads((MODELS / "predictions.json").read_text())


@pytest.mark.parametrize("name", ["lightgbm", "onnx", "sklearn-skops", "xgboost", "xgboost-estimator", "xgboost-json"])
def test_what_mlflow_wrote_is_taken(local_registry: ModelRegistry, name: str) -> None:
    loaded = local_registry.load_model(local_registry.import_mlflow(MODELS / name, name=name))
    record, signature = loaded.record, loaded.record.signature
    assert record.model_type == name.partition("-")[0]
    assert record.lineage["mlflow"]["mlflow_version"].startswith("3.")
    assert record.lineage["mlflow"].get("metadata") == ({"team": "ops"} if name == "xgboost" else None)
    assert signature is not None
    if name != "onnx":
        assert [(c.name, c.dtype, c.nullable) for c in signature.columns] == [
            ("amount", "float", True), ("count", "int", False),
        ]  # fmt: skip
    found = loaded.predict(SHOWN.to_numpy() if name == "onnx" else SHOWN)
    if signature.task == "regression":
        np.testing.assert_allclose(found, PREDICTIONS[name])
    else:
        assert found.tolist() == PREDICTIONS[name]


def test_pickles_are_refused_unread(local_registry: ModelRegistry, tmp_path: Path) -> None:
    shutil.copytree(MODELS / "sklearn-cloudpickle", tmp_path / "model")
    (tmp_path / "model" / "model.pkl").unlink()  # it is refused before anyone looks whether it is there
    with pytest.raises(UnsupportedFormat, match="never opened") as caught:
        local_registry.import_mlflow(tmp_path / "model")
    assert "skops" in caught.value.hint


def test_a_pickle_under_another_name_is_refused(local_registry: ModelRegistry, tmp_path: Path) -> None:
    shutil.copytree(MODELS / "xgboost", tmp_path / "model")
    (tmp_path / "model" / "model.ubj").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnsupportedFormat, match="is a pickle"):
        local_registry.import_mlflow(tmp_path / "model")


def change(directory: Path, **changes: Any) -> None:
    """Change the description of a model: of its first flavour, or by the name of a top-level key."""
    described = yaml.safe_load((directory / "MLmodel").read_text())
    flavour = next(value for key, value in described["flavors"].items() if key != "python_function")
    for key, value in changes.items():
        if key in flavour:
            flavour[key] = value
        else:
            described[key] = value
    (directory / "MLmodel").write_text(yaml.safe_dump(described))


@pytest.mark.parametrize(
    "name",
    [
        "../outside.ubj",
        "/etc/passwd",
        "..\\outside.ubj",
        "a/../../outside.ubj",
        "",
        None,
        7,
        "link.ubj",
        "sub/model.ubj",
        ".",
    ],
)
def test_nothing_outside_of_the_directory_is_read(local_registry: ModelRegistry, tmp_path: Path, name: Any) -> None:
    directory = tmp_path / "model"
    shutil.copytree(MODELS / "xgboost", directory)
    shutil.copy(MODELS / "xgboost" / "model.ubj", tmp_path / "outside.ubj")
    (directory / "link.ubj").symlink_to(tmp_path / "outside.ubj")
    (directory / "sub").symlink_to(MODELS / "xgboost")
    change(directory, data=name)
    with pytest.raises(UnsupportedFormat):
        local_registry.import_mlflow(directory)
    assert local_registry.list_models() == []


def test_other_directories_are_refused(local_registry: ModelRegistry, tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="no file MLmodel"):
        local_registry.import_mlflow(tmp_path)
    (tmp_path / "MLmodel").symlink_to(MODELS / "xgboost" / "MLmodel")
    with pytest.raises(UnsupportedFormat, match="symbolic link"):
        local_registry.import_mlflow(tmp_path)
    (tmp_path / "MLmodel").unlink()
    for text, problem in (
        ("!!python/object/apply:os.system ['true']", "not YAML"), ("- a\n- b", "no mapping"),
        ("a: [" * 5000, "not YAML"), ("{}", "flavours none"),
        ("x" * 2**21, "more than"), ("flavors: {tensorflow: {}, python_function: {}}", "flavours tensorflow"),
        ("flavors: {onnx: {data: model.onnx, external_data: model.onnx.data}}", "another file"),
        ("flavors: {sklearn: {pickled_model: model.bin}}", "never opened"),
    ):  # fmt: skip
        (tmp_path / "MLmodel").write_text(text)
        with pytest.raises(UnsupportedFormat, match=problem):
            local_registry.import_mlflow(tmp_path)
    (tmp_path / "MLmodel").write_text("flavors: {xgboost: {data: model.ubj}}")
    with pytest.raises(DataNotFound, match=r"no file 'model\.ubj'"):
        local_registry.import_mlflow(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ('[{"type": "binary", "name": "amount"}, {"type": "long", "name": "count"}]', "'binary' as 'amount'"),
        ('[{"type": "string", "name": "amount"}, {"type": "long", "name": "count"}]', "text 'amount'"),
        ('[{"type": {"array": "x"}, "name": "amount"}]', "as 'amount'"),
        ("[1, 2]", "cannot be read"),
        ("{", "cannot be read"),
        ('[{"type": "tensor", "name": "x", "tensor-spec": {"dtype": "float32", "shape": [-1, 3, 8]}}]', "as 'x'"),
    ],
)
def test_signatures_that_cannot_be_taken(
    local_registry: ModelRegistry, tmp_path: Path, inputs: str, problem: str
) -> None:
    shutil.copytree(MODELS / "xgboost", tmp_path / "model")
    change(tmp_path / "model", signature={"inputs": inputs})
    with pytest.raises(UnsupportedFormat, match=problem):
        local_registry.import_mlflow(tmp_path / "model")


@pytest.mark.parametrize(("early", "kind"), [(False, "str"), (False, "object"), (True, "str")])
def test_estimators_of_lightgbm(local_registry: ModelRegistry, tmp_path: Path, early: bool, kind: str) -> None:
    """MLflow writes them by skops, with types of LightGBM: the booster is taken out, and no object is made."""
    table = pd.DataFrame(
        {"carrier": pd.Categorical(["UA", "AA", "DL"] * 40, ["UA", "AA", "DL"]), "amount": np.arange(120) % 7}
    )
    word = np.where((table["carrier"] == "AA") | (table["amount"] == 6), "late", "fine").astype(kind)
    model = lightgbm.LGBMClassifier(n_estimators=6, min_child_samples=5, learning_rate=1.0, verbosity=-1, n_jobs=1)
    target = (word == "late").astype(int) if early else word
    if early:  # by the opposite of what it learns, so at once
        stop = lightgbm.early_stopping(1, verbose=False)
        model.fit(table, target, eval_X=(table,), eval_y=(1 - target,), callbacks=[stop])
        assert model.best_iteration_ == 1
    else:
        model.fit(table, target)
    (tmp_path / "MLmodel").write_text(
        yaml.safe_dump(
            {
                "flavors": {"lightgbm": {"data": "model.skops", "serialization_format": "skops"}},
                "signature": {
                    "inputs": json.dumps(
                        [{"type": "string", "name": "carrier"}, {"type": "long", "name": "amount", "required": True}]
                    )
                },
            }
        )
    )
    skops.io.dump(model, tmp_path / "model.skops")
    loaded = local_registry.load_model(local_registry.import_mlflow(tmp_path))
    assert loaded.record.format == "lightgbm-text"
    assert loaded.record.signature is not None
    assert loaded.record.signature.columns[0].categories == ("UA", "AA", "DL")
    assert loaded.record.signature.classes == ((0, 1) if early else ("fine", "late"))
    assert loaded.predict(table).tolist() == model.predict(table).tolist()
    np.testing.assert_array_equal(loaded.predict(table, proba=True), model.predict_proba(table))


def test_what_is_given_goes_before_what_is_found(local_registry: ModelRegistry) -> None:
    signature = capture_signature(SHOWN.assign(late=True, other=1)[["amount", "count"]])
    model_id = local_registry.import_mlflow(
        MODELS / "xgboost", "boosted", {"a": 1}, ["t"], "named", signature=signature, lineage={"job": "j"},
        metrics={"rmse": 1.0}, idempotency_key="k",
    )  # fmt: skip
    record = local_registry.get_model(model_id)
    assert (record.model_type, record.name, record.tags, record.metadata) == ("boosted", "named", ("t",), {"a": 1})
    assert record.signature == signature
    assert set(record.lineage) == {"job", "mlflow"}


# Export


@pytest.mark.parametrize("name", ["lightgbm", "onnx", "sklearn-skops", "xgboost"])
def test_an_export_is_taken_back_as_it_was(local_registry: ModelRegistry, tmp_path: Path, name: str) -> None:
    record = local_registry.get_model(local_registry.import_mlflow(MODELS / name))
    local_registry.export_mlflow(record.model_id, tmp_path / "deep" / "exported")
    again = local_registry.get_model(local_registry.import_mlflow(tmp_path / "deep" / "exported"))
    assert (again.artifact, again.signature, again.format) == (record.artifact, record.signature, record.format)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["exported"]
    with pytest.raises(Conflict, match="exists"):
        local_registry.export_mlflow(record.model_id, tmp_path / "deep" / "exported")
    if name != "onnx":
        rows = SHOWN.astype({"count": "int64"})
        predictor = mlflow_pyfunc._load_pyfunc(str(tmp_path / "deep" / "exported"))
        np.testing.assert_array_equal(predictor.predict(rows), local_registry.load_model(record.model_id).predict(rows))


def test_what_mlflow_would_predict_otherwise_is_not_exported(local_registry: ModelRegistry, tmp_path: Path) -> None:
    times = Signature.model_validate(
        {
            "columns": [{"name": "t", "dtype": "datetime"}, {"name": "x", "dtype": "float"}],
            "task": "binary",
            "classes": [0, 1],
        }
    )
    model_id = local_registry.import_mlflow(MODELS / "onnx", signature=times)
    with pytest.raises(CapabilityMissing, match="'t'"):
        local_registry.export_mlflow(model_id, tmp_path / "exported")
    words = times.model_copy(update={"columns": times.columns[1:] * 1, "classes": ("a", "b")})
    columns = tuple(times.columns[1].model_copy(update={"name": name}) for name in ("x", "y"))
    model_id = local_registry.import_mlflow(MODELS / "onnx", signature=words.model_copy(update={"columns": columns}))
    with pytest.raises(CapabilityMissing, match="labels"):
        local_registry.export_mlflow(model_id, tmp_path / "exported")
    assert list(tmp_path.glob("*exported*")) == []


@pytest.mark.slow
def test_the_command(config: Config, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "registry.mlflow", *arguments]
        return subprocess.run(command, env=environment(config), capture_output=True, text=True, check=False)

    taken = run("import", str(MODELS / "xgboost"), "--name", "delays", "--tag", "mlflow")
    assert (taken.returncode, taken.stderr) == (0, "")
    given = run("export", "delays:1", str(tmp_path / "out"))
    assert (given.returncode, given.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert (tmp_path / "out" / "MLmodel").exists()
    refused = run("import", str(MODELS / "sklearn-cloudpickle"))
    assert refused.returncode == 1
    assert "never opened" in refused.stderr
    (tmp_path / "file").write_text("")
    taken_places = {"out": "exists", "file": "exists", "file/out": "cannot be written"}
    for place, message in taken_places.items():
        refused = run("export", "delays:1", str(tmp_path / place))
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
        assert message in refused.stderr
    (tmp_path / "bad.json").write_text('{"storage": {"url": "x"}}')
    environment_of_bad = {**environment(config), "COMPUTE_CONFIG": str(tmp_path / "bad.json")}
    command = [sys.executable, "-m", "registry.mlflow", "export", "delays:1", str(tmp_path / "b")]
    refused = subprocess.run(command, env=environment_of_bad, capture_output=True, text=True, check=False)
    assert (refused.returncode, "storage.url" in refused.stderr, "Traceback" in refused.stderr) == (1, True, False)
