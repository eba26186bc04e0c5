"""Where a model came from: its data, its parameters, the software and the job.

numpy is used through the arrays it is given.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from jobs.files import DataFile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Files up to this many bytes together are read once more for their digest (0.1 s), larger ones told by their stamps.
_HASHED = 64 * 2**20
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def data_lineage(source: Mapping[str, Any], arrays: Iterable[npt.NDArray[np.generic]]) -> dict[str, Any]:
    """Return where the data came from, and a digest of it.

    Parameters
    ----------
    source : mapping
        What `Table.lineage` says.
    arrays : iterable of ndarray
        The encoded matrix and target: they are the fingerprint of data that came in memory.

    Examples
    --------
    >>> import numpy as np
    >>> data_lineage({"kind": "frame"}, [np.zeros(3)])["fingerprint"][:15]
    'sha256:9d908ecf'
    """
    files: tuple[DataFile, ...] = source.get("files", ())
    told = {name: value for name, value in source.items() if name != "files"}
    if not files:
        return {**told, "fingerprint": _of_arrays(arrays)}
    total = sum(file.size for file in files)
    told |= {"files": len(files), "bytes": total}
    if total <= _HASHED:
        return {**told, "digest": _of_files(files)}
    return {**told, "fingerprint": _of_stamps(files)}


def job_id() -> str | None:
    """Return the id of the Ray job this process is the driver of, if it was submitted."""
    submitted = json.loads(os.environ.get(_JOB, "{}"))
    found = submitted.get("metadata", {}).get("job_submission_id")
    return str(found) if found else None


def software(libraries: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of the libraries a model was made with.

    Examples
    --------
    >>> sorted(software(["numpy"]))
    ['numpy', 'python']
    """
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}


def _of_files(files: Iterable[DataFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open() as handle:
            while chunk := handle.read(2**20):
                digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _of_stamps(files: Iterable[DataFile]) -> str:
    text = "\n".join(f"{file.path} {file.size} {file.stamp}" for file in files)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _of_arrays(arrays: Iterable[npt.NDArray[np.generic]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        contiguous = array if array.flags.c_contiguous else array.copy(order="C")
        digest.update(contiguous.data.cast("B"))
    return f"sha256:{digest.hexdigest()}"
