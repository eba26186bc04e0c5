"""scikit-learn estimators by skops: as data and names of types, of which only those on our own list are made.

skops and scikit-learn are imported when an estimator is met.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from compute.errors import UnsupportedFormat

# Types beyond those that skops trusts by itself (scikit-learn's estimators, NumPy's arrays and scalars). None of them
# does anything when it is made; `registry.soundness` keeps the compiled ones from reading beyond their arrays.
TRUSTED = frozenset({
    "numpy.dtype",
    "scipy.interpolate._bsplines.BSpline",
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Matern",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
})  # fmt: skip

_SCHEMA = "schema.json"
_MEMBERS = (".npy", ".npz")
_MAX_UNPACKED = 16 * 2**30
_EPOCH = (1980, 1, 1, 0, 0, 0)


def dump_estimator(estimator: object, path: Path) -> None:
    """Write an estimator into a new file; the same estimator gives the same bytes.

    Raises
    ------
    UnsupportedFormat
        Naming the parts that are not on the list: own classes, own functions.
    """
    import skops.io

    with TemporaryDirectory() as directory:
        file = Path(directory) / "model.skops"
        try:
            skops.io.dump(estimator, file)
        except Exception as error:  # skops passes on whatever a part's own state raises
            raise UnsupportedFormat(
                f"the {type(estimator).__name__} cannot be kept: {error!s:.300}",
                hint="It may be made of scikit-learn's own parts only, with no own functions or classes.",
            ) from error
        needed_types(file, type(estimator).__name__)
        _write_canonical(file, path)


def load_estimator(path: Path) -> Any:
    """Return the estimator in a file.

    Raises
    ------
    UnsupportedFormat
        When it is no skops file, or names types that are not on the list.
    """
    import skops.io

    _check_archive(path)
    trusted = needed_types(path)
    try:
        estimator = skops.io.load(path, trusted=trusted)
    except Exception as error:  # anything may be wrong with a file that was not written by skops
        raise UnsupportedFormat(f"the file is not a whole skops file: {error!s:.300}") from error
    if not hasattr(estimator, "predict"):
        raise UnsupportedFormat(
            f"the file holds a {type(estimator).__name__}, which does not predict",
            hint="Save the fitted estimator, or the pipeline that ends with it.",
        )
    return estimator


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UnsupportedFormat(f"the file is not a whole zip file: {error}") from error
    names = [member.filename for member in members]
    strange = [name for name in names if name != _SCHEMA and PurePosixPath(name).suffix not in _MEMBERS]
    if _SCHEMA not in names or strange:
        raise UnsupportedFormat(
            f"the file is a zip file but not of skops: it holds {', '.join((strange or names)[:5])!r:.200}",
            hint="Pickles, also in zip files (torch, MLflow), are never opened. Save estimators by skops.io.dump.",
        )
    if sum(member.file_size for member in members) > _MAX_UNPACKED:
        raise UnsupportedFormat(f"the file unpacks to more than {_MAX_UNPACKED >> 30} GiB")


def needed_types(path: Path, what: str = "file") -> list[str]:
    """Return the types that a file needs beyond those that skops trusts by itself; all are on our list.

    Raises
    ------
    UnsupportedFormat
        When one is not.
    """
    import skops.io

    try:
        needed = set(skops.io.get_untrusted_types(file=path))
    except Exception as error:  # as above
        raise UnsupportedFormat(f"the {what} is not a whole skops file: {error!s:.300}") from error
    if foreign := sorted(needed - TRUSTED):
        raise UnsupportedFormat(
            f"the {what} needs types that are not trusted: {', '.join(foreign)[:500]}",
            hint="An estimator may be made of scikit-learn's own parts only, with no own functions or classes.",
            context={"types": foreign[:50]},
        )
    return sorted(needed)


def _write_canonical(source: Path, target: Path) -> None:
    """Replace what differs from one dump of a model to the next: addresses of objects, and times of writing."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as written:
        schema = json.loads(archive.read(_SCHEMA))
        numbers: dict[str, int] = {}
        _renumber(schema, numbers)
        names = {_rename(name, numbers): name for name in archive.namelist() if name != _SCHEMA}
        for name in sorted([*names, _SCHEMA]):
            member = zipfile.ZipInfo(name, _EPOCH)
            member.compress_type = zipfile.ZIP_DEFLATED
            content = json.dumps(schema).encode() if name == _SCHEMA else archive.read(names[name])
            written.writestr(member, content, compresslevel=1)


def _renumber(node: Any, numbers: dict[str, int]) -> None:
    if isinstance(node, dict):
        if isinstance(node.get("__id__"), int):
            node["__id__"] = numbers.setdefault(str(node["__id__"]), len(numbers))
        if isinstance(node.get("file"), str):
            numbers.setdefault(PurePosixPath(node["file"]).stem, len(numbers))
            node["file"] = _rename(node["file"], numbers)
        for value in node.values():
            _renumber(value, numbers)
    elif isinstance(node, list):
        for value in node:
            _renumber(value, numbers)


def _rename(file: str, numbers: dict[str, int]) -> str:
    path = PurePosixPath(file)
    return f"{numbers[path.stem]}{path.suffix}"
