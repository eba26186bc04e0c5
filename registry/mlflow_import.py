"""Models out of MLflow model directories: XGBoost, LightGBM, scikit-learn by skops, and ONNX; pickles are not opened.

Nothing of MLflow is needed. `yaml` and the libraries of the models are imported when a directory is read.
"""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from pydantic import ValidationError

from compute.errors import DataNotFound, UnsupportedFormat
from registry.mlflow_schema import Schema
from registry.signature import Label, Signature
from registry.soundness import check_lightgbm_text, check_xgboost_json

DESCRIPTION = "tablework.json"
"""What our own exports say about the model beside MLflow's files: all of its signature."""
_MAX_MLMODEL, _MAX_DESCRIPTION, _MAX_JSON = 2**20, 2**26, 2**26
_FLAVOURS = ("xgboost", "lightgbm", "sklearn", "onnx")
_RUN = ("run_id", "model_id", "model_uuid", "mlflow_version", "utc_time_created", "artifact_path", "metadata")


@dataclass(frozen=True)
class MlflowModel:
    """What a directory holds."""

    path: Path
    """A file as `register_file` takes it; gone when the context ends."""
    model_type: str
    lineage: dict[str, Any]
    schema: Schema


@contextmanager
def open_mlflow(directory: str | Path) -> Iterator[MlflowModel]:
    """Read an MLflow model directory.

    Parameters
    ----------
    directory : path-like
        With the file ``MLmodel`` in it. Nothing outside of it is read: no ``..``, no symbolic link is followed.

    Raises
    ------
    DataNotFound
        When it is no such directory.
    UnsupportedFormat
        When the model is pickled, which is told without opening it, or of another flavour.
    """
    root = Path(directory)
    described = _read_description(root)
    flavours = described.get("flavors")
    flavours = flavours if isinstance(flavours, dict) else {}
    known = [name for name in _FLAVOURS if isinstance(flavours.get(name), dict)]
    if not known:
        _refuse(
            f"it has the flavours {', '.join(map(str, flavours)) or 'none':.200}", f"Taken are {', '.join(_FLAVOURS)}."
        )
    flavour, options = known[0], flavours[known[0]]
    _check_serialization(flavour, options)
    path = _inside(root, options.get("pickled_model" if flavour == "sklearn" else "data"))
    lineage = {key: described[key] for key in _RUN if described.get(key) is not None}
    signature, schema = _read_signature(root), described.get("signature")
    with TemporaryDirectory() as scratch:
        classes: tuple[Label, ...] | None = None
        if flavour == "xgboost" and path.suffix == ".json":
            path = _convert_json(path, Path(scratch) / "model.ubj")
        elif flavour == "lightgbm" and path.suffix == ".skops":
            path, classes = _extract_booster(path, Path(scratch) / "model.txt")
        inputs = schema.get("inputs") if isinstance(schema, dict) else None
        yield MlflowModel(
            path, flavour, {"mlflow": _plain(lineage)}, Schema.read(inputs, flavour, path, classes, signature)
        )


def _read_description(root: Path) -> dict[str, Any]:
    import yaml

    path = root / "MLmodel"
    if not path.is_file():
        raise DataNotFound(f"{root} is no MLflow model: it has no file MLmodel", context={"path": str(root)})
    path = _inside(root, "MLmodel")
    if path.stat().st_size > _MAX_MLMODEL:
        _refuse(f"its MLmodel has more than {_MAX_MLMODEL:,} bytes")
    try:
        described = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UnsupportedFormat(f"the MLmodel of the directory is not YAML: {error!s:.300}") from error
    if not isinstance(described, dict):
        _refuse("its MLmodel is no mapping")
    return described


def _inside(root: Path, name: object) -> Path:
    """Return a file of the directory that its description names."""
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or ".." in parts or parts[0] == "/" or "\\" in str(name) or "\0" in str(name):
        _refuse(f"its MLmodel names the file {name!r:.200}", "Files are named by their path within the directory.")
    path = root
    for part in parts:
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError as error:
            raise DataNotFound(f"the MLflow model has no file {name!r:.200}", context={"path": str(path)}) from error
        if stat.S_ISLNK(mode):
            _refuse(f"{name!r:.200} is a symbolic link", "Copy the file itself into the directory.")
    if not stat.S_ISREG(mode):
        _refuse(f"{name!r:.200} is no file")
    return path


