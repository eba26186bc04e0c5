"""A mapping that remembers changes apart from the mapping it shows: a table is forked in no time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Overlay(MutableMapping[K, V], Generic[K, V]):
    """Shows a mapping and takes changes, which the mapping never sees.

    Parameters
    ----------
    base : mapping
        What is below; it must not change while the overlay is in use, and neither must its values.

    Examples
    --------
    >>> base = {"a": 1, "b": 2}
    >>> overlay = Overlay(base)
    >>> overlay["c"] = 3
    >>> del overlay["a"]
    >>> dict(overlay), base
    ({'b': 2, 'c': 3}, {'a': 1, 'b': 2})
    """

    def __init__(self, base: Mapping[K, V]) -> None:
        self._base = base
        self._set: dict[K, V] = {}
        self._deleted: set[K] = set()

    def __getitem__(self, key: K) -> V:
        if key in self._set:
            return self._set[key]
        if key in self._deleted:
            raise KeyError(key)
        return self._base[key]

    def __setitem__(self, key: K, value: V) -> None:
        self._set[key] = value
        self._deleted.discard(key)

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._set.pop(key, None)
        if key in self._base:
            self._deleted.add(key)

    def __contains__(self, key: object) -> bool:
        return key in self._set or (key not in self._deleted and key in self._base)

    def __iter__(self) -> Iterator[K]:
        yield from (key for key in self._base if key not in self._deleted)
        yield from (key for key in self._set if key not in self._base)

    def __len__(self) -> int:
        return len(self._base) - len(self._deleted) + sum(key not in self._base for key in self._set)
