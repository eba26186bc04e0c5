"""What a function carries with it when it is pickled by value: cells, globals, defaults, its object.

Used for two questions: may its pickle be remembered, and which variable is it that cannot be pickled.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from compute.errors import NotSerializable
from compute.wire import ATOMS

Captured = tuple[str, str, Any]
"""How it is held (``"closure"``, ``"global"``, ``"default"``), its name, its value."""


def by_reference(value: Any) -> bool:
    """Whether a function or class is found again by its module and name, in any process.

    Examples
    --------
    >>> import json
    >>> by_reference(json.dumps), by_reference(lambda: None)
    (True, False)
    """
    module = getattr(value, "__module__", None)
    if module is None or module == "__main__":
        return False
    found: Any = sys.modules.get(module)
    for part in getattr(value, "__qualname__", "<locals>").split("."):
        found = getattr(found, part, None)
    return found is value


def captured(function: Callable[..., Any]) -> Iterator[Captured]:
    """Yield what a function holds, in the order in which a reader would look for it."""
    if isinstance(function, functools.partial):
        yield "argument", "func", function.func
        yield from (("argument", str(index), value) for index, value in enumerate(function.args))
        yield from (("argument", name, value) for name, value in function.keywords.items())
    elif isinstance(function, types.MethodType):
        yield "object", "self", function.__self__
        yield from captured(function.__func__)
    elif isinstance(function, types.FunctionType):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            try:
                yield "closure", name, cell.cell_contents
            except ValueError:
                continue
        if not by_reference(function):
            for name in _names(function.__code__):
                if name in function.__globals__:
                    yield "global", name, function.__globals__[name]
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        defaults = function.__defaults__ or ()
        yield from (("default", name, value) for name, value in zip(names[-len(defaults) :], defaults, strict=False))
        yield from (("default", name, value) for name, value in (function.__kwdefaults__ or {}).items())
    elif not isinstance(function, type) and hasattr(function, "__dict__"):
        yield from (("attribute", name, value) for name, value in vars(function).items())


def stamp(function: Callable[..., Any], seen: frozenset[int] = frozenset()) -> tuple[Any, ...] | None:
    """Return a value that changes when what the function carries changes; None when that cannot be told.

    A pickle may be remembered under a stamp. A list or an object may be changed in place without a trace, so a
    function that captured one is pickled anew each time.

    Examples
    --------
    >>> n, held = 1, []
    >>> stamp(eval("lambda: n", {"n": 1})) == stamp(eval("lambda: n", {"n": 1}))
    True
    >>> stamp(eval("lambda: held", {"held": []})) is None
    True
    """
    if type(function) is types.BuiltinFunctionType or by_reference(function):
        return ()
    if type(function) is not types.FunctionType:
        return None
    parts: list[Any] = []
    for _, name, value in captured(function):
        kind = type(value)
        if kind in ATOMS:
            parts.append((name, kind, value))
        elif kind is types.ModuleType or (isinstance(value, type) and by_reference(value)):
            parts.append((name, id(value)))
        elif kind in (types.FunctionType, types.BuiltinFunctionType):
            if id(value) in seen:
                continue
            inner = stamp(value, seen | {id(function)})
            if inner is None:
                return None
            parts.append((name, id(value), inner))
        else:
            return None
    return tuple(parts)


def explain(function: Callable[..., Any], dumps: Callable[[Any], bytes], error: Exception) -> NotSerializable:
    """Return the error that names the captured variable, and its type, that cannot be pickled."""
    label = getattr(function, "__qualname__", type(function).__qualname__)
    found = _culprit(function, dumps, ())
    if found is None:
        return NotSerializable(
            f"the function {label!r} cannot be sent to a worker ({type(error).__name__}: {error})",
            hint="Define it in a module, or make it capture nothing that belongs to this process.",
            context={"function": label},
        )
    path, how, name, value = found
    kind = type(value).__qualname__
    module = type(value).__module__
    kind = kind if module == "builtins" else f"{module}.{kind}"
    through = f" through {' -> '.join(path)}" if path else ""
    return NotSerializable(
        f"the function {label!r} cannot be sent to a worker: its {how} variable {name!r}{through} is a {kind}, "
        f"which cannot be pickled",
        hint=f"Make {name!r} inside the function, or pass what it is made from as an argument.",
        context={"function": label, "variable": name, "type": kind, "held_as": how},
    )


def _culprit(
    function: Callable[..., Any], dumps: Callable[[Any], bytes], path: tuple[str, ...]
) -> tuple[tuple[str, ...], str, str, Any] | None:
    if len(path) > 8:
        return None
    for how, name, value in captured(function):
        if _pickles(value, dumps):
            continue
        if callable(value) and not isinstance(value, type):
            return _culprit(value, dumps, (*path, name)) or (path, how, name, value)
        return path, how, name, value
    return None


def _pickles(value: Any, dumps: Callable[[Any], bytes]) -> bool:
    try:
        dumps(value)
    except Exception:  # noqa: BLE001  (whatever its class does when it is pickled: the answer is no)
        return False
    return True


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
