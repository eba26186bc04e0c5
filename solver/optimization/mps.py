"""Programs in MPS and QPS files, fixed and free.

Why a reader of our own: HiGHS drops bounds that are given twice, OR-Tools knows no quadratic objective, and neither
says in which line a file is wrong. The format, with the sign rules kept here, is described at
https://lpsolve.sourceforge.net/5.5/mps-format.htm and https://docs.gurobi.com (QUADOBJ, QMATRIX).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NoReturn

import numpy as np

from compute.errors import InvalidField
from solver.optimization.program import Choices, Program, make_program

_REFUSED = {
    "SOS1": "special ordered sets in the form of lp_solve",
    "SOS2": "special ordered sets in the form of lp_solve",
    "SETS": "special ordered sets",
    "QCMATRIX": "quadratic constraints",
    "CSECTION": "cones",
    "GENCONS": "general constraints",
    "PWLOBJ": "piecewise linear objectives",
    "LAZYCONS": "lazy constraints",
    "USERCUTS": "user cuts",
}
_MAX_NOTES = 20
_WITHOUT_VALUE = ("FR", "MI", "PL", "BV")


def read_mps(lines: Iterable[str]) -> Program:
    """Return the program that the lines of an MPS or QPS file describe.

    A column between integer markers for which BOUNDS has nothing is 0 or 1, and the notes say so: the format leaves it
    open, and HiGHS, SCIP and OR-Tools read it like this. Names with spaces are read where the file keeps to the columns
    of fixed MPS. Coefficients of one place are added up; of bounds, right-hand sides and ranges that are given twice
    the last counts, and the notes say so.

    Raises
    ------
    InvalidField
        With the number of the line, and what was expected there.

    Examples
    --------
    >>> program = read_mps('''NAME tiny
    ... ROWS
    ...  N cost
    ...  L limit
    ... COLUMNS
    ...  x cost -3 limit 1
    ...  y cost -2 limit 1
    ... RHS
    ...  rhs limit 4
    ... ENDATA'''.splitlines())
    >>> program.size, program.linear.tolist(), program.row_upper.tolist()
    ((1, 2), [-3.0, -2.0], [4.0])
    """
    return _Reader().read(lines)


class _Reader:
    def __init__(self) -> None:
        self.name = ""
        self.maximize = False
        self.objective: str | None = None
        self.wanted: str | None = None
        self.ignored: set[str] = set()
        self.kinds: list[str] = []
        self.rows: dict[str, int] = {}
        self.columns: dict[str, int] = {}
        self.whole: list[bool] = []
        self.costs: dict[int, float] = {}
        self.entries: tuple[list[int], list[int], list[float]] = ([], [], [])
        self.sides: dict[int, float] = {}
        self.ranges: dict[int, float] = {}
        self.offset = 0.0
        self.lower: dict[int, float] = {}
        self.upper: dict[int, float] = {}
        self.terms: tuple[list[int], list[int], list[float]] = ([], [], [])
        self.notes: list[str] = []
        self.more_notes = 0
        self.marked = False
        self.spaced = False
        self.number = 0
        self.sets: dict[str, str] = {}
        self.ordered: list[tuple[int, list[tuple[float, int]]]] = []
        self.semicontinuous: dict[int, None] = {}
        self.indicators: list[tuple[int, int, bool]] = []

    def read(self, lines: Iterable[str]) -> Program:
        sections: dict[str, Callable[[list[str]], None]] = {
            "ROWS": self._row,
            "COLUMNS": self._column,
            "RHS": self._side,
            "RANGES": self._range,
            "BOUNDS": self._bound,
            "QUADOBJ": self._triangle,
            "QSECTION": self._triangle,
            "QMATRIX": self._square,
            "SOS": self._set,
            "INDICATORS": self._indicator,
            "OBJSENSE": self._direction,
            "OBJNAME": self._objective_name,
            "OBJECTIVE": self._objective_name,
        }
        take, section = None, ""
        for number, line in enumerate(lines, start=1):
            if line.startswith("*") or not line.strip():
                continue
            self.number = number
            if not line[0].isspace():
                words = line.split()
                section = words[0].upper()
                if section == "ENDATA":
                    return self._program()
                if section == "NAME":
                    self.name, take = line[4:].strip(), None
                    continue
                if section in _REFUSED or (section == "QSECTION" and words[1:] not in ([], [self.objective or ""])):
                    self._refuse(f"has {_REFUSED.get(section, 'quadratic constraints')}, which are not taken")
                if section not in sections:
                    self._refuse(f"has {words[0][:40]!r}", f"expected one of {', '.join(['NAME', *sections])}, ENDATA")
                take = sections[section]
                if len(words) > 1 and section in ("OBJSENSE", "OBJNAME", "OBJECTIVE"):
                    take(words[1:])
                continue
            if take is None:
                self._refuse("stands before the first section", "expected NAME or ROWS")
            take(self._words(line, section))
        return self._refuse("is the last one", "ENDATA is missing: the file is cut off")

    def _words(self, line: str, section: str) -> list[str]:
        """Split a line: at spaces, or in fixed MPS whose names have spaces at its columns."""
        words = line.split()
        if section == "ROWS":
            self.spaced |= len(words) > 2
        elif section == "COLUMNS" and not self.spaced:
            self.spaced = len(words) not in (3, 5) or not self._known(words[1])
        if not self.spaced:
            return words
        fields = [line[1:3], line[4:12], line[14:22], line[24:36], line[39:47], line[49:61]]
        return [field.strip() for field in fields if field.strip()] or self._refuse(
            f"is {line.strip()[:60]!r}", "expected fields in the columns of fixed MPS, as before in this file"
        )

    def _known(self, row: str) -> bool:
        return row in self.rows or row == self.objective or row in self.ignored or row.strip("'").upper() == "MARKER"

    # Sections

    def _row(self, words: list[str]) -> None:
        if len(words) != 2 or words[0].upper() not in ("N", "L", "G", "E"):
            self._refuse(f"is {' '.join(words)[:60]!r}", "expected N, L, G or E, and the name of a row")
        kind, name = words[0].upper(), words[1]
        if name in self.rows or name in self.ignored or name == self.objective:
            self._refuse(f"names the row {name[:60]!r} again")
        if kind != "N":
            self.rows[name] = len(self.kinds)
            self.kinds.append(kind)
        elif self.objective is None and self.wanted in (None, name):
            self.objective = name
        else:
            self.ignored.add(name)

    def _column(self, words: list[str]) -> None:
        if len(words) >= 3 and words[1].strip("'").upper() == "MARKER":
            kind = words[-1].strip("'").upper()
            if kind not in ("INTORG", "INTEND"):
                self._refuse(f"has the marker {words[-1][:40]!r}", "expected 'INTORG' or 'INTEND'")
            self.marked = kind == "INTORG"
            return
        if len(words) not in (3, 5):
            self._refuse(
                f"is {' '.join(words)[:60]!r}", "expected a column, and one or two pairs of a row and a number"
            )
        name = words[0]
        column = self.columns.get(name)
        if column is None:
            column = self.columns[name] = len(self.whole)
            self.whole.append(self.marked)
        rows, columns, values = self.entries
        for place in range(1, len(words), 2):
            row = self.rows.get(words[place])
            value = self._number(words[place + 1])
            if row is not None:
                rows.append(row)
                columns.append(column)
                values.append(value)
            elif words[place] == self.objective:
                self.costs[column] = self.costs.get(column, 0.0) + value
            elif words[place] not in self.ignored:
                self._refuse(f"names the row {words[place][:60]!r}, which is not in ROWS")

    def _pairs(self, words: list[str], section: str) -> list[tuple[str, float]]:
        """Return the pairs of a line of RHS or RANGES, whose first word, a name of the set, may be missing."""
        if len(words) % 2:
            first = self.sets.setdefault(section, words[0])
            if first != words[0]:
                # The first set is the one that counts, by convention.
                self._note(f"line {self.number}: the set {words[0][:60]!r} of {section} is not used, {first!r} is")
                return []
            words = words[1:]
        if not 2 <= len(words) <= 4:
            self._refuse(f"is {' '.join(words)[:60]!r}", "expected one or two pairs of a row and a number")
        return [(words[place], self._number(words[place + 1])) for place in range(0, len(words), 2)]

    def _side(self, words: list[str]) -> None:
        for name, value in self._pairs(words, "RHS"):
            if name == self.objective:
                self.offset = -value  # by convention
            elif name not in self.ignored:
                self._once(self.sides, self._row_of(name), value, f"the right-hand side of {name!r}")

    def _range(self, words: list[str]) -> None:
        for name, value in self._pairs(words, "RANGES"):
            if name != self.objective and name not in self.ignored:
                self._once(self.ranges, self._row_of(name), value, f"the range of {name!r}")

    def _bound(self, words: list[str]) -> None:
        kind = words[0].upper()
        count = 2 if kind in _WITHOUT_VALUE else 3
        if kind not in ("UP", "LO", "FX", "LI", "UI", "SC", "SI", *_WITHOUT_VALUE):
            self._refuse(f"has {words[0][:40]!r}", "expected UP, LO, FX, FR, MI, PL, BV, LI, UI, SC or SI")
        rest = words[1:]
        # The name of the set may be missing; a value may stand where none is needed.
        if len(rest) == count or (count == 2 and len(rest) == 3):
            first = self.sets.setdefault("BOUNDS", rest[0])
            if first != rest[0]:
                self._note(f"line {self.number}: the set {rest[0][:60]!r} of BOUNDS is not used, {first!r} is")
                return
            rest = rest[1:]
        elif len(rest) != count - 1:
            self._refuse(f"is {' '.join(words)[:60]!r}", "expected a kind, a set, a column and, for most, a number")
        column = self.columns.get(rest[0])
        if column is None:
            self._refuse(f"names the column {rest[0][:60]!r}, which is not in COLUMNS")
        value = self._number(rest[1]) if kind not in _WITHOUT_VALUE else 0.0
        self._set_bound(kind, column, value, rest[0])

    def _set_bound(self, kind: str, column: int, value: float, name: str) -> None:
        if kind in ("LI", "UI", "BV", "SI"):
            self.whole[column] = True
        if kind in ("SC", "SI"):
            self.semicontinuous[column] = None
            value = value or math.inf  # by convention
        below = {"LO": value, "LI": value, "FX": value, "FR": -math.inf, "MI": -math.inf, "BV": 0.0}.get(kind)
        above = {
            "UP": value,
            "UI": value,
            "SC": value,
            "SI": value,
            "FX": value,
            "FR": math.inf,
            "PL": math.inf,
            "BV": 1.0,
        }.get(kind)
        if below is not None:
            self._once(self.lower, column, below, f"the lower bound of {name!r}")
        if above is not None:
            self._once(self.upper, column, above, f"the upper bound of {name!r}")
            if kind in ("UP", "UI") and above < 0 and column not in self.lower:
                # As CPLEX, Gurobi and SAS have it; HiGHS and SCIP keep 0 below it, and so find no solution.
                self.lower[column] = -math.inf
                self._note(f"line {self.number}: {name!r} has a negative upper bound and no lower one: it has none")

    def _triangle(self, words: list[str]) -> None:
        self._term(words, 1.0)

    def _square(self, words: list[str]) -> None:
        # Both halves of the matrix are there.
        self._term(words, 0.5)

    def _term(self, words: list[str], share: float) -> None:
        if len(words) not in (3, 5):
            self._refuse(f"is {' '.join(words)[:60]!r}", "expected two columns and a number")
        first = self.columns.get(words[0])
        for place in range(1, len(words), 2):
            second = self.columns.get(words[place])
            if first is None or second is None:
                missing = words[0] if first is None else words[place]
                self._refuse(f"names the column {missing[:60]!r}, which is not in COLUMNS")
            value = self._number(words[place + 1])
            self.terms[0].append(first)
            self.terms[1].append(second)
            # The objective is a half of x' Q x.
            self.terms[2].append(value / 2 if first == second else value * share)

    def _set(self, words: list[str]) -> None:
        kind = words[0].upper()
        if kind in ("S1", "S2") and not (len(words) == 2 and words[0] in self.columns):
            self.ordered.append((int(kind[1]), []))
            return
        # The name of the set may come first.
        parts = words[-1].rsplit(":", 1) if len(words) == 1 else words[-2:]
        column = self.columns.get(parts[0])
        if column is None or len(parts) != 2 or not self.ordered:
            self._refuse(f"is {' '.join(words)[:60]!r}", "expected S1 or S2, or a column of COLUMNS and its weight")
        self.ordered[-1][1].append((self._number(parts[1]), column))

    def _indicator(self, words: list[str]) -> None:
        if len(words) != 4 or words[0].upper() != "IF" or words[2] not in self.columns or words[3] not in ("0", "1"):
            self._refuse(f"is {' '.join(words)[:60]!r}", "expected IF, a row, a column, and 0 or 1")
        self.indicators.append((self._row_of(words[1]), self.columns[words[2]], words[3] == "1"))

    def _direction(self, words: list[str]) -> None:
        direction = words[0].upper()
        if direction not in ("MIN", "MAX", "MINIMIZE", "MAXIMIZE", "MINIMISE", "MAXIMISE"):
            self._refuse(f"has the direction {words[0][:40]!r}", "expected MIN or MAX")
        self.maximize = direction.startswith("MAX")

    def _objective_name(self, words: list[str]) -> None:
        self.wanted = words[0]

    # Their parts

    def _row_of(self, name: str) -> int:
        row = self.rows.get(name)
        if row is None:
            self._refuse(f"names the row {name[:60]!r}, which is not in ROWS")
        return row

    def _number(self, word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            # Fortran's exponents.
            try:
                value = float(word.upper().replace("D", "E"))
            except ValueError:
                self._refuse(f"has {word[:40]!r}", "expected a number")
        if math.isnan(value) or "_" in word:
            self._refuse(f"has {word[:40]!r}", "expected a number")
        return value

    def _once(self, values: dict[int, float], place: int, value: float, what: str) -> None:
        if place in values and values[place] != value:
            self._note(f"line {self.number}: {what[:100]} is given again: {value:g} counts, not {values[place]:g}")
        values[place] = value

    def _note(self, text: str) -> None:
        if len(self.notes) < _MAX_NOTES:
            self.notes.append(text)
        else:
            self.more_notes += 1

    def _refuse(self, what: str, expected: str = "") -> NoReturn:
        raise InvalidField(
            f"line {self.number} of the MPS file {what}" + (f": {expected}" if expected else ""),
            hint="See the file, or write it anew with the program that made it.",
            context={"field": "uri", "line": self.number},
        )

    def _program(self) -> Program:
        if self.objective is None and self.wanted is not None:
            self._refuse(f"ends a file without the objective {self.wanted[:60]!r}")
        width, height = len(self.whole), len(self.kinds)
        lower, upper = np.zeros(width), np.full(width, np.inf)
        for target, given in ((lower, self.lower), (upper, self.upper)):
            target[list(given)] = list(given.values())
        open_ended = [n for n, whole in enumerate(self.whole) if whole and n not in self.lower and n not in self.upper]
        if open_ended:
            upper[open_ended] = 1.0
            self._note(f"of the integer columns, {len(open_ended)} are not in BOUNDS: they are 0 or 1")
        side = np.zeros(height)
        side[list(self.sides)] = list(self.sides.values())
        kinds = np.array(self.kinds, "U1")
        row_lower = np.where(kinds == "L", -np.inf, side)
        row_upper = np.where(kinds == "G", np.inf, side)
        for row, value in self.ranges.items():
            if self.kinds[row] == "L" or (self.kinds[row] == "E" and value < 0):
                row_lower[row] = side[row] - abs(value)
            else:
                row_upper[row] = side[row] + abs(value)
        linear = np.zeros(width)
        linear[list(self.costs)] = list(self.costs.values())
        if self.more_notes:
            self.notes.append(f"and {self.more_notes} more")
        rows, columns, values = self.entries
        return make_program(
            linear=linear,
            lower=lower,
            upper=upper,
            integer=np.array(self.whole, np.bool_),
            rows=np.array(rows, np.int64),
            columns=np.array(columns, np.int64),
            values=np.array(values, np.float64),
            row_lower=row_lower,
            row_upper=row_upper,
            quadratic=(
                np.array(self.terms[0], np.int64),
                np.array(self.terms[1], np.int64),
                np.array(self.terms[2], np.float64),
            ),
            maximize=self.maximize,
            offset=self.offset,
            name=self.name,
            variables=tuple(self.columns),
            constraints=tuple(self.rows),
            notes=tuple(self.notes),
            choices=Choices(
                tuple(self.semicontinuous),
                tuple((kind, tuple(column for _, column in sorted(members))) for kind, members in self.ordered),
                tuple(self.indicators),
            ),
        )
