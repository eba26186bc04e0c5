"""Boolean questions as programs: pseudo-Boolean problems (OPB) and clauses (DIMACS CNF).

https://www.cril.univ-artois.fr/PB24/OPBgeneral.pdf, http://www.satcompetition.org/2009/format-benchmarks2009.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NoReturn

from compute.errors import InvalidField
from solver.optimization.builder import Builder
from solver.optimization.program import MAX_VARIABLES, Program

_WEIGHT = re.compile(r"[+-]?[0-9]{1,300}")
_SIGNS = re.compile(r"(>=|<=|=|\b(?:min|max|soft):)")
_EXACT = 2**53
_LITERAL = re.compile(r"~?[A-Za-z]\w*")

Terms = list[tuple[str, float]]


def read_opb(lines: Iterable[str]) -> Program:
    """Return the program of a pseudo-Boolean problem; a product of literals becomes a variable of its own.

    Examples
    --------
    >>> program = read_opb(["* a comment", "min: +2 x1 -1 x2 x3;", "+1 x1 +1 ~x2 >= 1;"])
    >>> program.variables, program.linear.tolist(), program.row_lower.tolist()[-1]
    (('x1', 'x2', 'x3', 'x2*x3'), [2.0, 0.0, 0.0, -1.0], 0.0)
    """
    builder, statement, line = Builder(), "", 0
    begun = False
    for line, text in enumerate(lines, start=1):
        if text.lstrip().startswith("*"):
            continue
        statement += " " + text.strip()
        while ";" in statement:
            whole, statement = statement.split(";", 1)
            # No spaces are needed around these.
            words = _SIGNS.sub(r" \1 ", whole).split()
            if words[:1] == ["soft:"]:
                _refuse("OPB", line, "it has soft constraints, which are not taken")
            if words[:1] in (["min:"], ["max:"]):
                if begun:
                    _refuse("OPB", line, "the objective comes first, and once")
                builder.maximize = words[0] == "max:"
                builder.objective, constant = _sum(builder, words[1:], line)
                builder.offset = constant
            elif words:
                _relation(builder, words, line)
            begun = True
    if statement.strip():
        _refuse("OPB", line, f"the file is cut off after {statement.strip()[-60:]!r}: a statement ends with ;")
    return builder.program()


def read_cnf(lines: Iterable[str]) -> Program:
    """Return the program of a set of clauses, which has a solution if they can be satisfied.

    Examples
    --------
    >>> program = read_cnf(["c of two variables", "p cnf 2 2", "1 -2 0", "2 0"])
    >>> program.size, program.row_lower.tolist()
    ((2, 2), [0.0, 1.0])
    """
    builder, clause, found, line = Builder(), list[int](), 0, 0
    announced: tuple[int, int] | None = None
    for line, text in enumerate(lines, start=1):
        words = text.split()
        if not words or words[0].startswith("c"):
            continue
        if words[0] == "%":  # how some collections end
            break
        if words[0] == "p":
            if announced or words[1:2] != ["cnf"] or len(words) != 4 or not all(w.isdecimal() for w in words[2:]):
                _refuse("CNF", line, "expected p cnf, the number of variables and that of clauses, once")
            announced = int(words[2][:18]), int(words[3][:18])
            if announced[0] > MAX_VARIABLES:
                _refuse("CNF", line, f"{announced[0]:,} variables are more than {MAX_VARIABLES:,}")
            for number in range(1, announced[0] + 1):
                builder.place(f"x{number}", 0.0, 1.0, integer=True)
            continue
        if announced is None:
            _refuse("CNF", line, "expected p cnf before the clauses")
        for word in words:
            if not re.fullmatch(r"-?\d{1,9}", word) or abs(int(word)) > announced[0]:
                _refuse("CNF", line, f"{word[:40]!r} is no literal of {announced[0]:,} variables")
            if word != "0":
                clause.append(int(word))
                continue
            literals = set(clause)
            terms = [(f"x{abs(literal)}", 1.0 if literal > 0 else -1.0) for literal in sorted(literals)]
            builder.add(terms, low=1.0 - sum(literal < 0 for literal in literals))
            clause, found = [], found + 1
    if announced is None or clause or found != announced[1]:
        _refuse(
            "CNF", line, f"the file is cut off: {found:,} clauses of {announced[1] if announced else 0:,} are there"
        )
    return builder.program()


def _relation(builder: Builder, words: list[str], line: int) -> None:
    place = next((place for place, word in enumerate(words) if word in (">=", "=", "<=")), None)
    if place is None or place != len(words) - 2 or not _WEIGHT.fullmatch(words[-1]):
        _refuse("OPB", line, f"expected >=, <= or = and a whole number at the end of {' '.join(words)[:60]!r}")
    terms, constant = _sum(builder, words[:place], line)
    side, sense = _whole(words[-1], line) - constant, words[place]
    builder.add(terms, float("-inf") if sense == "<=" else side, float("inf") if sense == ">=" else side)


def _sum(builder: Builder, words: list[str], line: int) -> tuple[Terms, float]:
    """Return the linear terms of weights and products of literals, and the constant that negations leave."""
    terms: Terms = []
    constant, place = 0.0, 0
    while place < len(words):
        if not _WEIGHT.fullmatch(words[place]):
            _refuse("OPB", line, f"expected a weight, found {words[place][:40]!r}")
        weight = _whole(words[place], line)
        place += 1
        literals = []
        while place < len(words) and _LITERAL.fullmatch(words[place]):
            literals.append(words[place])
            place += 1
        if not literals:
            _refuse("OPB", line, "expected a literal after a weight, such as x1 or ~x1")
        for literal in literals:
            builder.place(literal.removeprefix("~"), 0.0, 1.0, integer=True)
        if len(literals) > 1:
            terms.append((_product(builder, literals), weight))
        elif literals[0].startswith("~"):
            terms.append((literals[0][1:], -weight))
            constant += weight
        else:
            terms.append((literals[0], weight))
    return terms, constant


def _whole(word: str, line: int) -> float:
    value = int(word)
    if abs(value) > _EXACT:
        _refuse("OPB", line, f"{word[:40]} is beyond 2**53, up to which whole numbers are exact here")
    return float(value)


def _product(builder: Builder, literals: list[str]) -> str:
    """Return the variable that is 1 exactly when all the literals are; made when it is not there yet."""
    different = sorted(set(literals))
    name = "*".join(different)
    if name in builder.places:
        return name
    builder.place(name, 0.0, 1.0, integer=True)
    all_of: Terms = [(name, 1.0)]
    negated = 0
    for literal in different:
        variable = literal.removeprefix("~")
        if literal == variable:
            builder.add([(name, 1.0), (variable, -1.0)], high=0.0)
            all_of.append((variable, -1.0))
        else:
            builder.add([(name, 1.0), (variable, 1.0)], high=1.0)
            all_of.append((variable, 1.0))
            negated += 1
    builder.add(all_of, low=1.0 - len(different) + negated)
    return name


def _refuse(kind: str, line: int, what: str) -> NoReturn:
    raise InvalidField(f"line {line} of the {kind} file: {what}", context={"field": "uri", "line": line})
