"""Readers of programs: what they understand, and that they refuse the rest by its place, whatever it is."""

from __future__ import annotations

import base64
import contextlib
import gzip
import lzma
import random
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import highspy
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compute.errors import ComputeError, InvalidField, PayloadTooLarge, UnsupportedFormat
from solver.optimization.arrays import read_arrays
from solver.optimization.boolean import read_cnf, read_opb
from solver.optimization.check import check_point
from solver.optimization.engine import Options
from solver.optimization.engines.highs import make_highs
from solver.optimization.expressions import read_expressions
from solver.optimization.files import read_program
from solver.optimization.lp_format import read_lp
from solver.optimization.mps import read_mps
from solver.optimization.program import Choices, Program
from solver.optimization.solve import solve_program

INSTANCES = Path(__file__).parent / "instances"

MPS = """NAME tiny
OBJSENSE
 MAX
ROWS
 N cost
 N other
 L limit
 G least
 E exact
 E below
COLUMNS
 M1 'MARKER' 'INTORG'
 x cost 3 limit 1
 x other 9 least 1
 M2 'MARKER' 'INTEND'
 y cost 2.5D0 limit 1
 y exact 1 below 1
RHS
 rhs cost -10 limit 4
 rhs exact 2 below 2
RANGES
 rng limit 3 least 5
 rng exact 1 below -1
BOUNDS
 UP bnd x 7
 MI bnd y
 UP bnd y -1
QUADOBJ
 x x 4
 x y 1
ENDATA
"""

LP = """\\ a comment
Maximize
 profit: 3 x + 2 y - z + 5
Subject To
 limit: x + y + 0.5 z <= 4
 range: -1 <= x - y <= 1
 2 x
   + 3 z >= 1
Bounds
 x <= 3
 -2 <= y <= 8
 z free
General
 x
Binary
 b
End
"""


def test_mps_with_all_its_signs() -> None:
    program = read_mps(MPS.splitlines())
    assert (program.name, program.maximize, program.offset) == ("tiny", True, 10.0)
    assert (program.variables, program.constraints) == (("x", "y"), ("limit", "least", "exact", "below"))
    assert program.linear.tolist() == [3.0, 2.5]
    assert program.integer.tolist() == [True, False]
    assert (program.lower.tolist(), program.upper.tolist()) == ([0.0, -np.inf], [7.0, -1.0])
    assert program.row_lower.tolist() == [1.0, 0.0, 2.0, 1.0]
    assert program.row_upper.tolist() == [4.0, 5.0, 3.0, 2.0]
    # A half of x' Q x, of which the lower triangle is given.
    assert program.quadratic.coefficients.tolist() == [2.0, 1.0]


def test_what_is_given_twice_counts_as_given_last_and_is_told() -> None:
    text = MPS.replace(" UP bnd x 7", " BV bnd x\n FX bnd x 0")
    program = read_mps(text.splitlines())
    assert (program.lower[0], program.upper[0]) == (0.0, 0.0)
    assert program.notes == ("line 26: the upper bound of 'x' is given again: 0 counts, not 1",)


