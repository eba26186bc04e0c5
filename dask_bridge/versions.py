"""The versions of Dask that the tests prove, and the error for any other.

The bridge leans on how the scheduler and the client behave inside, and dask-on-ray on how graphs look: both change from
release to release.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

from packaging.specifiers import SpecifierSet

from compute.errors import BackendUnavailable

TESTED = ">=2026.8,<2026.9"
"""The same range as in ``pyproject.toml``."""


def check_version(package: str, found: str, where: str) -> None:
    """Refuse a version that the tests do not prove.

    Parameters
    ----------
    package : str
        ``dask`` or ``distributed``.
    found : str
        Its version.
    where : str
        Where it was found, for the message.

    Raises
    ------
    BackendUnavailable
        Naming both.

    Examples
    --------
    >>> check_version("dask", "2026.8.1", "here")
    >>> check_version("dask", "2024.11.0", "here")
    Traceback (most recent call last):
    ...
    compute.errors.BackendUnavailable: dask 2024.11.0 is installed here, and the bridge is tested with ...
    """
    if not SpecifierSet(TESTED, prereleases=True).contains(found):
        raise BackendUnavailable(
            f"{package} {found} is installed {where}, and the bridge is tested with {TESTED}",
            hint=f"Install a tested one: pip install '{package}{TESTED}'.",
            context={"package": package, "version": found, "tested": TESTED},
        )


def check_installed(packages: Iterable[str]) -> None:
    """Refuse the installed versions of packages that the tests do not prove."""
    for package in packages:
        check_version(package, version(package), "here")
