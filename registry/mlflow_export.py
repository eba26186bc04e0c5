"""Models as MLflow model directories, which predict there as they do here.

A booster takes a matrix; what makes it of raw rows is in our signature, which MLflow has no words for: categories,
times, labels. So the directory brings `registry.mlflow_pyfunc` along, which MLflow's ``pyfunc`` runs. Beside it stands
the flavour of the library, for those who want the booster or the estimator itself. An ONNX model is run by MLflow
alone, and refused if that would predict something else.
"""

from __future__ import annotations

import json
import platform
import shutil
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compute.errors import CapabilityMissing, Conflict, StorageError
from registry.mlflow_import import DESCRIPTION
from registry.onnx_format import load_onnx
from registry.records import ModelRecord
from registry.signature import Column, Signature
from registry.skops_format import needed_types

_MLFLOW_VERSION = "3.0.0"
"""The first whose directories look so."""
_FILES = {
    "xgboost-ubj": "model.ubj",
    "lightgbm-text": "model.lgb",
    "sklearn-skops": "model.skops",
    "onnx": "model.onnx",
}
_PACKAGES = {
    "xgboost-ubj": ("xgboost",), "lightgbm-text": ("lightgbm",), "sklearn-skops": ("scikit-learn", "skops"),
    "onnx": ("onnx", "onnxruntime"),
}  # fmt: skip
_TYPES = {"float": "double", "bool": "boolean", "category": "string", "datetime": "datetime"}


def write_mlflow(record: ModelRecord, path: Path, directory: Path) -> None:
    """Write the directory, which appears whole or not at all.

    Parameters
    ----------
    record : ModelRecord
        The model.
    path : Path
        Its artifact.
    directory : Path
        Is made.

    Raises
    ------
    CapabilityMissing
        When MLflow has no flavour for the format, or would predict something else.
    Conflict
        When the directory exists.
    StorageError
        When it cannot be written.
    """
    if record.format not in _FILES:
        raise CapabilityMissing(f"MLflow has no flavour for the format {record.format!r}")
    try:
        if directory.exists():
            raise Conflict(
                f"{directory} exists", hint="Name a directory that is not there yet.", context={"path": str(directory)}
            )
        directory.parent.mkdir(parents=True, exist_ok=True)
        unfinished = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
        unfinished.mkdir()
        try:
            _write(record, path, unfinished)
            unfinished.rename(directory)
        except BaseException:
            shutil.rmtree(unfinished)
            raise
    except OSError as error:
        raise StorageError(
            f"{directory} cannot be written: {error}",
            hint="Name a directory on a disk with room, where this user may write.",
            context={"path": str(directory)},
        ) from error


def _write(record: ModelRecord, path: Path, directory: Path) -> None:
    import yaml

    file = _FILES[record.format]
    shutil.copyfile(path, directory / file)
    packages = ["mlflow", "numpy", "pandas", *_PACKAGES[record.format]]
    requirements = [
        package if package in ("mlflow", "pandas", "numpy") else f"{package}=={version(package)}"
        for package in packages
    ]
    python = platform.python_version()
    pip = {"build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"], "python": python}
    conda = {
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": requirements}],
        "name": "mlflow-env",
    }
    (directory / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    (directory / "python_env.yaml").write_text(yaml.safe_dump(pip), encoding="utf-8")
    (directory / "conda.yaml").write_text(yaml.safe_dump(conda), encoding="utf-8")
    flavours = _flavours(record, directory / file)
    flavours["python_function"] |= {
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}, "python_version": python
    }  # fmt: skip
    if record.format != "onnx":
        (directory / "code").mkdir()
        shutil.copyfile(Path(__file__).with_name("mlflow_pyfunc.py"), directory / "code" / "tablework_pyfunc.py")
    described = {
        "format": record.format,
        "file": file,
        "signature": None if record.signature is None else record.signature.model_dump(mode="json"),
        "trusted": needed_types(directory / file) if record.format == "sklearn-skops" else [],
    }
    (directory / DESCRIPTION).write_text(json.dumps(described), encoding="utf-8")
    model: dict[str, Any] = {
        "flavors": flavours,
        "metadata": {"model_id": record.model_id, "name": record.name, "version": record.version},
        "mlflow_version": _MLFLOW_VERSION,
        "model_size_bytes": record.artifact.size,
        "model_uuid": uuid.uuid4().hex,
        "utc_time_created": datetime.now(UTC).replace(tzinfo=None).isoformat(" "),
    }
    if (signature := _mlflow_signature(record, directory / file)) is not None:
        model["signature"] = signature
    (directory / "MLmodel").write_text(yaml.safe_dump(model), encoding="utf-8")