def _check_serialization(flavour: str, options: Mapping[str, Any]) -> None:
    name = str(options.get("pickled_model" if flavour == "sklearn" else "data"))
    how = options.get("serialization_format", "cloudpickle" if flavour == "sklearn" else None)
    if name.endswith((".pkl", ".pickle", ".joblib")) or (flavour == "sklearn" and how != "skops"):
        _refuse(
            f"it is a pickle ({how or name!s:.50}), which runs code when it is loaded, and is never opened",
            'Save it by mlflow.sklearn.log_model(model, serialization_format="skops"), or a booster by itself '
            "(mlflow.lightgbm.log_model(model.booster_)), or as ONNX.",
        )
    if options.get("external_data") is not None:
        _refuse(
            "its weights lie in another file", "Save it by mlflow.onnx.log_model(..., save_as_external_data=False)."
        )


def _read_signature(root: Path) -> Signature | None:
    """Return the signature that an export of ours brings."""
    if not (root / DESCRIPTION).is_file():
        return None
    path = _inside(root, DESCRIPTION)
    if path.stat().st_size > _MAX_DESCRIPTION:
        _refuse(f"its {DESCRIPTION} has more than {_MAX_DESCRIPTION:,} bytes")
    try:
        described = json.loads(path.read_bytes())
        if not isinstance(described, dict):
            _refuse(f"its {DESCRIPTION} is no JSON object")
        signature = described["signature"]
        return None if signature is None else Signature.model_validate(signature)
    except (ValidationError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise UnsupportedFormat(f"the {DESCRIPTION} of the directory cannot be read: {error!s:.300}") from error


def _convert_json(path: Path, target: Path) -> Path:
    """Write an XGBoost model in JSON as UBJSON, which is what the registry keeps."""
    import xgboost

    if path.stat().st_size > _MAX_JSON:
        _refuse(f"its JSON has more than {_MAX_JSON:,} bytes", 'Save it with model_format="ubj".')
    check_xgboost_json(path.read_bytes())
    try:
        booster = xgboost.Booster(model_file=path)
        booster.save_model(target)
    except xgboost.core.XGBoostError as error:
        raise UnsupportedFormat(f"the file is not a whole XGBoost model: {error!s:.300}") from error
    return target


def _extract_booster(path: Path, target: Path) -> tuple[Path, tuple[Label, ...]]:
    """Write the text of the booster that a LightGBM estimator in a skops file holds; no object of it is made."""
    import lightgbm

    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("schema.json").file_size > _MAX_JSON * 4:
                _refuse("its booster is too large", "Log the booster by itself: model.booster_.")
            fields = json.loads(archive.read("schema.json"))["content"]["content"]
            booster = fields["_Booster"]["content"]["content"]
            text = str(json.loads(booster["_handle"]["content"]))
            best = int(json.loads(booster["best_iteration"]["content"]))
            classes = _read_array(archive, fields["_classes"]) if "_classes" in fields else ()
        if best > 0:  # training stopped early: what came after it is not used
            check_lightgbm_text(text.encode())
            lightgbm.Booster(model_str=text).save_model(target, num_iteration=best)
        else:
            target.write_text(text, encoding="utf-8", newline="")
    except (
        zipfile.BadZipFile, lightgbm.basic.LightGBMError, LookupError, TypeError, ValueError, RecursionError
    ) as error:  # fmt: skip
        raise UnsupportedFormat(
            f"the file holds no LightGBM estimator as MLflow writes them: {error!r:.200}",
            hint="Log the booster by itself: mlflow.lightgbm.log_model(model.booster_).",
        ) from error
    return target, classes


def _read_array(archive: zipfile.ZipFile, node: Mapping[str, Any]) -> tuple[Label, ...]:
    """Return the values of an array in a skops file: NumPy's own format, or JSON for Python's texts."""
    import numpy as np

    if node["type"] == "json":
        return tuple(json.loads(item["content"]) for item in node["content"])
    with archive.open(node["file"]) as file:
        return tuple(np.lib.format.read_array(file, allow_pickle=False).tolist())


def _plain(value: Any) -> Any:
    """Return what YAML gave as JSON: it has dates too."""
    return json.loads(json.dumps(value, default=str))


def _refuse(problem: str, hint: str = "") -> NoReturn:
    raise UnsupportedFormat(f"the MLflow model cannot be taken: {problem}", hint=hint)
