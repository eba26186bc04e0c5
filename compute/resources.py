"""What a task takes while it runs, and what there is of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from compute.config import parse_bytes
from compute.errors import InvalidField


class Resources(NamedTuple):
    """CPUs, bytes of memory and GPUs; fractions of the first and last are allowed.

    Examples
    --------
    >>> str(Resources(2, 2**30, 0))
    '2 CPUs, 1 GiB of memory'
    """

    cpu: float = 1.0
    memory: int = 0
    gpu: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.cpu:g} CPU{'' if self.cpu == 1 else 's'}"]
        if self.memory:
            parts.append(f"{_size(self.memory)} of memory")
        if self.gpu:
            parts.append(f"{self.gpu:g} GPU{'' if self.gpu == 1 else 's'}")
        return ", ".join(parts)


class Limits(NamedTuple):
    """What may be in use at once; None: as much as there is.

    Examples
    --------
    >>> Limits(cpu=2).shortage(Resources(cpu=3))
    '3 CPUs of 2'
    """

    cpu: float | None = None
    memory: int | None = None
    gpu: float | None = None

    def shortage(self, need: Resources) -> str | None:
        """Say what of a need is more than there is; None when it fits."""
        if self.cpu is not None and need.cpu > self.cpu:
            return f"{need.cpu:g} CPUs of {self.cpu:g}"
        if self.memory is not None and need.memory > self.memory:
            return f"{_size(need.memory)} of memory of {_size(self.memory)}"
        if self.gpu is not None and need.gpu > self.gpu:
            return f"{need.gpu:g} GPUs of {self.gpu:g}"
        return None

    def smaller(self, other: Limits) -> Limits:
        """Return the stricter of two limits, for each resource."""
        return Limits(
            *(b if a is None else a if b is None else min(a, b) for a, b in zip(self, other, strict=True)),  # type: ignore[arg-type]
        )


DEFAULT = Resources()


def parse_resources(asked: Mapping[str, object] | None) -> Resources:
    """Return what ``submit_task(resources=...)`` names.

    Examples
    --------
    >>> parse_resources({"cpu": 0.5, "memory": "2g"})
    Resources(cpu=0.5, memory=2147483648, gpu=0.0)
    >>> parse_resources({"cores": 2})
    Traceback (most recent call last):
    ...
    compute.errors.InvalidField: resources has the unknown key 'cores'. Known are cpu, memory and gpu.
    """
    if not asked:
        return DEFAULT
    values: dict[str, float | int] = {}
    for key, value in asked.items():
        if key == "memory":
            try:
                values[key] = parse_bytes(value)
            except ValueError as error:
                raise InvalidField(f"resources['memory'] is {value!r}", hint=f"Give {error}.") from None
        elif key in ("cpu", "gpu"):
            # Not NaN and not infinite either: both fail the comparison.
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
                raise InvalidField(f"resources[{key!r}] is {value!r}", hint="Give a number, 0 or more.")
            values[key] = float(value)
        else:
            raise InvalidField(f"resources has the unknown key {key!r}", hint="Known are cpu, memory and gpu.")
    return Resources(**values)  # type: ignore[arg-type]


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
