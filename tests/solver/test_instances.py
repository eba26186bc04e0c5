"""Files of well-known collections are read as questions, and .nl files as programs."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compute.errors import ComputeError, InvalidField
from solver.__main__ import main
from solver.optimization.constraints.program import ConstraintProgram
from solver.optimization.engine import Events, Options
from solver.optimization.engines import cp_sat, scip, slsqp
from solver.optimization.files import read_file, read_program
from solver.optimization.instances import read_project, read_question, read_shop, read_tour
from solver.optimization.nonlinear.nl import read_nl
from solver.optimization.nonlinear.program import NonlinearProgram
from solver.optimization.sources import read_source

SHOP = (
    "# Fisher and Thompson, 6 x 6\n6 6\n"
    + """2 1 0 3 1 6 3 7 5 3 4 6
1 8 2 5 4 10 5 10 0 10 3 4
2 5 3 4 5 8 0 9 1 1 4 7
1 5 0 5 2 5 3 3 4 8 5 9
2 9 1 3 4 5 5 4 0 3 3 1
1 3 3 3 5 9 0 10 4 4 2 1
"""
)
FLEXIBLE = "2 2 1.5\n2 2 1 3 2 5 1 2 4\n1 1 1 6\n"
PROJECT = "4 1\n2\n0 0 2 2 3\n4 1 1 4\n3 2 1 4\n0 0 0\n"
TOUR = """NAME: square
TYPE: TSP
DIMENSION: 4
EDGE_WEIGHT_TYPE: EXPLICIT
EDGE_WEIGHT_FORMAT: LOWER_DIAG_ROW
EDGE_WEIGHT_SECTION
0 1 0 5 1 0 1 5
1 0
EOF
"""
NL = """g3 1 1 0\t# problem: two variables, one of them whole
 2 2 1 0 1\t# vars, constraints, objectives, ranges, eqns
 1 1
 0 0
 2 2 2
 0 0 0 1
 0 0 1 0 0
 4 2
 0 0
 1 0 0 0 0
