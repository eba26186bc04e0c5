"""The formats that models are kept in; none can run code when it is loaded, and nothing else is taken.

What a file is, is told from its bytes. The libraries are imported when a model of theirs is met.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, cast

from compute.errors import CapabilityMissing, UnsupportedFormat
from registry.custom_formats import CustomFormat
from registry.onnx_format import dump_onnx, is_onnx, load_onnx
from registry.records import Format
from registry.skops_format import dump_estimator, load_estimator
from registry.soundness import check_estimator, check_lightgbm_text, check_xgboost_ubjson

HEAD = 4096
"""Bytes at the start of a file that tell its format."""

_TAKEN = (
    "Take XGBoost UBJSON (booster.save_model('model.ubj')), LightGBM text (booster.save_model('model.txt')), "
    "scikit-learn by skops (skops.io.dump(estimator, 'model.skops')), or ONNX (onnx.save(model, 'model.onnx'))."
)
_NONE: Mapping[str, CustomFormat] = MappingProxyType({})
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# Protocols 0 and 1 have no signature; these are how pickles of dicts, lists, tuples and objects of theirs begin.
_OLD_PICKLES = (
    b"(dp",
    b"(lp",
    b"(i",
    b"ccopy_reg\n",
    b"cnumpy",
    b"csklearn",
    b"cbuiltins\n",
    b"c__builtin__\n",
    b"cos\n",
    b"cposix\n",
)
_UNPACK: tuple[tuple[bytes, str, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", "gzip", lambda data: _some(zlib.decompressobj(31), data)),
    (b"x", "zlib", lambda data: _some(zlib.decompressobj(), data)),
    (b"BZh", "bz2", lambda data: _some(bz2.BZ2Decompressor(), data)),
    (b"\xfd7zXZ", "xz", lambda data: _some(lzma.LZMADecompressor(), data)),
    (b"]\x00\x00", "lzma", lambda data: _some(lzma.LZMADecompressor(), data)),
)


def dump_model(model: object, path: Path, custom: Mapping[str, CustomFormat] = _NONE) -> Format:
    """Write a fitted model into a new file, and return its format; the same model gives the same bytes.

    Parameters
    ----------
    model : xgboost.Booster or XGBModel, lightgbm.Booster or LGBMModel, fitted scikit-learn estimator, onnx.ModelProto
        Estimators may be made of scikit-learn's own parts only.
    path : Path
        The file.
    custom : mapping
        Formats besides the built-in ones, by name.

    Raises
    ------
    UnsupportedFormat
        For anything else, with the list of what is taken.
    """
    package = _package(model)
    _check_fitted(model)
    if package == "xgboost":
        booster: Any = model.get_booster() if hasattr(model, "get_booster") else model
        if hasattr(booster, "save_raw"):
            with _named(path, ".ubj") as file:
                booster.save_model(file)
            return "xgboost-ubj"
    if package == "lightgbm":
        booster = getattr(model, "booster_", model)
        if hasattr(booster, "save_model"):
            booster.save_model(path)
            return "lightgbm-text"
    if package == "sklearn":
        dump_estimator(model, path)
        return "sklearn-skops"
    if package == "onnx":
        dump_onnx(model, path)
        return "onnx"
    for name, each in custom.items():
        if each.takes(model):
            each.dump(model, path)
            return name
    raise UnsupportedFormat(
        f"a model of the type {type(model).__module__}.{type(model).__qualname__} cannot be kept",
        hint="Give an xgboost.Booster or XGBModel, a lightgbm.Booster or LGBMModel, an estimator of scikit-learn, or "
        "an onnx.ModelProto.",
        context={"type": f"{type(model).__module__}.{type(model).__qualname__}"},
    )


def detect_format(head: bytes, custom: Mapping[str, CustomFormat] = _NONE) -> Format:
    r"""Tell the format from the first bytes of a file.

    Parameters
    ----------
    head : bytes
        The first `HEAD` bytes, or more.
    custom : mapping
        Formats besides the built-in ones, by name; they are asked about what those do not know.

    Raises
    ------
    UnsupportedFormat
        Saying what it is, when that is known: a pickle, also a compressed one, is refused and never unpickled.

    Examples
    --------
    >>> detect_format(b"tree\nversion=v4\\nnum_class=1")
    'lightgbm-text'
    >>> import pickle
    >>> detect_format(pickle.dumps({}))
    Traceback (most recent call last):
    ...
    compute.errors.UnsupportedFormat: the file is a pickle, which runs code when it is loaded...
    """
    if head.startswith(b"{L") and b"learner" in head[:64]:
        return "xgboost-ubj"
    if head.startswith(b"tree\n"):
        return "lightgbm-text"
    if head.startswith(b"PK\x03\x04"):
        return "sklearn-skops"  # or a zip of something else, which is found when it is loaded
    if is_onnx(head):
        return "onnx"
    what = _name(head)
    # A pickle is none, whatever a plugin says.
    if "pickle" not in what and (name := next((name for name in custom if custom[name].recognises(head)), None)):
        return name
    raise _refusal(what)


def load_native(
    model_format: Format,
    path: Path,
    *,
    foreign: bool = False,
    threads: int | None = None,
    custom: Mapping[str, CustomFormat] = _NONE,
) -> Any:
    """Return the native model: a booster, a scikit-learn estimator, an `OnnxModel`, or what a custom format gives.

    Parameters
    ----------
    model_format : str
        As `detect_format` told.
    path : Path
        The file.
    foreign : bool
        It comes from outside: look through its trees, see `registry.soundness`.
    threads : int, optional
        Of an ONNX model, which has to know them now.
    custom : mapping
        Formats besides the built-in ones, by name.

    Raises
    ------
    UnsupportedFormat
        When the bytes are not of this format, or name types that are not trusted.
    CapabilityMissing
        When the format is a custom one that is not enabled here.
    """
    if model_format == "xgboost-ubj":
        if foreign:
            check_xgboost_ubjson(path.read_bytes())
        return _load_xgboost(path)
    if model_format == "lightgbm-text":
        if foreign:
            check_lightgbm_text(path.read_bytes())
        return _load_lightgbm(path)
    if model_format == "sklearn-skops":
        model = load_estimator(path)
        if foreign:
            check_estimator(model)
        return model
    if model_format == "onnx":
        return load_onnx(path, threads)
    if model_format in custom:
        return custom[model_format].load(path, foreign=foreign)
    raise CapabilityMissing(
        f"the model is kept in the format {model_format!r}, which is not enabled here",
        hint="Install the package that brings it, and name it in security.custom_formats.",
        context={"format": model_format},
    )


def _load_xgboost(path: Path) -> Any:
    import xgboost

    booster = xgboost.Booster()
    try:
        with _named(path, ".ubj") as file:
            booster.load_model(file)
    except xgboost.core.XGBoostError as error:
        raise UnsupportedFormat(
            f"the file is not a whole XGBoost model: {str(error).splitlines()[-1]:.200}", hint=_TAKEN
        ) from error
    return booster


def _load_lightgbm(path: Path) -> Any:
    import lightgbm

    try:
        return lightgbm.Booster(model_file=path)
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise UnsupportedFormat(f"the file is not a LightGBM model: {error!s:.200}", hint=_TAKEN) from error


@contextmanager
def _named(path: Path, suffix: str) -> Iterator[Path]:
    """Give the file under a name with the suffix, from which XGBoost tells what is in it."""
    if path.suffix == suffix:
        yield path
        return
    with TemporaryDirectory() as directory:
        link = Path(directory) / f"model{suffix}"
        link.symlink_to(path.absolute())
        yield link


def _check_fitted(model: object) -> None:
    if not hasattr(model, "get_params") or isinstance(model, type):  # a booster comes from training alone
        return
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise UnsupportedFormat(
            f"the {type(model).__name__} is not fitted", hint="Fit it, then register it."
        ) from error


def _package(model: object) -> str:
    """Return the library that a model, or what it is derived from, belongs to."""
    for kind in type(model).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in ("xgboost", "lightgbm"):
            return package
    if type(model).__name__ == "ModelProto" and type(model).__module__.startswith("onnx"):
        return "onnx"
    kinds = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    return "sklearn" if "sklearn" in kinds and hasattr(model, "predict") else ""


def _name(head: bytes) -> str:
    if not head:
        return "empty"
    if head.startswith(_PICKLES) or head.startswith(_OLD_PICKLES):
        return "a pickle"
    for magic, name, unpack in _UNPACK:
        if head.startswith(magic):
            inner = b""
            with suppress(zlib.error, OSError, lzma.LZMAError, EOFError):  # not what its first bytes promised
                inner = unpack(head)
            if inner:
                return f"a pickle, packed by {name}" if _name(inner) == "a pickle" else f"packed by {name}"
    if head.lstrip().startswith(b"{") and b'"learner"' in head:
        return "XGBoost's JSON"
    return "in no format that is known"


def _some(decompressor: Any, data: bytes) -> bytes:
    return cast("bytes", decompressor.decompress(data, 64))


def _refusal(what: str) -> UnsupportedFormat:
    warning = ", which runs code when it is loaded, and is never opened" if "pickle" in what else ""
    return UnsupportedFormat(f"the file is {what}{warning}", hint=_TAKEN)
