"""An optimization with inputs in it: the same program again and again, for other numbers.

In ``expressions`` an input stands by its name, in the arrays of a ``model`` as ``{"$input": name}``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from compute.errors import InvalidField
from solver.optimization.arrays import read_arrays
from solver.optimization.expressions import read_expressions
from solver.optimization.program import Program

MARK = "$input"


class Template:
    """A program with inputs.

    Parameters
    ----------
    question : mapping
        ``{"expressions": {...}}`` or ``{"model": {...}}``, as of an optimization.
    names : collection of str
        Of the inputs.

    Examples
    --------
    >>> template = Template(
    ...     {"expressions": {"variables": {"x": {"lower": 0}}, "minimize": "cost*x", "subject_to": ["x >= need"]}},
    ...     ["cost", "need"],
    ... )
    >>> template.program({"cost": 2.0, "need": 5.0}).linear.tolist()
    [2.0]
    """

    def __init__(self, question: Mapping[str, Any], names: Collection[str]) -> None:
        if len(question) != 1 or next(iter(question)) not in ("expressions", "model"):
            raise InvalidField(
                "query_data.optimization is neither of expressions nor of a model",
                hint='It looks like {"expressions": {...}} or {"model": {...}}.',
                context={"field": "query_data.optimization"},
            )
        self._kind, self._body = next(iter(question.items()))
        if not isinstance(self._body, Mapping):
            raise InvalidField("query_data.optimization holds no object", context={"field": "query_data.optimization"})
        variables = self._body.get("variables")
        if self._kind == "expressions" and isinstance(variables, Mapping):
            both = sorted(set(names) & set(variables))
            if both:
                raise InvalidField(
                    f"{both[0]!r} is a variable and an input", context={"field": "query_data.optimization"}
                )
        self._words = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b") if names else None
        self._used: set[str] = set()
        self._filled(self._body, dict.fromkeys(names, 1.0))
        unused = [name for name in names if name not in self._used]
        if unused:
            raise InvalidField(
                f"the input {unused[0]!r} stands nowhere in the optimization",
                hint=f'By its name in expressions, as {{"{MARK}": "{unused[0]}"}} in the arrays of a model.',
                context={"field": "query_data.optimization"},
            )

    def program(self, values: Mapping[str, float]) -> Program:
        """Return the program for these values of the inputs."""
        body = self._filled(self._body, values)
        return read_expressions(body) if self._kind == "expressions" else read_arrays(body)

    def _filled(self, value: Any, values: Mapping[str, float]) -> Any:
        if isinstance(value, str) and self._kind == "expressions" and self._words is not None:
            return self._words.sub(lambda found: self._text(found[1], values), value)
        if isinstance(value, Mapping):
            if MARK in value:
                return self._number(value, values)
            return {key: self._filled(item, values) for key, item in value.items()}
        if isinstance(value, list) and (self._kind == "expressions" or any(isinstance(one, Mapping) for one in value)):
            return [self._filled(item, values) for item in value]
        return value

    def _text(self, name: str, values: Mapping[str, float]) -> str:
        self._used.add(name)
        return f"({values[name]!r})"

    def _number(self, value: Mapping[str, Any], values: Mapping[str, float]) -> float:
        name = value[MARK]
        if set(value) != {MARK} or name not in values:
            raise InvalidField(
                f"there is no input {str(name)[:80]!r}",
                hint=f"There are {', '.join(values)}.",
                context={"field": "query_data.optimization"},
            )
        self._used.add(name)
        return float(values[name])
