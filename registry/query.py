"""A small language to find models: ``model_type = "xgboost" and metrics.rmse < 12 and tags contains "fraud"``.

::

    query      = [ either ]                          an empty query finds all
    either     = both { "or" both }
    both       = unary { "and" unary }
    unary      = "not" unary | "(" either ")" | comparison
    comparison = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "contains" ) value
               | field "in" "(" value { "," value } ")"
    field      = name { "." ( name | text ) }        metrics.rmse, metadata.owner, metrics."precision@10"
    value      = text | number | date | "true" | "false" | "null"

Text is in double or single quotes, with JSON's escapes. A date is ``2026-01-31`` or ``2026-01-31T06:00:00Z``; without a
zone it is UTC. ``contains`` looks for an element of a list (``tags``, ``aliases``), or a part of a text. A field that a
model does not have equals ``null``, and no comparison but ``!=`` holds for it. Keywords are written in any case.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, NoReturn

from compute.errors import InvalidField
from registry.fields import FIELDS, LISTS, NUMBERS, OBJECTS, ORDERINGS, TEXTS, TIMES, Path

MAX_QUERY = 4_000
MAX_DEPTH = 32
MAX_COMPARISONS = 64

_KEYWORDS = ("and", "or", "not", "in", "contains", "true", "false", "null")
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<date>\d{4}-\d\d-\d\d(?:[Tt][0-9:.]+(?:[Zz]|[+-]\d\d:?\d\d)?)?)
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<word>[^\W\d][\w-]*)
    | (?P<sign><=|>=|!=|=|<|>|\(|\)|,|\.)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Comparison:
    """One condition on one field."""

    path: Path
    operator: str
    value: Any


@dataclass(frozen=True)
class Group:
    """Conditions that hold all (``and``), or one of them (``or``)."""

    operator: str
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Negation:
    """A condition that does not hold."""

    item: Node


Node = Comparison | Group | Negation


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def parse(query: str) -> Node:
    """Return the tree of a query.

    Raises
    ------
    InvalidField
        With the position of what is wrong, and what was expected there.

    Examples
    --------
    >>> parse('version >= 3')
    Comparison(path=('version',), operator='>=', value=3)
    >>> parse('version >= and')
    Traceback (most recent call last):
    ...
    compute.errors.InvalidField: the query is wrong at position 11: expected a value, found 'and'...
    """
    example = 'Write, for example: model_type = "xgboost" and metrics.rmse < 12 and not tags contains "old".'
    return _Parser(query, "q", example).parse()


def parse_sort(sort: str) -> tuple[Path, bool]:
    """Return the field to sort by, which is written as in a query, and whether the largest come first.

    Examples
    --------
    >>> parse_sort('-metrics."precision@10"')
    (('metrics', 'precision@10'), True)
    """
    text = sort.removeprefix("-") if isinstance(sort, str) else sort
    example = "Write, for example: -created_at or metrics.rmse."
    return _Parser(text, "sort", example).parse_field(), text != sort


class _Parser:
    """Reads a query from left to right, by recursive descent."""

    def __init__(self, query: str, field: str, example: str) -> None:
        self._what = "the query" if field == "q" else field
        self._name, self._example = field, example
        if not isinstance(query, str) or len(query) > MAX_QUERY:
            raise InvalidField(
                f"{self._what} is not a text of at most {MAX_QUERY} characters", hint=example, context={"field": field}
            )
        self._query = query
        self._tokens = self._scan()
        self._next = 0
        self._depth = 0
        self._comparisons = 0

    def parse(self) -> Node:
        if self._peek().kind == "end":
            return Group("and", ())
        node = self._either()
        if self._peek().kind != "end":
            self._refuse('"and", "or" or the end of the query')
        return node

    def parse_field(self) -> Path:
        path = self._field()
        if self._peek().kind != "end":
            self._refuse("the end of the field")
        if path[0] in OBJECTS and len(path) == 1:
            self._refuse(f"a value in {path[0]}, such as {path[0]}.x")
        return path

    def _scan(self) -> list[_Token]:
        tokens, position = [], 0
        while position < len(self._query.rstrip()):
            match = _TOKEN.match(self._query, position)
            start = position + len(self._query[position:]) - len(self._query[position:].lstrip())
            if not match or match.lastgroup is None:
                unclosed = self._query[start] in "\"'"
                self._refuse_at(
                    start, "a closing quote" if unclosed else "a field, an operator or a value", self._query[start:]
                )
            tokens.append(_Token(match.lastgroup, match[match.lastgroup], start))
            position = match.end()
        return [*tokens, _Token("end", "", len(self._query))]

    def _either(self) -> Node:
        items = [self._both()]
        while self._accept("or"):
            items.append(self._both())
        return items[0] if len(items) == 1 else Group("or", tuple(items))

    def _both(self) -> Node:
        items = [self._unary()]
        while self._accept("and"):
            items.append(self._unary())
        return items[0] if len(items) == 1 else Group("and", tuple(items))

    def _unary(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(f"no more than {MAX_DEPTH} levels of parentheses and negations")
        if self._accept("not"):
            node: Node = Negation(self._unary())
        elif self._accept("("):
            node = self._either()
            if not self._accept(")"):
                self._refuse('"and", "or" or ")"')
        else:
            node = self._comparison()
        self._depth -= 1
        return node

    def _comparison(self) -> Comparison:
        start = self._peek()
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            self._refuse(f"no more than {MAX_COMPARISONS} comparisons")
        path = self._field()
        token = self._peek()
        operator = token.text.lower()
        if operator not in ("=", "!=", "<", "<=", ">", ">=", "contains", "in") or token.kind not in ("sign", "word"):
            self._refuse("=, !=, <, <=, >, >=, contains or in")
        self._next += 1
        values = self._values() if operator == "in" else (self._value(),)
        for value in values:
            self._check(path, operator, value, start)
        return Comparison(path, operator, values if operator == "in" else values[0])

    def _field(self) -> Path:
        token = self._peek()
        if token.kind != "word" or token.text.lower() in _KEYWORDS:
            self._refuse('a field, "not" or "("' if self._name == "q" else "a field")
        if token.text not in FIELDS:
            self._refuse(f"one of the fields {', '.join(FIELDS)}")
        self._next += 1
        path = [token.text]
        while self._accept("."):
            part = self._peek()
            if token.text not in OBJECTS or part.kind not in ("word", "text", "number"):
                self._refuse(f"the name of a value in {token.text}" if token.text in OBJECTS else "an operator")
            self._next += 1
            path.append(self._text(part) if part.kind == "text" else part.text)
        return tuple(path)

    def _values(self) -> tuple[Any, ...]:
        if not self._accept("("):
            self._refuse('"("')
        values = [self._value()]
        while self._accept(","):
            values.append(self._value())
        if not self._accept(")"):
            self._refuse('"," or ")"')
        return tuple(values)

    def _value(self) -> Any:
        token = self._peek()
        self._next += 1
        if token.kind == "text":
            return self._text(token)
        if token.kind == "number":
            return float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
        if token.kind == "date":
            try:
                moment = datetime.fromisoformat(token.text.upper())
            except ValueError:
                self._refuse_at(token.position, "a date such as 2026-01-31 or 2026-01-31T06:00:00Z", token.text)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        constants = {"true": True, "false": False, "null": None}
        if token.kind == "word" and token.text.lower() in constants:
            return constants[token.text.lower()]
        quoted = token.kind == "word" and token.text.lower() not in _KEYWORDS
        return self._refuse_at(token.position, "a value (text goes in quotes)" if quoted else "a value", token.text)

    def _check(self, path: Path, operator: str, value: Any, start: _Token) -> None:
        """Refuse a comparison that can never hold because the field is of another kind."""
        name = path[0]
        expected = (
            ("text", str) if name in TEXTS or name in LISTS
            else ("a number", (int, float)) if name in NUMBERS
            else ("a date such as 2026-01-31", date) if name in TIMES
            else None
        )  # fmt: skip
        lists_alone = name in LISTS and operator != "contains"
        if lists_alone:
            self._refuse_at(start.position, f'"contains" after {name}, which is a list', operator)
        if name in OBJECTS and len(path) == 1:
            self._refuse_at(start.position, f"a value in {name}, such as {name}.x", name)
        if operator in ORDERINGS and (isinstance(value, bool) or value is None):
            self._refuse_at(start.position, f"a number, a text or a date after {operator}", json.dumps(value))
        if expected is not None and (isinstance(value, bool) or not isinstance(value, expected[1])):
            self._refuse_at(start.position, f"{expected[0]} to compare {name} with", json.dumps(value, default=str))

    def _text(self, token: _Token) -> str:
        body = token.text[1:-1]
        if token.text[0] == "'":
            body = body.replace("\\'", "'").replace('"', '\\"')
        try:
            return str(json.loads(f'"{body}"', strict=False))
        except ValueError:
            self._refuse_at(token.position, 'a text with the escapes of JSON (\\" \\\\ \\n \\u00e9)', token.text)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _accept(self, text: str) -> bool:
        token = self._peek()
        if token.kind in ("word", "sign") and token.text.lower() == text:
            self._next += 1
            return True
        return False

    def _refuse(self, expected: str) -> NoReturn:
        token = self._peek()
        self._refuse_at(token.position, expected, token.text)

    def _refuse_at(self, position: int, expected: str, found: str) -> NoReturn:
        raise InvalidField(
            f"{self._what} is wrong at position {position}: expected {expected}, found {found[:40]!r}"
            if found
            else f"{self._what} is wrong at position {position}: expected {expected}, but it ends there",
            hint=self._example,
            context={"field": self._name, "position": position, "expected": expected},
        )
