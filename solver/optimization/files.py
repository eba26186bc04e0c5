"""Programs in files, by the endings of their names."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from compute.errors import InvalidField, PayloadTooLarge, UnsupportedFormat
from solver.optimization.boolean import read_cnf, read_opb
from solver.optimization.instances import read_project, read_question, read_shop, read_tour
from solver.optimization.lp_format import read_lp
from solver.optimization.model import Model
from solver.optimization.mps import read_mps
from solver.optimization.nonlinear.nl import read_nl
from solver.optimization.program import Program
from solver.optimization.sources import read_source

LIMIT = 512 * 2**20
"""Bytes of a file, unpacked."""

READERS: Mapping[str, Callable[[Iterable[str]], Model]] = {
    ".mps": read_mps,
    ".qps": read_mps,
    ".lp": read_lp,
    ".opb": read_opb,
    ".cnf": read_cnf,
    ".nl": read_nl,
    ".txt": lambda lines: read_source(read_shop(lines)),
    ".rcp": lambda lines: read_source(read_project(lines)),
    ".tsp": lambda lines: read_source(read_tour(lines)),
    ".json": lambda lines: read_source(read_question(lines)),
}
"""By the ending of the name: ``.txt`` are job shops, ``.rcp`` projects, ``.tsp`` round trips."""
_PACKED: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


def read_program(path: Path, limit: int = LIMIT) -> Program:
    """Return the program of arrays in a file, as `read_file` does; refuse a nonlinear one, or one of constraints."""
    program = read_file(path, limit)
    if not isinstance(program, Program):
        raise UnsupportedFormat(f"{path.name!r} has a program of the kind {program.kind}, not one of arrays")
    return program


def read_file(path: Path, limit: int = LIMIT) -> Model:
    """Return the program in a file.

    Parameters
    ----------
    path : Path
        Its name ends in ``.mps``, ``.qps``, ``.lp``, ``.opb``, ``.cnf``, ``.nl``, ``.txt`` (job shops), ``.rcp``
        (projects with resources), ``.tsp`` (round trips) or ``.json`` (a question), perhaps with ``.gz`` or ``.xz``.
    limit : int
        Bytes that it may have, unpacked.

    Raises
    ------
    UnsupportedFormat
        By the name, or when it cannot be unpacked.
    PayloadTooLarge
        When it is larger.
    InvalidField
        With the line that is wrong.

    Examples
    --------
    >>> read_file(Path("model.docx"))
    Traceback (most recent call last):
    ...
    compute.errors.UnsupportedFormat: 'model.docx' is no file of a program, by its name...
    """
    packed = path.suffix.lower()
    kind = Path(path.stem).suffix.lower() if packed in _PACKED else packed
    if kind not in READERS:
        raise UnsupportedFormat(
            f"{path.name!r} is no file of a program, by its name",
            hint=f"Its name ends in {', '.join(READERS)}, perhaps with {' or '.join(_PACKED)} after that.",
        )
    try:
        with path.open("rb") as file:
            source = _PACKED[packed](file) if packed in _PACKED else file
            with io.TextIOWrapper(io.BufferedReader(_Bounded(source, limit, path.name)), encoding="utf-8") as lines:
                return READERS[kind](lines)
    except UnicodeDecodeError as error:
        raise InvalidField(f"{path.name!r} is not text in UTF-8: {error.reason}", context={"field": "uri"}) from error
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UnsupportedFormat(f"{path.name!r} cannot be unpacked: {error}") from error


class _Bounded(io.RawIOBase):
    """The bytes of a stream, as long as they are no more than allowed: a small archive can hold gigabytes."""

    def __init__(self, source: IO[bytes], limit: int, name: str) -> None:
        self._source = source
        self._limit = limit
        self._left = limit
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        data = self._source.read(len(target))
        self._left -= len(data)
        if self._left < 0:
            raise PayloadTooLarge(
                f"{self._name!r} has more than {self._limit:,} bytes, unpacked", context={"limit": self._limit}
            )
        target[: len(data)] = data
        return len(data)