def test_names_with_spaces_are_read_by_column() -> None:
    text = "\n".join(
        (
            "NAME          SPACED",
            "ROWS",
            " N  COST",
            " L  ROW 1",
            "COLUMNS",
            "    COL 1     COST                1.   ROW 1               2.",
            "RHS",
            "    RHS       ROW 1               8.",
            "BOUNDS",
            " UP BND       COL 1               3.",
            "ENDATA",
        )
    )
    program = read_mps(text.splitlines())
    assert (program.variables, program.constraints) == (("COL 1",), ("ROW 1",))
    assert (program.linear[0], program.matrix.values[0], program.row_upper[0], program.upper[0]) == (1, 2, 8, 3)
    outside = text.replace("BOUNDS\n", "BOUNDS\n" + " " * 62 + "3\n")
    with pytest.raises(InvalidField, match=r"line 10 .*is '3': expected fields in the columns of fixed MPS"):
        read_mps(outside.splitlines())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ENDATA\n", ""), r"line 30 of the MPS file is the last one: ENDATA is missing"),
        ((" x cost 3 limit 1", " x cost 3 nothing 1"), r"line 13 .* names the row 'nothing', which is not in ROWS"),
        ((" x cost 3 limit 1", " x cost three"), r"line 13 .* has 'three': expected a number"),
        ((" MI bnd y", " MI bnd z"), r"line 26 .* names the column 'z', which is not in COLUMNS"),
        ((" MI bnd y", " XX bnd y 3"), r"line 26 .* expected UP, LO, FX, FR, MI, PL, BV, LI, UI, SC or SI"),
        (("QUADOBJ", "SOS"), r"line 29 .*expected S1 or S2, or a column of COLUMNS and its weight"),
        (("RANGES", "RAGNES"), r"line 21 .* has 'RAGNES': expected one of NAME, ROWS"),
        ((" L limit", " L limit\n G limit"), r"line 8 .* names the row 'limit' again"),
        ((" UP bnd x 7", " UP bnd x -7\n LO bnd x 1"), r"the variable 'x' has the bounds 1 and -7"),
    ],
)
def test_what_is_wrong_in_mps_is_told_by_its_line(change: tuple[str, str], message: str) -> None:
    assert change[0] in MPS
    with pytest.raises(InvalidField, match=message):
        read_mps(MPS.replace(*change, 1).splitlines())


def test_the_lp_format() -> None:
    program = read_lp(LP.splitlines())
    assert (program.maximize, program.offset, program.variables) == (True, 5.0, ("x", "y", "z", "b"))
    assert program.constraints == ("limit", "range", "c2")
    assert program.row_lower.tolist() == [-np.inf, -1.0, 1.0]
    assert program.row_upper.tolist() == [4.0, 1.0, np.inf]
    assert (program.lower.tolist(), program.upper.tolist()) == ([0, -2, -np.inf, 0], [3, 8, np.inf, 1])
    assert program.integer.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("End\n", ""), r"the last line of the LP file is not End: the file is cut off"),
        (("<= 4", "4"), r"line 5 .*expected <=, >= or =, found '4'|line 6"),
        (("z free", "z free 3 3"), r"line 12 .*expected <=, >= or =, found '3'"),
        (("General", "SOS"), r"line 14 .*S1:: or S2::"),
        (("limit: x", "limit: b = 2 -> x"), r"line 5 .*expected a variable that is 0 or 1"),
        (("limit: x +", "limit: [ x^2 ] / 2 +"), r"line 5 .*only the objective may have products"),
        (("Maximize", "Maximise it"), r"line 2 .*expected Minimize or Maximize|expected"),
        (("<= 4", "<= §"), r"line 5 .*cannot be read from"),
    ],
)
def test_what_is_wrong_in_an_lp_file_is_told_by_its_line(change: tuple[str, str], message: str) -> None:
    assert change[0] in LP
    with pytest.raises(InvalidField, match=message):
        read_lp(LP.replace(*change, 1).splitlines())


def test_the_lp_format_as_others_write_it() -> None:
    lines = ["min", " 2x + 3 y", "st", "c1: 2e1x + y >= 1", " y <= 5", "bounds", " x <= 3", " x <= 4", "semi", "end"]
    program = read_lp(lines)
    assert (program.linear.tolist(), program.matrix.values.tolist()) == ([2.0, 3.0], [20.0, 1.0, 1.0])
    # Constraints without a name get one that is not taken.
    assert program.constraints == ("c1", "_c1")
    assert (program.upper[0], program.notes) == (4.0, ("line 8: a bound is given again, and this one counts",))
    with pytest.raises(InvalidField, match=r"line 5 .*names the constraint 'c1' again"):
        read_lp([*lines[:4], "c1: x >= 0", "end"])


