"""Files of well-known collections as questions: job shops, flexible ones, projects with resources, round trips."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise, product
from typing import Any, NoReturn

from compute.errors import InvalidField

_MOST = 1_000_000
"""Of anything that a file counts."""
_FAR = 10**9
_EARTH = 6378.388
"""Its radius in km, as TSPLIB has it."""

Question = dict[str, Any]


def read_shop(lines: Iterable[str]) -> Question:
    """Return the question of a job shop: of each job in turn, machine and duration of each operation.

    A first line of three numbers, the last an average that says nothing more, is that of a flexible job shop: of each
    operation it has how many machines can do it, and those, counted from 1, with durations.

    Examples
    --------
    >>> question = read_shop(["# two jobs on two machines", "2 2", "0 3 1 2", "1 2 0 4"])
    >>> question["constraints"]["intervals"]["job0_0"], question["constraints"]["minimize"]
    ({'duration': 3}, 'makespan')
    """
    text = [line for line in (one.split("#", 1)[0] for one in lines) if line.strip()]
    if text and len(text[0].split()) == 3:
        return _flexible(text)
    numbers = _Numbers(text, "job shop")
    jobs, machines = numbers.count(), numbers.count()
    work = [[[(numbers.count(), numbers.count())] for _ in range(machines)] for _ in range(jobs)]
    numbers.end()
    return _shop(work, machines)


def read_project(lines: Iterable[str]) -> Question:
    """Return the question of a project with scarce resources, in Patterson's format (``.rcp``).

    Examples
    --------
    >>> question = read_project(["3 1", "2", "0 0 1 2", "4 1 1 3", "0 0 0"])
    >>> question["constraints"]["constraints"]
    ['task1.start >= task0.end', 'task2.start >= task1.end', {'cumulative': {'intervals': ['task1'], ...
    """
    numbers = _Numbers(lines, "project")
    tasks, resources = numbers.count(), numbers.count()
    capacities = [numbers.count() for _ in range(resources)]
    durations, demands, order = [], [], []
    for task in range(tasks):
        durations.append(numbers.count())
        demands.append([numbers.count() for _ in range(resources)])
        for _ in range(numbers.count()):
            after = numbers.count() - 1
            if not 0 <= after < tasks:
                numbers.refuse(f"there is no task {after + 1}")
            order.append(f"task{after}.start >= task{task}.end")
    numbers.end()
    cumulatives = []
    for resource, capacity in enumerate(capacities):
        used = [task for task in range(tasks) if demands[task][resource]]
        if used:
            of_tasks = [f"task{task}" for task in used]
            wanted = [demands[task][resource] for task in used]
            cumulatives.append({"cumulative": {"intervals": of_tasks, "demands": wanted, "capacity": capacity}})
    horizon = sum(durations)
    return _question(
        horizon=horizon,
        variables={"makespan": {"lower": 0, "upper": horizon}},
        intervals={f"task{task}": {"duration": duration} for task, duration in enumerate(durations)},
        constraints=[*order, *cumulatives, *(f"makespan >= task{task}.end" for task in range(tasks))],
        minimize="makespan",
    )


def read_tour(lines: Iterable[str]) -> Question:
    r"""Return the question of a shortest round trip, in the format of TSPLIB (``.tsp``).

    Examples
    --------
    >>> text = "NAME: t\nDIMENSION: 3\nEDGE_WEIGHT_TYPE: EUC_2D\nNODE_COORD_SECTION\n1 0 0\n2 3 0\n3 0 4\nEOF"
    >>> read_tour(text.splitlines())["constraints"]["minimize"]["coefficients"]["from0to1"]
    3
    """
    fields, sections = _sections(lines)
    if not fields.get("DIMENSION", "").isdecimal() or not 2 <= (count := int(fields["DIMENSION"][:9])) <= 700:
        _refuse("TSPLIB", "DIMENSION is missing, or not from 2 to 700")
    kind = fields.get("EDGE_WEIGHT_TYPE", "")
    if kind == "EXPLICIT":
        matrix = _explicit(fields.get("EDGE_WEIGHT_FORMAT", ""), sections.get("EDGE_WEIGHT_SECTION", []), count)
        distance: Callable[[int, int], int] = lambda i, j: matrix[i, j]  # noqa: E731
    elif kind in _DISTANCES:
        numbers = sections.get("NODE_COORD_SECTION", [])
        if len(numbers) != 3 * count:
            _refuse("TSPLIB", f"NODE_COORD_SECTION has {len(numbers)} numbers, and {3 * count} are needed")
        places = [(numbers[3 * node + 1], numbers[3 * node + 2]) for node in range(count)]
        between = _DISTANCES[kind]
        distance = lambda i, j: between(places[i], places[j])  # noqa: E731
    else:
        _refuse("TSPLIB", f"the distances {kind[:40]!r} are none of EXPLICIT, {', '.join(_DISTANCES)}")
    arcs = [(tail, head) for tail, head in product(range(count), repeat=2) if tail != head]
    return _question(
        variables={f"from{tail}to{head}": {"boolean": True} for tail, head in arcs},
        constraints=[{"circuit": [[tail, head, f"from{tail}to{head}"] for tail, head in arcs]}],
        minimize={"coefficients": {f"from{tail}to{head}": distance(tail, head) for tail, head in arcs}},
    )


def read_question(lines: Iterable[str]) -> Question:
    """Return the question that a JSON file has: `expressions`, `constraints` or `model`, as over HTTP.

    Files of the format ``nlp-infix/1`` are taken, too: nonlinear programs whose variables are ``x[0]``, ``x[1]``, ...

    Examples
    --------
    >>> read_question(['{"expressions": {"variables": {"x": {"lower": 1}}, "minimize": "x"}}'])["expressions"]
    {'variables': {'x': {'lower': 1}}, 'minimize': 'x'}
    """
    try:
        given = json.loads("".join(lines))
    except (ValueError, RecursionError) as error:
        _refuse("JSON", f"it cannot be read: {error}")
    if isinstance(given, dict) and given.get("format") == "nlp-infix/1":
        return _infix(given)
    known = [key for key in ("expressions", "constraints", "model") if isinstance(given, dict) and key in given]
    if len(known) != 1 or not isinstance(given[known[0]], dict):
        _refuse("JSON", "it is no object with one of expressions, constraints and model")
    return {known[0]: given[known[0]]}


# Shops


def _flexible(text: list[str]) -> Question:
    numbers = _Numbers([" ".join(text[0].split()[:2]), *text[1:]], "flexible job shop")
    jobs, machines = numbers.count(), numbers.count()
    work = []
    for _ in range(jobs):
        operations = range(numbers.count())
        work.append([[(numbers.count() - 1, numbers.count()) for _ in range(numbers.count())] for _ in operations])
    numbers.end()
    return _shop(work, machines)


def _shop(work: list[list[list[tuple[int, int]]]], machines: int) -> Question:
    """Return the question of jobs of operations, each with the machines that can do it and how long they take."""
    horizon = sum(max(duration for _, duration in choices) for job in work for choices in job if choices)
    intervals: dict[str, Any] = {}
    constraints: list[Any] = []
    busy: dict[int, list[str]] = {machine: [] for machine in range(machines)}
    for number, job in enumerate(work):
        names = [f"job{number}_{place}" for place in range(len(job))]
        for name, choices in zip(names, job, strict=True):
            if not choices or any(machine not in busy for machine, _ in choices):
                _refuse("job shop", f"an operation of job {number} names a machine beyond the {machines} there are")
            if len(choices) == 1:
                intervals[name] = {"duration": choices[0][1]}
                busy[choices[0][0]].append(name)
                continue
            durations = [duration for _, duration in choices]
            intervals[name] = {"duration": {"lower": min(durations), "upper": max(durations)}}
            copies = [f"{name}_on{machine}" for machine, _ in choices]
            for copy, (machine, duration) in zip(copies, choices, strict=True):
                intervals[copy] = {"start": f"{name}.start", "duration": duration, "optional": True}
                constraints.append({"linear": f"{name}.duration == {duration}", "if": f"{copy}.present"})
                busy[machine].append(copy)
            constraints.append({"exactly_one": [f"{copy}.present" for copy in copies]})
        constraints += [f"{after}.start >= {before}.end" for before, after in pairwise(names)]
        constraints += [f"makespan >= {name}.end" for name in names[-1:]]
    constraints += [{"no_overlap": names} for names in busy.values() if len(names) > 1]
    return _question(
        horizon=horizon,
        variables={"makespan": {"lower": 0, "upper": horizon}},
        intervals=intervals,
        constraints=constraints,
        minimize="makespan",
    )


# Round trips


def _euclid(a: tuple[float, float], b: tuple[float, float]) -> float:
    return math.hypot(a[0] - b[0], a[1] - b[1])


def _pseudo_euclid(a: tuple[float, float], b: tuple[float, float]) -> int:
    exact = math.sqrt(((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / 10.0)
    return math.ceil(exact)


def _on_earth(a: tuple[float, float], b: tuple[float, float]) -> int:
    def radians(value: float) -> float:
        # Degrees and minutes; and pi as TSPLIB has it.
        degrees = int(value)
        return 3.141592 * (degrees + 5.0 * (value - degrees) / 3.0) / 180.0

    (north, east), (north_b, east_b) = ((radians(x), radians(y)) for x, y in (a, b))
    one, two, three = math.cos(east - east_b), math.cos(north - north_b), math.cos(north + north_b)
    return int(_EARTH * math.acos(max(-1.0, min(1.0, 0.5 * ((1.0 + one) * two - (1.0 - one) * three)))) + 1.0)


_DISTANCES: Mapping[str, Callable[[tuple[float, float], tuple[float, float]], int]] = {
    "EUC_2D": lambda a, b: int(_euclid(a, b) + 0.5),
    "CEIL_2D": lambda a, b: math.ceil(_euclid(a, b)),
    "ATT": _pseudo_euclid,
    "GEO": _on_earth,
}


def _sections(lines: Iterable[str]) -> tuple[dict[str, str], dict[str, list[float]]]:
    fields: dict[str, str] = {}
    sections: dict[str, list[float]] = {}
    current: list[float] | None = None
    for number, text in enumerate(lines, start=1):
        line = text.strip()
        if not line or line == "EOF":
            continue
        if line.split()[0].rstrip(":").endswith("_SECTION"):
            current = sections.setdefault(line.split()[0].rstrip(":"), [])
        elif current is not None and (line[0].isdigit() or line[0] in "+-."):
            for word in line.split():
                current.append(_coordinate(word, number))
        elif ":" in line:
            key, value = line.split(":", 1)
            fields[key.strip()] = value.strip()
        else:
            _refuse("TSPLIB", f"line {number} is no field, no section and no numbers: {line[:40]!r}")
    return fields, sections


def _coordinate(word: str, line: int) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not abs(value) <= _FAR:
        _refuse("TSPLIB", f"line {line} has {word[:40]!r}, which is no number within 1e9")
    return value


def _explicit(form: str, numbers: list[float], count: int) -> dict[tuple[int, int], int]:
    """Return the distances of a matrix, of which a triangle may be given."""
    every = range(count)
    orders: Mapping[str, Callable[[], Iterable[tuple[int, int]]]] = {
        "FULL_MATRIX": lambda: ((i, j) for i in every for j in every),
        "UPPER_ROW": lambda: ((i, j) for i in every for j in range(i + 1, count)),
        "LOWER_ROW": lambda: ((i, j) for i in every for j in range(i)),
        "UPPER_DIAG_ROW": lambda: ((i, j) for i in every for j in range(i, count)),
        "LOWER_DIAG_ROW": lambda: ((i, j) for i in every for j in range(i + 1)),
    }
    if form not in orders:
        _refuse("TSPLIB", f"EDGE_WEIGHT_FORMAT is {form[:40]!r}, which is none of {', '.join(orders)}")
    places = list(orders[form]())
    if len(numbers) != len(places) or any(number != int(number) for number in numbers):
        _refuse("TSPLIB", f"EDGE_WEIGHT_SECTION has {len(numbers)} numbers, and {len(places)} whole ones are needed")
    found = {}
    for (i, j), number in zip(places, numbers, strict=True):
        found[i, j] = int(number)
        if form != "FULL_MATRIX":
            found[j, i] = int(number)
    return found


# Nonlinear programs


def _infix(given: Mapping[str, Any]) -> Question:
    def plain(text: object) -> str:
        return re.sub(r"\b(\w+)\[(\d+)\]", r"\1_\2", str(text))

    try:
        variables, objective, rows = given["variables"], given["objective"], given["constraints"]
        names = [plain(name) for name in variables["names"]]
        bounds = zip(names, variables["lower_bounds"], variables["upper_bounds"], strict=True)
        return {
            "expressions": {
                "name": str(given.get("name", "")),
                "variables": {name: {"lower": low, "upper": high} for name, low, high in bounds},
                str(given.get("sense", "minimize")): plain(objective["expression"]),
                "subject_to": [
                    _between(plain(row["expression"]), row.get("lower_bound"), row.get("upper_bound")) for row in rows
                ],
            },
            "start": dict(zip(names, map(float, variables.get("start", [])), strict=False)),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _refuse("JSON", f"nlp-infix/1 has variables, an objective and constraints: {type(error).__name__} {error}")


def _between(expression: str, low: object, high: object) -> str:
    if low == high:
        return f"{expression} == {low}"
    left = "" if low is None else f"{low} <= "
    right = "" if high is None else f" <= {high}"
    return f"{left}{expression}{right}" if low is not None or high is not None else f"0*({expression}) == 0"


# Numbers


class _Numbers:
    """The whole numbers of a file, one after another."""

    def __init__(self, lines: Iterable[str], kind: str) -> None:
        self._kind = kind
        self._words = [(word, number) for number, text in enumerate(lines, start=1) for word in text.split()]
        self._place = 0

    def count(self) -> int:
        """Return the next number."""
        if self._place >= len(self._words):
            self.refuse("the file is cut off")
        word, line = self._words[self._place]
        self._place += 1
        if not word.isdecimal() or len(word) > 9 or int(word) > _MOST:
            self.refuse(f"line {line} has {word[:40]!r}, which is no whole number up to {_MOST:,}")
        return int(word)

    def end(self) -> None:
        """Refuse what is left."""
        if self._place < len(self._words):
            word, line = self._words[self._place]
            self.refuse(f"line {line} has {word[:40]!r} where the file should end")

    def refuse(self, what: str) -> NoReturn:
        """Say what is wrong."""
        _refuse(self._kind, what)


def _question(**constraints: Any) -> Question:
    return {"constraints": constraints}


def _refuse(kind: str, what: str) -> NoReturn:
    raise InvalidField(f"the {kind} file: {what}", context={"field": "uri"})