V2 1 0
0 1
o76
v1
C0
o2
v0
v2
C1
n0
O0 0
o54
3
o15
v0
o44
v1
n1
x1
0 2.5
r
2 3
4 4
b
0 0 10
0 -5 5
k1
2
J0 2
0 0
1 0
J1 2
0 1
1 1
G0 2
0 0
1 2
"""


def ignore(*_: object) -> None:
    """Tell nobody."""


@pytest.mark.parametrize(
    ("text", "read", "optimum"),
    [(SHOP, read_shop, 55), (FLEXIBLE, read_shop, 9), (PROJECT, read_project, 7), (TOUR, read_tour, 4)],
)
def test_questions_have_their_answers(text: str, read: Callable[[Iterable[str]], Any], optimum: float) -> None:
    program = read_source(read(text.splitlines()))
    assert isinstance(program, ConstraintProgram)
    outcome = cp_sat.solve(program, Options(time_limit=60), Events(ignore))
    assert (outcome.reason, outcome.bound) == ("OPTIMAL", optimum)
    assert outcome.x is not None
    assert program.check(outcome.x).feasible


@pytest.mark.parametrize(
    ("kind", "distance"), [("EUC_2D", 5), ("CEIL_2D", 5), ("ATT", 2), ("GEO", 557)]
)  # fmt: skip
def test_distances_are_those_of_tsplib(kind: str, distance: int) -> None:
    text = f"DIMENSION : 2\nEDGE_WEIGHT_TYPE : {kind}\nNODE_COORD_SECTION\n1 1.0 1.0\n2 4.0 5.0\nEOF"
    goal = read_tour(text.splitlines())["constraints"]["minimize"]["coefficients"]
    assert goal == {"from0to1": distance, "from1to0": distance}


def test_an_nl_file_means_what_it_says() -> None:
    program = read_nl(NL.splitlines())
    x = np.array([1.5, 2.0])
    assert program.objective.value(x) == pytest.approx(abs(1.5) + np.exp(2.0) + 1 + 2 * 2.0)
    assert [row.value(x) for row in program.rows] == pytest.approx([1.5 * (2.0**2 + 1.5), 3.5])
    assert (program.integer.tolist(), program.lower.tolist(), program.upper.tolist()) == (
        [False, True], [0.0, -5.0], [10.0, 5.0],
    )  # fmt: skip
    assert (program.row_lower.tolist(), program.row_upper.tolist()) == ([3.0, 4.0], [np.inf, 4.0])
    assert program.start is not None
    assert program.start[0] == 2.5
    outcome = scip.solve(program, Options(time_limit=30), Events(ignore))
    assert outcome.x is not None
    # By hand: of the whole numbers for x1, with x0 = 4 - x1, -1 costs 5 + 1/e + 1 - 2, and 0 costs 4 + 1 + 1.
    assert program.objective.value(outcome.x) == pytest.approx(min(
        abs(4 - y) + np.exp(y) + 1 + 2 * y for y in range(-5, 5) if 0 <= 4 - y <= 10 and (4 - y) * (y * y + 4 - y) >= 3
    ), rel=1e-4)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("g3", "b3"), "only the text form"),
        (("o44", "o21"), "the operation o21 is not taken"),
        (("v1\nn1", "v9\nn1"), "there is no variable 9"),
        (("2 3\n4 4", "5 1 2\n4 4"), "no bounds that are taken"),
        (("0 0 10", "0 10 0"), "the variable 0 has the bounds 10 and 0"),
        (("0 2.5", "0 nan"), "expected a number, found 'nan'"),
        (("k1", "L1"), "begins no segment that is taken"),
        (("G0 2\n0 0\n1 2", "G0 2\n0 0"), "cut off"),
    ],
)
def test_what_is_wrong_in_an_nl_file_is_told_by_its_line(change: tuple[str, str], message: str) -> None:
    assert change[0] in NL
    with pytest.raises(InvalidField, match=f"line .*{message}"):
        read_nl(NL.replace(*change).splitlines())


def test_ten_thousand_nested_operations_are_read() -> None:
    deep = NL.replace("o44\nv1", "o16\n" * 10_000 + "v1")
    assert read_nl(deep.splitlines()).objective.value(np.array([0.0, 3.0])) == pytest.approx(3 + 1 + 6)


READERS: dict[str, tuple[Callable[[Iterable[str]], Any], str]] = {
    "shop": (lambda lines: read_source(read_shop(lines)), SHOP),
    "flexible": (lambda lines: read_source(read_shop(lines)), FLEXIBLE),
    "project": (lambda lines: read_source(read_project(lines)), PROJECT),
    "tour": (lambda lines: read_source(read_tour(lines)), TOUR),
    "nl": (read_nl, NL),
    "json": (
        lambda lines: read_source(read_question(lines)),
        json.dumps({"expressions": {"variables": {"x": {}}, "minimize": "x ** 4"}}, indent=1),
    ),
}


def _mutated(text: str, seed: int) -> str:
    """The text with some of its words lost, doubled, moved or replaced."""
    choose = random.Random(seed)
    words = text.replace("\n", " \n ").split(" ")
    for _ in range(choose.randint(1, 4)):
        place, other = choose.randrange(len(words)), choose.randrange(len(words))
        kind = choose.randrange(5)
        if kind == 0:
            words.insert(place, words[other])
        elif kind == 1:
            words[place], words[other] = words[other], words[place]
        elif kind == 2:
            words[place] = choose.choice(["nan", "inf", "-1", "1e400", "[", "0", "\0", "1_0", "é", "9" * 400, "99999"])
        elif kind == 3:
            words[place] = ""
        else:
            words = words[: place + 1]
    return " ".join(words)


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), text=st.text(max_size=60))
def test_readers_refuse_or_understand(kind: str, seed: int, text: str) -> None:
    read, right = READERS[kind]
    for given_text in (text, _mutated(right, seed)):
        with contextlib.suppress(ComputeError):
            assert read(given_text.splitlines()).size[1] > 0


def test_the_command_knows_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "shop.txt").write_text(FLEXIBLE)
    assert main([str(tmp_path / "shop.txt"), "--time-limit", "30"]) == 0
    assert capsys.readouterr().out.startswith("OPTIMAL\nobjective 9, bound 9")
    infix = {
        "format": "nlp-infix/1",
        "variables": {"names": ["x[0]", "x[1]"], "lower_bounds": [None, 0], "upper_bounds": [3, None], "start": [1, 2]},
        "objective": {"expression": "(x[0] - 1)**4 + (x[1] - 2)**2"},
        "constraints": [{"expression": "x[0]*x[1]", "lower_bound": 1, "upper_bound": None}],
    }
    (tmp_path / "curve.json").write_text(json.dumps(infix))
    program = read_file(tmp_path / "curve.json")
    assert isinstance(program, NonlinearProgram)
    outcome = slsqp.solve(program, Options(), Events(ignore))
    assert program.start is not None
    assert outcome.x == pytest.approx([1, 2], abs=1e-2)
    with pytest.raises(ComputeError, match="not one of arrays"):
        read_program(tmp_path / "curve.json")
