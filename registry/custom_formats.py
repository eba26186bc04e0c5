"""Formats of models that other packages bring, and that an operator lets in by name.

A package offers one as an entry point of the group ``registry.formats``, under the format's name::

    [project.entry-points."registry.formats"]
    catboost = "our_formats.catboost"

The entry point names a module or an object with the functions of `CustomFormat`. Its code runs in every process that
keeps or loads a model of the format, so nothing is imported before ``security.custom_formats`` of the configuration
names it. The built-in formats come first: a custom one sees only what they do not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

from compute.errors import ConfigurationError

GROUP = "registry.formats"
BUILT_IN = ("xgboost-ubj", "lightgbm-text", "sklearn-skops", "onnx")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_FUNCTIONS = ("recognises", "takes", "dump", "load")


class CustomFormat(Protocol):
    """What the entry point names."""

    def recognises(self, head: bytes) -> bool:
        """Whether a file that begins with these bytes, 4,096 or all, is of this format."""

    def takes(self, model: object) -> bool:
        """Whether the model can be kept in this format."""

    def dump(self, model: Any, path: Path) -> None:
        """Write the model into a new file; the same model gives the same bytes."""

    def load(self, path: Path, *, foreign: bool) -> Any:
        """Return the model in the file, with scikit-learn's ``predict``.

        If it has ``predict_proba``, ``classes_``, ``n_features_in_`` or ``feature_names_in_``, those are used as
        scikit-learn's are. It must not run code of the file. With ``foreign`` the file comes from outside: raise
        `UnsupportedFormat` of `compute.errors` if it is not sound.
        """


@lru_cache(maxsize=16)
def open_formats(names: tuple[str, ...]) -> Mapping[str, CustomFormat]:
    """Import the formats that an operator enabled.

    Parameters
    ----------
    names : tuple of str
        ``security.custom_formats``.

    Raises
    ------
    ConfigurationError
        When one is not installed, is installed twice, has the name of a built-in one, or lacks a function.

    Examples
    --------
    >>> open_formats(())
    {}
    >>> open_formats(("pickle",))
    Traceback (most recent call last):
    ...
    compute.errors.ConfigurationError: security.custom_formats names 'pickle', which no installed package offers...
    """
    return {name: _open(name) for name in names}


def _open(name: str) -> CustomFormat:
    if name in BUILT_IN or not _NAME.fullmatch(name):
        raise _refusal(
            name,
            "which is built in" if name in BUILT_IN else "which no format can have",
            "Names have lower-case letters, digits and hyphens.",
        )
    offered = entry_points(group=GROUP)
    found = {entry.value: entry for entry in offered if entry.name == name}
    if not found:
        there = ", ".join(sorted({entry.name for entry in offered})) or "none"
        raise _refusal(
            name, "which no installed package offers", f"Install it in every environment; installed are: {there}."
        )
    if len(found) > 1:
        packages = ", ".join(sorted(_package(entry) for entry in found.values()))
        raise _refusal(name, f"which several packages offer: {packages}", "Remove all but one of them.")
    (entry,) = found.values()
    try:
        made: CustomFormat = entry.load()
    except Exception as error:  # whatever the package does when it is imported
        raise _refusal(
            name, f"which cannot be imported from {entry.value}: {error!r:.200}", "Mend the package."
        ) from error
    if lacking := [function for function in _FUNCTIONS if not callable(getattr(made, function, None))]:
        raise _refusal(name, f"which has no {lacking[0]}()", f"{entry.value} needs {', '.join(_FUNCTIONS)}.")
    return made


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def _refusal(name: str, problem: str, hint: str) -> ConfigurationError:
    return ConfigurationError(
        f"security.custom_formats names {name!r}, {problem}", hint=hint, context={"key": "security.custom_formats"}
    )
