"""The formats that models are kept in; none can run code when it is loaded, and nothing else is taken.

What a file is, is told from its bytes. xgboost, lightgbm, scikit-learn and skops are imported when a model of theirs is
met.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from compute.errors import UnsupportedFormat
from registry.records import Format
from registry.skops_format import dump_estimator, load_estimator
from registry.soundness import check_estimator, check_lightgbm_text, check_xgboost_ubjson

HEAD = 4096
"""Bytes at the start of a file that tell its format."""

_TAKEN = (
    "Take XGBoost UBJSON (booster.save_model('model.ubj')), LightGBM text (booster.save_model('model.txt')), "
    "or scikit-learn by skops (skops.io.dump(estimator, 'model.skops'))."
)
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


def dump_model(model: object) -> tuple[Format, bytes]:
    """Return the format and the bytes of a fitted model; the same model gives the same bytes.

    Parameters
    ----------
    model : xgboost.Booster or XGBModel, lightgbm.Booster or LGBMModel, or fitted scikit-learn estimator
        Estimators may be made of scikit-learn's own parts only.

    Raises
    ------
    UnsupportedFormat
        For anything else, with the list of what is taken.
    """
    package = _package(model)
    _check_fitted(model)
    if package == "xgboost":
        booster = model.get_booster() if hasattr(model, "get_booster") else model
        if hasattr(booster, "save_raw"):
            return "xgboost-ubj", bytes(booster.save_raw("ubj"))
    if package == "lightgbm":
        booster = getattr(model, "booster_", model)
        if hasattr(booster, "model_to_string"):
            return "lightgbm-text", booster.model_to_string().encode()
    if package == "sklearn":
        return "sklearn-skops", dump_estimator(model)
    raise UnsupportedFormat(
        f"a model of the type {type(model).__module__}.{type(model).__qualname__} cannot be kept",
        hint="Give an xgboost.Booster or XGBModel, a lightgbm.Booster or LGBMModel, or an estimator of scikit-learn.",
        context={"type": f"{type(model).__module__}.{type(model).__qualname__}"},
    )


def detect_format(head: bytes) -> Format:
    r"""Tell the format from the first bytes of a file.

    Parameters
    ----------
    head : bytes
        The first `HEAD` bytes, or more.

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
    raise _refusal(_name(head))


def load_native(model_format: Format, data: bytes, *, foreign: bool = False) -> Any:
    """Return the native model: an xgboost.Booster, a lightgbm.Booster or a scikit-learn estimator.

    Parameters
    ----------
    model_format : str
        As `detect_format` told.
    data : bytes
        The whole file.
    foreign : bool
        It comes from outside: look through its trees, see `registry.soundness`.

    Raises
    ------
    UnsupportedFormat
        When the bytes are not of this format, or name types that are not trusted.
    """
    loaders: dict[Format, Callable[[bytes], Any]] = {
        "xgboost-ubj": _load_xgboost, "lightgbm-text": _load_lightgbm, "sklearn-skops": load_estimator,
    }  # fmt: skip
    if foreign and model_format == "xgboost-ubj":
        check_xgboost_ubjson(data)
    if foreign and model_format == "lightgbm-text":
        check_lightgbm_text(data)
    model = loaders[model_format](data)
    if foreign and model_format == "sklearn-skops":
        check_estimator(model)
    return model


def _load_xgboost(data: bytes) -> Any:
    import xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(data))
    except xgboost.core.XGBoostError as error:
        raise UnsupportedFormat(
            f"the file is not a whole XGBoost model: {str(error).splitlines()[-1]:.200}", hint=_TAKEN
        ) from error
    return booster


def _load_lightgbm(data: bytes) -> Any:
    import lightgbm

    try:
        return lightgbm.Booster(model_str=data.decode())
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise UnsupportedFormat(f"the file is not a LightGBM model: {error!s:.200}", hint=_TAKEN) from error


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