def _flavours(record: ModelRecord, path: Path) -> dict[str, dict[str, Any]]:
    """Return the flavour of the library, and that of Python functions."""
    native: dict[str, Any]
    ours: dict[str, Any] = {"code": "code", "loader_module": "tablework_pyfunc"}
    if record.format == "xgboost-ubj":
        native = {
            "code": None, "data": path.name, "model_class": "xgboost.core.Booster", "model_format": "ubj",
            "xgb_version": version("xgboost"),
        }  # fmt: skip
        return {"xgboost": native, "python_function": ours}
    if record.format == "lightgbm-text":
        native = {
            "code": None, "data": path.name, "model_class": "lightgbm.basic.Booster",
            "lgb_version": version("lightgbm"),
        }  # fmt: skip
        return {"lightgbm": native, "python_function": ours}
    if record.format == "sklearn-skops":
        native = {
            "code": None, "pickled_model": path.name, "serialization_format": "skops",
            "sklearn_version": version("scikit-learn"), "skops_trusted_types": needed_types(path),
        }  # fmt: skip
        return {"sklearn": native, "python_function": ours}
    native = {
        "code": None, "data": path.name, "onnx_version": version("onnx"), "onnx_session_options": None,
        "providers": ["CPUExecutionProvider"],
    }  # fmt: skip
    return {"onnx": native, "python_function": {"data": path.name, "loader_module": "mlflow.onnx"}}


def _mlflow_signature(record: ModelRecord, path: Path) -> Mapping[str, Any] | None:
    signature = record.signature
    if record.format == "onnx":
        return _onnx_signature(record, path)
    if signature is None:
        return None
    params = [{"name": "proba", "type": "boolean", "default": False, "shape": None}]
    inputs = [_column(column) for column in signature.columns]
    return {"inputs": json.dumps(inputs), "outputs": None, "params": json.dumps(params)}


def _column(column: Column) -> dict[str, Any]:
    # An integer of MLflow cannot be missing; a column of text, times or booleans can.
    kind = ("double" if column.nullable else "long") if column.dtype == "int" else _TYPES[column.dtype]
    return {"name": column.name, "type": kind, "required": True}


def _onnx_signature(record: ModelRecord, path: Path) -> Mapping[str, Any]:
    """Return what the model takes, when MLflow gives it the same as we do."""
    model = load_onnx(path, threads=1)
    signature = record.signature
    if signature is not None:
        _check_onnx(signature, model.feature_names_in_, model.classes_)
    described = model.signature("regression", None)
    if model.feature_names_in_ is None or described is None:
        tensor = {"dtype": "float32", "shape": [-1, model.n_features_in_]}
        return {"inputs": json.dumps([{"type": "tensor", "tensor-spec": tensor}]), "outputs": None, "params": None}
    return {"inputs": json.dumps([_column(column) for column in described.columns]), "outputs": None, "params": None}


def _check_onnx(signature: Signature, names: Any, classes: Any) -> None:
    lost = [
        column.name
        for column in signature.columns
        if column.dtype == "datetime" or (column.categories is not None and names is None)
    ]
    if lost:
        raise CapabilityMissing(
            f"MLflow gives the ONNX model the feature {lost[0]!r} as it is, and the model takes it as a number",
            hint="Export a model that has this step inside, such as a pipeline of scikit-learn.",
            context={"feature": lost[0]},
        )
    if signature.classes is not None and classes is not None and tuple(signature.classes) != tuple(classes):
        raise CapabilityMissing(
            f"MLflow would give the labels {list(classes)[:5]}, and not {list(signature.classes)[:5]}",
            hint="Train it on the labels themselves.",
        )