def test_semicontinuous_variables_ordered_sets_and_indicators() -> None:
    mps = """NAME choices
ROWS
 N cost
 G need
 L when
COLUMNS
 x cost 1 need 1
 y cost 3 need 1
 z cost 4 need 1
 b cost 1 when 1
 x when 1
RHS
 rhs need 5 when 3
BOUNDS
 LO bnd x 4
 SC bnd x 10
 UP bnd y 4
 BV bnd b
SOS
 S2 first
 x 1
 first y 2
 z:3
INDICATORS
 IF when b 0
ENDATA
"""
    lp = """min
 x + 3 y + 4 z + b
st
 need: x + y + z >= 5
 when: b = 0 -> b + x <= 3
bounds
 4 <= x <= 10
 y <= 4
bin
 b
semi
 x
sos
 first: S2:: x:1 y:2 z:3
end
"""
    for program in (read_mps(mps.splitlines()), read_lp(lp.splitlines())):
        assert program.choices == Choices((0,), ((2, (0, 1, 2)),), ((1, 3, False),))
        assert program.kind == "MIP"
        solution = solve_program(program, Options(time_limit=30))
        assert (solution.reason, [attempt.engine for attempt in solution.attempts]) == ("OPTIMAL", ["scip"])
        # Five of x cost 5, and 1 that they may be more than 3.
        assert solution.check is not None
        assert solution.check.objective == pytest.approx(6)
        for point, feasible in (
            ([5, 0, 0, 1], True),
            ([5, 0, 0, 0], False),  # the indicator
            ([0, 4, 1, 0], True),
            ([2, 4, 0, 0], False),  # x is 0, or from 4 on
            ([4, 0, 1, 1], False),  # no neighbours
            ([4, 1, 1, 1], False),  # three
        ):
            assert check_point(program, np.array(point, float)).feasible == feasible


def test_of_many_notes_the_first_are_there() -> None:
    program = read_lp(["min", " x", "st", " x >= 1", "bounds", *[f" x <= {number}" for number in range(30)], "end"])
    assert (len(program.notes), program.notes[-1]) == (21, "and 9 more")


def test_opb_needs_no_spaces_around_its_signs() -> None:
    program = read_opb(["  * a comment", "min:+1 x1 +2 ~x2;", "+1 x1 +1 x2>=1;+1 x1<=1;"])
    assert (program.offset, program.row_lower.tolist(), program.row_upper.tolist()) == (2, [1, -np.inf], [np.inf, 1])


@pytest.mark.parametrize(("file", "optimum"), [("normalized-mds_10_4_3.opb", 2.0), ("bart10.shuffled.cnf", 0.0)])
def test_boolean_questions_have_their_published_answers(file: str, optimum: float) -> None:
    solution = solve_program(read_program(INSTANCES / file), Options(time_limit=60))
    assert solution.reason == "OPTIMAL"
    assert solution.check is not None
    assert solution.check.objective == optimum


def test_products_and_negations_mean_what_they_say() -> None:
    program = read_opb(["min: 1 x1;", "+2 x1 ~x2 +1 ~x3 >= 2;", "+1 x1 x2 x3 = 0;"])
    places = {name: place for place, name in enumerate(program.variables)}
    for bits in range(8):
        x = {f"x{number}": bits >> (number - 1) & 1 for number in (1, 2, 3)}
        holds = 2 * x["x1"] * (1 - x["x2"]) + (1 - x["x3"]) >= 2 and x["x1"] * x["x2"] * x["x3"] == 0
        point = np.zeros(len(places))
        for name, place in places.items():
            factors = [1 - x[part[1:]] if part.startswith("~") else x[part] for part in name.split("*")]
            point[place] = np.prod(factors)
        activity = program.activities(point)
        found = (activity >= program.row_lower - 1e-9).all() and (activity <= program.row_upper + 1e-9).all()
        assert bool(found) == holds, x


