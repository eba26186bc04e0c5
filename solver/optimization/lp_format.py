"""Programs in CPLEX's LP format, which most solvers write: a text that people can read.

https://www.ibm.com/docs/en/icos/22.1.1?topic=cplex-lp-file-format-algebraic-representation
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, NoReturn

from compute.errors import InvalidField
from solver.optimization.builder import Builder
from solver.optimization.program import Program

_HEADERS = {
    "minimize": "objective", "minimum": "objective", "min": "objective", "minimise": "objective",
    "maximize": "objective", "maximum": "objective", "max": "objective", "maximise": "objective",
    "subject to": "constraints", "such that": "constraints", "st": "constraints", "s.t.": "constraints",
    "st.": "constraints", "bounds": "bounds", "bound": "bounds",
    "general": "integers", "generals": "integers", "gen": "integers", "integer": "integers", "integers": "integers",
    "semi-continuous": "semicontinuous", "semi": "semicontinuous", "semis": "semicontinuous", "sec": "semicontinuous",
    "sos": "sets", "sos1": "sets", "sos2": "sets",
    "int": "integers", "binary": "binaries", "binaries": "binaries", "bin": "binaries", "end": "end",
}  # fmt: skip
_REFUSED = {
    "lazy constraints": "lazy constraints", "user cuts": "user cuts", "general constraints": "general constraints",
    "pwlobj": "piecewise linear objectives", "indicators": "indicator constraints in a section of their own",
}  # fmt: skip
_FIRST = r"[A-Za-z!\"#$%&(),;?@_'`{}~]"
_TOKEN = re.compile(
    rf"""\s*(?:
      (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<arrow>->)
    | (?P<sense><=|=<|>=|=>|<|>|=)
    | (?P<sign>[-+*/^:\[\]])
    | (?P<name>{_FIRST}[A-Za-z0-9!\"#$%&(),.;?@_'`{{}}~|]*(?:\[[A-Za-z0-9_,.]*\])*)
    )""",
    re.VERBOSE,
)
_INFINITE = frozenset({"inf", "infinity"})
_SENSES = {"<=": "<", "=<": "<", "<": "<", ">=": ">", "=>": ">", ">": ">", "=": "="}
_TURNED = {"<": ">", ">": "<", "=": "="}


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def read_lp(lines: Iterable[str]) -> Program:
    """Return the program that the lines of an LP file describe.

    Raises
    ------
    InvalidField
        With the number of the line, and what was expected there.

    Examples
    --------
    >>> program = read_lp('''Maximize
    ...  profit: 3 x + 2 y - [ x ^2 + 2 x * y ] / 2
    ... Subject To
    ...  limit: x + y <= 4
    ...  -1 <= x - y <= 1
    ... Bounds
    ...  x <= 3
    ...  y free
    ... General
    ...  x
    ... End'''.splitlines())
    >>> program.kind, program.row_lower.tolist(), program.upper.tolist(), program.quadratic.coefficients.tolist()
    ('MIQP', [-inf, -1.0], [3.0, inf], [-0.5, -1.0])
    """
    return _Reader(lines).read()


class _Reader:
    def __init__(self, lines: Iterable[str]) -> None:
        self._sections = _split(lines)
        self._tokens: list[_Token] = []
        self._next = 0
        self._program = Builder()
        self._named: set[str] = set()
        self._bounded: set[tuple[int, str]] = set()

    def read(self) -> Program:
        take: dict[str, Callable[[], None]] = {
            "objective": self._objective,
            "constraints": self._constraint,
            "bounds": self._bound,
            "integers": self._integer,
            "binaries": self._binary,
            "semicontinuous": self._semicontinuous,
            "sets": self._set,
        }
        last = ""
        for section, word, tokens in self._sections:
            last = section
            if section == "end":
                break
            self._tokens, self._next = [*tokens, _Token("end", "", tokens[-1].line if tokens else 0)], 0
            if section == "objective":
                self._program.maximize = word.startswith("max")
                self._objective()
                continue
            while self._peek().kind != "end":
                take[section]()
        if last != "end":
            raise InvalidField("the last line of the LP file is not End: the file is cut off", context={"field": "uri"})
        return self._program.program()

    # Sections

    def _objective(self) -> None:
        self._name()
        if self._peek().kind == "end":
            return  # any feasible point will do
        terms, constant = self._expression(quadratic=True)
        self._program.objective = terms
        for variable, _ in terms:
            self._program.place(variable)
        self._program.offset = constant
        if self._peek().kind != "end":
            self._refuse("a sign, or the next section")

    def _constraint(self) -> None:
        line, name = self._peek().line, self._name()
        if name in self._named:
            _wrong(line, f"it names the constraint {name[:60]!r} again")
        if name:
            self._named.add(name)
        if [token.kind for token in self._tokens[self._next : self._next + 4]] == ["name", "sense", "number", "arrow"]:
            self._condition()
        left, constant = self._expression()
        sense = self._sense()
        if left:
            # A number alone: what follows it with a sign is the next constraint.
            side = self._required() - constant
            low, high = -math.inf if sense == "<" else side, math.inf if sense == ">" else side
            self._program.add(left, low, high, name)
            return
        terms, other = self._expression()
        sense, low, high = _TURNED[sense], -math.inf, math.inf
        first, second = constant - other, None
        if self._peek().kind == "sense":
            # A range: number, expression, number.
            if sense != _TURNED[self._sense()] or sense == "=":
                self._refuse("the same comparison twice, as in -1 <= x + y <= 1")
            second = self._required() - other
        if sense in ">=":
            low, high = first, math.inf if second is None else second
        if sense in "<=":
            low, high = low if sense == "=" else (-math.inf if second is None else second), first
        self._program.add(terms, low, high, name)

    def _bound(self) -> None:
        first = self._number()
        if first is not None:
            sense = self._sense()
            place = self._variable()
            self._limit(place, _TURNED[sense], first)
            if self._peek().kind == "sense":
                self._limit(place, self._sense(), self._required())
            return
        place = self._variable()
        token = self._peek()
        if token.kind == "name" and token.text.lower() == "free":
            self._next += 1
            self._limit(place, ">", -math.inf)
            self._limit(place, "<", math.inf)
            return
        sense = self._sense()
        self._limit(place, sense, self._required())

    def _integer(self) -> None:
        self._program.integer[self._variable()] = True

    def _binary(self) -> None:
        place = self._variable()
        self._program.integer[place] = True
        self._program.lower[place], self._program.upper[place] = 0.0, 1.0

    def _condition(self) -> None:
        """Take what is before the arrow of an indicator constraint."""
        place = self._variable()
        if self._sense() != "=" or (value := self._required()) not in (0.0, 1.0):
            self._refuse("a variable that is 0 or 1, = and one of these before ->")
        self._take("arrow", "->")
        self._program.indicators.append((self._program.height, place, value == 1.0))

    def _semicontinuous(self) -> None:
        self._program.semicontinuous.append(self._variable())

    def _set(self) -> None:
        if self._tokens[min(self._next + 2, len(self._tokens) - 1)].text != ":":
            self._name()
        kind = self._take("name", "S1:: or S2::").text.upper()
        if kind not in ("S1", "S2") or [self._take("sign", "::").text for _ in "::"] != [":", ":"]:
            self._refuse("S1:: or S2::, after the name of the set, if it has one")
        members: list[tuple[float, int]] = []
        while self._peek().kind == "name" and self._tokens[self._next + 1].text == ":":
            if self._tokens[self._next + 2].kind != "number":
                break  # the name of the next set
            place = self._variable()
            self._next += 1
            members.append((self._required(), place))
        self._program.sets.append((int(kind[1]), tuple(place for _, place in sorted(members))))

    # Their parts

    def _name(self) -> str:
        token, after = self._peek(), self._tokens[min(self._next + 1, len(self._tokens) - 1)]
        if token.kind == "name" and after.text == ":":
            self._next += 2
            return token.text
        return ""

    def _expression(self, *, quadratic: bool = False) -> tuple[list[tuple[str, float]], float]:
        """Return terms and constant; quadratic terms go to the objective."""
        terms: list[tuple[str, float]] = []
        constant, begun = 0.0, False
        while True:
            sign, signed = self._signs()
            token = self._peek()
            if token.text == "[":
                if not quadratic:
                    self._refuse("a linear expression; only the objective may have products of variables")
                self._squares(sign)
            elif token.kind in ("number", "name"):
                factor = self._number()
                factor = sign if factor is None else sign * factor
                if self._peek().text == "*":
                    self._next += 1
                after = self._tokens[min(self._next + 1, len(self._tokens) - 1)]
                if self._peek().kind == "name" and after.text != ":":
                    terms.append((self._peek().text, factor))
                    self._next += 1
                else:
                    constant += factor
            elif signed or not begun:
                self._refuse("a number or a variable")
            begun = True
            if self._peek().text not in ("+", "-"):
                return terms, constant

    def _squares(self, sign: float) -> None:
        self._next += 1
        found: list[tuple[str, str, float]] = []
        while self._peek().text != "]":
            factor, _ = self._signs()
            number = self._number()
            factor *= 1.0 if number is None else number
            if self._peek().text == "*":
                self._next += 1
            first = second = self._take("name", "a variable").text
            if self._peek().text == "^":
                self._next += 1
                if self._required() != 2:
                    self._refuse("^ 2")
            elif self._peek().text == "*":
                self._next += 1
                second = self._take("name", "a variable").text
            else:
                self._refuse("^ 2, or * and another variable")
            found.append((first, second, factor))
        self._next += 1
        # By the format, the brackets are halved.
        if self._peek().text != "/":
            self._refuse("/ 2 after ]")
        self._next += 1
        if self._required() != 2:
            self._refuse("2")
        for first, second, factor in found:
            self._program.place(first)
            self._program.place(second)
            self._program.quadratic.append((first, second, sign * factor / 2))

    def _signs(self) -> tuple[float, bool]:
        sign, signed = 1.0, False
        while self._peek().text in ("+", "-"):
            sign, signed = -sign if self._peek().text == "-" else sign, True
            self._next += 1
        return sign, signed

    def _number(self) -> float | None:
        """Take a number with its sign, if one is next."""
        begun = self._next
        sign, _ = self._signs()
        token = self._peek()
        if token.kind == "number" or (token.kind == "name" and token.text.lower() in _INFINITE):
            self._next += 1
            return sign * (float(token.text) if token.kind == "number" else math.inf)
        self._next = begun
        return None

    def _required(self) -> float:
        number = self._number()
        return number if number is not None else self._refuse("a number")

    def _variable(self) -> int:
        return self._program.place(self._take("name", "a variable").text)

    def _sense(self) -> str:
        return _SENSES[self._take("sense", "<=, >= or =").text]

    def _limit(self, place: int, sense: str, value: float) -> None:
        program = self._program
        sides = {(place, side) for side in ("<>" if sense == "=" else sense)}
        if sides & self._bounded:
            program.note(f"line {self._tokens[self._next - 1].line}: a bound is given again, and this one counts")
        self._bounded |= sides
        if sense in "<=":
            if value < 0 and program.lower[place] == 0 and sense == "<":
                program.note(f"an upper bound of {value:g} leaves the lower bound 0 of a variable")
            program.upper[place] = value
        if sense in ">=":
            program.lower[place] = value

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, kind: str, expected: str) -> _Token:
        token = self._peek()
        if token.kind != kind:
            self._refuse(expected)
        self._next += 1
        return token

    def _refuse(self, expected: str) -> NoReturn:
        token = self._peek()
        found = repr(token.text[:60]) if token.text else "the end of the section"
        _wrong(token.line, f"expected {expected}, found {found}")


def _split(lines: Iterable[str]) -> Iterator[tuple[str, str, list[_Token]]]:
    """Give each section: what it is, by which word, and its tokens."""
    section, word = "", ""
    tokens: list[_Token] = []
    number = 0
    for number, line in enumerate(lines, start=1):
        text = line.split("\\", 1)[0].strip()
        if not text:
            continue
        header, rest = _header(text, section)
        if header:
            if section:
                yield section, word, tokens
            section, word, tokens, text = _HEADERS.get(header, "refused"), header, [], rest
            if section == "end":
                yield section, word, []
                return
        elif not section:
            _wrong(number, f"expected Minimize or Maximize, found {text[:60]!r}")
        if section == "refused" and text:  # some programs write the word, and nothing below it
            _wrong(number, f"it has {_REFUSED[word]}, which are not taken")
        tokens.extend(_tokens(text, number))
    if section:
        yield section, word, tokens


def _header(text: str, section: str) -> tuple[str, str]:
    """Return the word that begins a section, and what follows it on its line."""
    whole = " ".join(text.lower().rstrip(":").split())
    if whole in _HEADERS or whole in _REFUSED:
        return whole, ""
    words = text.split()
    first, second = words[0].lower().rstrip(":"), " ".join(words[:2]).lower().rstrip(":")
    if second in ("subject to", "such that"):
        return second, text.split(None, 2)[2]
    if not section and _HEADERS.get(first) == "objective":
        return first, text.split(None, 1)[1]
    if section == "objective" and _HEADERS.get(first) == "constraints":
        return first, text.split(None, 1)[1]
    return "", text


def _tokens(text: str, number: int) -> Iterator[_Token]:
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            _wrong(number, f"cannot be read from {text[position:].strip()[:60]!r} on")
        yield _Token(match.lastgroup, match[match.lastgroup], number)
        position = match.end()


def _wrong(line: int, what: str) -> NoReturn:
    raise InvalidField(
        f"line {line} of the LP file: {what}",
        hint="See the file, or write it anew with the program that made it.",
        context={"field": "uri", "line": line},
    )
