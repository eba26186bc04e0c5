"""A model from outside is tried before it is kept: whether it loads, what it takes, and whether it predicts.

Files that could take this process down are tried in one of their own, with limits on memory and time: large ones, and
ONNX ones of any size, whose graphs are programs that can make huge tensors from a few bytes.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from compute.errors import ResourcesUnavailable, UnsupportedFormat
from registry.custom_formats import open_formats
from registry.derive import derive_signature, derive_task
from registry.formats import load_native
from registry.onnx_model import OnnxModel
from registry.records import Format
from registry.signature import Label, Signature, Task

_LARGE = 256 * 2**20
_MEMORY, _MEMORY_PER_BYTE = 4 * 2**30, 8
"""Of the child's address space: what libraries take, and what their loaders make of the file."""
_SECONDS, _SECONDS_PER_BYTE = 120.0, 2e-7
_SECRET = ("COMPUTE_", "AWS_", "RAY_")
_PROGRAM = "import sys; from registry.trial import main; sys.exit(main(sys.argv[1:]))"
_SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Trial(BaseModel):
    """What a model says about itself."""

    model_config = ConfigDict(frozen=True)

    signature: Signature | None
    width: int | None
    """How many features it takes, if it says."""
    task: Task
    classes: tuple[Label, ...] | None


def examine(native: Any) -> Trial:
    """Return what a native model says about itself.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> examine(LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]))
    Trial(signature=None, width=1, task='regression', classes=None)
    """
    task, classes = derive_task(native)
    return Trial(signature=derive_signature(native), width=_width(native), task=task, classes=classes)


def try_file(path: Path, model_format: Format, custom: tuple[str, ...] = ()) -> Trial:
    """Load a model of unknown origin, and return what it says about itself.

    Parameters
    ----------
    path : Path
        The file.
    model_format : str
        As `detect_format` told.
    custom : tuple of str
        Names of the custom formats that are enabled.

    Raises
    ------
    UnsupportedFormat
        When it cannot be loaded, or its loader crashes, or takes too much memory or time.
    """
    size = path.stat().st_size
    if model_format != "onnx" and size < _LARGE:
        return examine(load_native(model_format, path, foreign=True, custom=open_formats(custom)))
    seconds = _SECONDS + size * _SECONDS_PER_BYTE
    command = [sys.executable, "-c", _PROGRAM, str(path.absolute()), model_format, *custom]
    # Credentials are none of its business.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_SECRET)}
    environment |= {**_SINGLE, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except OSError as error:
        raise ResourcesUnavailable(f"no process could be started to try the model in: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise UnsupportedFormat(f"the model was not loaded within {seconds:.0f} s") from error
    if done.returncode == 0:
        return Trial.model_validate_json(done.stdout)
    if done.returncode > 0 and done.stdout:
        refusal = json.loads(done.stdout)
        raise UnsupportedFormat(refusal["detail"], refusal["hint"], refusal["context"])
    said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [""]
    how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
    raise UnsupportedFormat(
        f"the loader of {model_format} models died of the file ({how}): {said[-1]:.200}",
        hint=f"It may need more than the {_memory(size) >> 30} GiB that it gets, or be damaged.",
    )


def main(arguments: Sequence[str]) -> int:
    """Try the file that the arguments name, in this process, which ends after it; print the answer."""
    path, model_format, custom = Path(arguments[0]), arguments[1], tuple(arguments[2:])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    memory = _memory(path.stat().st_size)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # of Linux: if the whole machine is short of memory, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    with answers:
        try:
            native = load_native(model_format, path, foreign=True, threads=1, custom=open_formats(custom))
            if isinstance(native, OnnxModel):
                native.try_out()
            answers.write(examine(native).model_dump_json())
        except UnsupportedFormat as error:
            json.dump({"detail": error.detail, "hint": error.hint, "context": error.context}, answers)
            return 1
    return 0


def _memory(size: int) -> int:
    return _MEMORY + size * _MEMORY_PER_BYTE


def _width(native: Any) -> int | None:
    for name in ("num_features", "num_feature"):
        if callable(getattr(native, name, None)):
            return int(getattr(native, name)())
    width = getattr(native, "n_features_in_", None)
    return None if width is None else int(width)