@pytest.mark.parametrize(
    ("read", "lines", "message"),
    [
        (read_cnf, ["1 2 0"], r"line 1 of the CNF file: expected p cnf before the clauses"),
        (read_cnf, ["p cnf 2 2", "1 0"], r"the file is cut off: 1 clauses of 2"),
        (read_cnf, ["p cnf 2 1", "3 0"], r"'3' is no literal of 2 variables"),
        (read_cnf, ["p cnf 99999999999 1"], r"variables are more than"),
        (read_opb, ["min: 1 x1;", "+1 x1 >= 1"], r"the file is cut off after"),
        (read_opb, ["+1 x1 > 1;"], r"expected >=, <= or ="),
        (read_opb, [f"+{2**53 + 1} x1 >= 1;"], r"beyond 2\*\*53"),
        (read_opb, ["soft: 6;", "[2] +1 x1 >= 1;"], r"line 1 .*soft constraints, which are not taken"),
        (read_opb, ["+1 >= 1;"], r"expected a literal after a weight"),
        (read_opb, ["+1 x1 >= 1;", "min: 1 x1;"], r"the objective comes first, and once"),
    ],
)
def test_what_is_wrong_in_boolean_files(
    read: Callable[[Iterable[str]], Program], lines: list[str], message: str
) -> None:
    with pytest.raises(InvalidField, match=message):
        read(lines)


# Files


