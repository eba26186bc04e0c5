"""Calls made into bytes when they are submitted, and outcomes out of them when they are asked for."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from compute.capture import explain, stamp
from compute.errors import NotSerializable
from compute.wire import Awaited, Call, Pickler, Reply, ReplySlot, Slot, is_atom, loads

_LARGE_FUNCTION = 64 * 1024


class Codec:
    """Makes calls and reads replies for one engine.

    Parameters
    ----------
    pickler : Pickler
        The engine's flavour of cloudpickle.
    put : callable
        The engine's `Backend.put`, for what is too large to travel with every call.
    handles : tuple of type
        What `put` returns: such arguments are replaced by their values in the worker.
    """

    def __init__(self, pickler: Pickler, put: Callable[[Any], Any], handles: tuple[type, ...]) -> None:
        self._pickler = pickler
        self._put = put
        self._handles = handles
        self._functions: weakref.WeakKeyDictionary[Any, tuple[Any, Any]] = weakref.WeakKeyDictionary()

    def encode_function(self, function: Callable[..., Any]) -> Any:
        """Return the function as bytes, or as a handle to them; remembered while nothing it captured changes."""
        mark = stamp(function)
        if mark is not None:
            known = self._functions.get(function)
            if known is not None and known[0] == mark:
                return known[1]
        try:
            blob: Any = self._pickler.dumps(function)
        except Exception as error:
            raise explain(function, self._pickler.dumps, error) from error
        if len(blob) > _LARGE_FUNCTION:
            blob = self._put(blob)
        if mark is not None:
            self._functions[function] = (mark, blob)
        return blob

    def encode_call(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """Return a call of what `encode_function` gave; the arguments are as they are now, whatever becomes of them."""
        if type(function) is bytes and not kwargs:
            for value in args:
                if not is_atom(value):
                    break
            else:
                return Call(pickle.dumps((function, args, kwargs), 5))
        lifted: list[Any] = []
        blob = self._lift(function, lifted)
        lifted_args = [self._lift(value, lifted) for value in args]
        lifted_kwargs = {name: self._lift(value, lifted) for name, value in kwargs.items()}
        try:
            body, buffers, nested = self._pickler.split((blob, lifted_args, lifted_kwargs))
        except Exception as error:
            raise self._explain_arguments(args, kwargs, error) from error
        if buffers:
            lifted.append(self._put(list(buffers)))
        return Call(body, tuple(lifted), tuple(nested), bool(buffers))

    def decode(self, reply: Reply) -> Any:
        """Return the value, or the `RemoteFailure`, of a reply."""
        try:
            return loads(reply.body, reply.buffers, reply.nested)
        except Exception as error:
            raise NotSerializable(
                f"the result cannot be read in this process ({type(error).__name__}: {error})",
                hint="Its classes must be importable here as they are in the worker.",
            ) from error

    def _lift(self, value: Any, lifted: list[Any]) -> Any:
        if type(value) is Awaited:
            lifted.append(value)
            return ReplySlot(len(lifted) - 1)
        if not isinstance(value, self._handles):
            return value
        lifted.append(value)
        return Slot(len(lifted) - 1)

    def _explain_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> NotSerializable:
        for name, value in [*enumerate(args), *kwargs.items()]:
            try:
                self._pickler.split(value)
            except Exception as problem:  # noqa: BLE001  (whatever its class does when it is pickled)
                kind = type(value)
                path = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
                which = f"argument {name + 1}" if isinstance(name, int) else f"the argument {name!r}"
                return NotSerializable(
                    f"{which}, a {path}, cannot be sent to a worker ({type(problem).__name__}: {problem})",
                    hint="Pass what it is made from, and make it inside the function.",
                    context={"argument": name, "type": path},
                )
        return NotSerializable(f"the arguments cannot be sent to a worker ({type(error).__name__}: {error})")