def test_packed_files_and_their_limit(tmp_path: Path) -> None:
    for name, pack in (("a.lp.gz", gzip.compress), ("a.lp.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(LP.encode()))
        assert read_program(tmp_path / name).size == (3, 4)
    (tmp_path / "bomb.mps.gz").write_bytes(gzip.compress(b"* nothing\n" * 1_000_000))
    with pytest.raises(PayloadTooLarge, match="more than 1,000,000 bytes, unpacked"):
        read_program(tmp_path / "bomb.mps.gz", limit=1_000_000)
    (tmp_path / "cut.mps.gz").write_bytes(gzip.compress(MPS.encode())[:-20])
    with pytest.raises(UnsupportedFormat, match="cannot be unpacked"):
        read_program(tmp_path / "cut.mps.gz")
    (tmp_path / "latin.mps").write_bytes(b"NAME \xe9\xff\n")
    with pytest.raises(InvalidField, match="not text in UTF-8"):
        read_program(tmp_path / "latin.mps")
    with pytest.raises(UnsupportedFormat, match=r"Its name ends in \.mps, \.qps, \.lp, \.opb, \.cnf"):
        read_program(tmp_path / "model.docx")


# Arrays


def arrays(**changes: Any) -> dict[str, Any]:
    model: dict[str, Any] = {
        "variables": {"names": ["x", "y"], "lower_bounds": 0, "upper_bounds": [None, "inf"], "integers": [True, False]},
        "objective": {"maximize": True, "offset": 1, "linear_coefficients": [3, 2]},
        "linear_constraints": {"lower_bounds": "-inf", "upper_bounds": [4, 6]},
        "linear_constraint_matrix": {
            "row_ids": [0, 0, 1, 1], "column_ids": [0, 1, 0, 1], "coefficients": [1, 1, 1, 3],
        },
    }  # fmt: skip
    for path, value in changes.items():
        section, _, key = path.partition("__")
        model[section][key] = value
    return model


def packed(values: list[float], dtype: str = "float64") -> dict[str, str]:
    return {"dtype": dtype, "base64": base64.b64encode(np.array(values, dtype).tobytes()).decode()}


def same(first: Program, second: Program) -> bool:
    fields = ("linear", "lower", "upper", "integer", "row_lower", "row_upper")
    return (
        all(np.array_equal(getattr(first, field), getattr(second, field)) for field in fields)
        and all(np.array_equal(*pair) for pair in zip(first.matrix, second.matrix, strict=True))
        and all(np.array_equal(*pair) for pair in zip(first.quadratic, second.quadratic, strict=True))
        and (first.maximize, first.offset) == (second.maximize, second.offset)
    )


def test_arrays_of_every_form_are_the_same_program() -> None:
    program = read_arrays(arrays())
    assert (program.upper.tolist(), program.row_lower.tolist()) == ([np.inf, np.inf], [-np.inf, -np.inf])
    for changes in (
        {"linear_constraint_matrix__row_ids": packed([0, 0, 1, 1], "int32")},
        {"linear_constraint_matrix__coefficients": packed([1, 1, 1, 3])},
        {"objective__linear_coefficients": {"ids": [1, 0], "values": [2, 3]}},
        {"objective__linear_coefficients": packed([3, 2], "float32")},
        {"variables__integers": packed([1, 0], "bool")},
        {"variables__upper_bounds": packed([np.inf, np.inf])},
    ):
        assert same(read_arrays(arrays(**changes)), program), changes
    rows = {"row_starts": [0, 2, 4], "column_ids": [0, 1, 0, 1], "coefficients": [1, 1, 1, 3]}
    assert same(read_arrays({**arrays(), "linear_constraint_matrix": rows}), program)
    quadratic = {"row_ids": [1, 0], "column_ids": [0, 0], "coefficients": [2, 1]}
    assert read_arrays(arrays(objective__quadratic_coefficients=quadratic)).quadratic.coefficients.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"linear_constraints__count": 10**12}, "model.linear_constraints.count"),
        ({"variables__lower_bounds": [0]}, "model.variables.lower_bounds"),
        ({"variables__names": ["x", "x"]}, "model.variables.names"),
        ({"variables__integers": 1}, "model.variables.integers"),
        ({"variables__bounds": 1}, "model.variables"),
        ({"variables__upper_bounds": ["lots", 1]}, "model.variables.upper_bounds[0]"),
        ({"objective__linear_coefficients": [1, float("inf")]}, "model.objective.linear_coefficients[1]"),
        ({"objective__linear_coefficients": [1, None]}, "model.objective.linear_coefficients[1]"),
        ({"objective__linear_coefficients": {"ids": [2], "values": [1]}}, "model.objective.linear_coefficients.ids"),
        ({"objective__linear_coefficients": [10**400, 1]}, "model.objective.linear_coefficients"),
        ({"objective__linear_coefficients": packed([1])}, "model.objective.linear_coefficients"),
        ({"objective__linear_coefficients": {"dtype": "float64", "base64": "!"}},
         "model.objective.linear_coefficients.base64"),
        ({"linear_constraint_matrix__column_ids": [0, 1.5, 0, 1]}, "model.linear_constraint_matrix.column_ids"),
        ({"linear_constraint_matrix__row_starts": [0, 2, 4]}, "model.linear_constraint_matrix"),
        ({"linear_constraint_matrix__coefficients": [1]}, "model.linear_constraint_matrix.coefficients"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_arrays_is_told_by_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        read_arrays(arrays(**changes))
    assert refused.value.context["field"] == field


# Whatever comes


TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=300)
READERS: Mapping[str, tuple[Callable[[Iterable[str]], Program], str]] = {
    "mps": (read_mps, MPS),
    "lp": (read_lp, LP),
    "opb": (read_opb, "min: +2 x1 -1 x2 ~x3;\n+1 x1 +1 ~x2 >= 1;\n"),
    "cnf": (read_cnf, "c\np cnf 3 2\n1 -2 0\n2 3 0\n"),
}
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _mutated(text: str, seed: int) -> str:
    """The text with some of its words lost, doubled, moved or replaced."""
    choose = random.Random(seed)
    words = text.replace("\n", " \n ").split(" ")
    for _ in range(choose.randint(1, 6)):
        words = words or [""]
        place, other = choose.randrange(len(words)), choose.randrange(len(words))
        kind = choose.randrange(5)
        if kind == 0:
            del words[place]
        elif kind == 1:
            words.insert(place, words[other])
        elif kind == 2:
            words[place], words[other] = words[other], words[place]
        elif kind == 3:
            words[place] = choose.choice(["nan", "inf", "-1e400", "[", "]", ":", "''", "\0", "1_0", "é", "9" * 400])
        else:
            words = words[: place + 1]
    return " ".join(words)


@pytest.mark.parametrize("kind", READERS)
@FUZZ
@given(seed=st.integers(0, 2**32), text=TEXT)
def test_readers_of_files_refuse_or_understand(kind: str, seed: int, text: str) -> None:
    read, right = READERS[kind]
    for given_text in (text, _mutated(right, seed)):
        began = time.monotonic()
        try:
            program = read(given_text.splitlines())
        except ComputeError:
            pass
        else:
            assert len(program.linear) == len(program.variables)
        assert time.monotonic() - began < 10  # not what a pause of this process makes of it


KEYS = st.sampled_from(
    [
        "names", "lower_bounds", "upper_bounds", "integers", "ids", "values", "row_ids", "column_ids", "coefficients",
        "row_starts", "count", "maximize", "offset", "linear_coefficients", "dtype", "base64", "x",
    ]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@FUZZ
@given(
    model=st.dictionaries(
        st.sampled_from(["variables", "objective", "linear_constraints", "linear_constraint_matrix", "name", "x"]),
        JSON,
        max_size=5,
    )
)
def test_arrays_are_refused_or_understood(model: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidField):
        read_arrays(model)


@FUZZ
@given(
    objective=TEXT | st.text(alphabet="xy0123456789.+-*/() <=>:e", max_size=60),
    constraint=st.text(alphabet="xy0123456789.+-*/() <=>:e", max_size=60),
)
def test_expressions_are_refused_or_understood(objective: str, constraint: str) -> None:
    for subject_to in ([], [constraint]):
        with contextlib.suppress(InvalidField):
            read_expressions({"variables": {"x": {}, "y": {}}, "minimize": objective, "subject_to": subject_to})


# What HiGHS writes, we read


@st.composite
def written(draw: st.DrawFn) -> Program:
    width, height = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    numbers = st.integers(-50, 50).map(lambda value: value / 4)
    bounds = st.sampled_from([-np.inf, -3.0, 0.0]), st.sampled_from([2.0, 7.5, np.inf])
    return read_arrays(
        {
            "variables": {
                "names": [f"v{number}" for number in range(width)],
                "lower_bounds": [draw(bounds[0]) for _ in range(width)],
                "upper_bounds": [draw(bounds[1]) for _ in range(width)],
                "integers": [draw(st.booleans()) for _ in range(width)],
            },
            "objective": {"linear_coefficients": [draw(numbers) for _ in range(width)], "offset": draw(numbers)},
            "linear_constraints": {
                "lower_bounds": [draw(bounds[0]) for _ in range(height)],
                "upper_bounds": [draw(bounds[1]) for _ in range(height)],
            },
            "linear_constraint_matrix": {
                "row_ids": [row for row in range(height) for _ in range(width)],
                "column_ids": [column for _ in range(height) for column in range(width)],
                "coefficients": [draw(numbers.filter(bool)) for _ in range(height * width)],
            },
        }
    )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(program=written())
@pytest.mark.parametrize("ending", ["mps", "lp"])
def test_what_highs_writes_is_read_as_it_was(program: Program, ending: str, tmp_path: Path) -> None:
    engine = make_highs(program, Options())
    engine.setOptionValue("output_flag", False)
    path = tmp_path / f"written.{ending}"
    assert engine.writeModel(str(path)) != highspy.HighsStatus.kError
    back = read_program(path)
    order = [int(name.lstrip("cxCv")) for name in back.variables] if back.variables else []
    assert sorted(order) == list(range(len(program.linear)))
    places = np.argsort(order)
    for field in ("linear", "lower", "upper", "integer"):
        assert np.array_equal(getattr(back, field)[places], getattr(program, field)), field
    assert back.offset == program.offset
    # A range may come back as two constraints: the same points satisfy both programs.
    for point in np.random.default_rng(0).integers(-12, 12, (50, len(order))) / 4:
        assert _satisfies(program, point) == _satisfies(back, point[order])


def _satisfies(program: Program, point: Any) -> bool:
    activity = program.activities(point)
    return bool(((activity >= program.row_lower) & (activity <= program.row_upper)).all())
