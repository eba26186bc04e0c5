"""Draws the inputs of a simulation: from distributions of SciPy's names, correlated by a Gaussian copula if asked.

Samples come in blocks, each from a seed sequence of its own: block 7 is the same whoever draws it, and when. numpy and
scipy are imported inside the functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compute.errors import InvalidField

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

DISTRIBUTIONS = (
    "norm", "uniform", "triang", "lognorm", "expon", "gamma", "beta", "t", "weibull_min", "pareto", "laplace",
    "logistic", "poisson", "binom", "randint", "geom", "bernoulli", "empirical",
)  # fmt: skip


class Inputs:
    """The inputs of a simulation.

    Parameters
    ----------
    given : mapping
        For each name ``{"distribution": "norm", "loc": 100, "scale": 15}``, in SciPy's names and parameters, or
        ``{"distribution": "empirical", "values": [...]}``, or a number that stays what it is.
    correlations : sequence of mapping
        ``{"of": ["demand", "price"], "is": -0.4}``: of the normal scores of two inputs.

    Raises
    ------
    InvalidField
        Naming the input and what is wrong with it.

    Examples
    --------
    >>> inputs = Inputs({"demand": {"distribution": "norm", "loc": 100, "scale": 15}, "price": 3.0})
    >>> block = inputs.block(seed=0, number=0, size=1000)
    >>> bool(abs(block["demand"].mean() - 100) < 2), block["price"][:2].tolist()
    (True, [3.0, 3.0])
    """

    def __init__(self, given: Mapping[str, Any], correlations: Sequence[Mapping[str, Any]] = ()) -> None:
        if not given:
            raise InvalidField("query_data.inputs is empty", hint="Name at least one.", context={"field": "inputs"})
        self._fixed: dict[str, float] = {}
        self._random: dict[str, Any] = {}
        for name, one in given.items():
            field = f"query_data.inputs.{name}"[:120]
            if not name.isidentifier():
                raise InvalidField(f"{field} is no name", hint="Letters, digits and _.", context={"field": field})
            if isinstance(one, int | float) and not isinstance(one, bool):
                self._fixed[name] = _finite(one, field)
            else:
                self._random[name] = _frozen(one, field)
        self._root = _root(list(self._random), correlations) if correlations else None
        self.names = list(given)

    @property
    def uncertain(self) -> list[str]:
        """The names of those that vary."""
        return list(self._random)

    def block(self, seed: int, number: int, size: int) -> dict[str, Floats]:
        """Return one block of samples: an array of shape (size,) for each input."""
        import numpy as np
        from scipy.special import ndtr

        random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
        scores = random.standard_normal((size, len(self._random)))
        if self._root is not None:
            scores = scores @ self._root.T
        shares = np.clip(ndtr(scores), 1e-16, 1 - 1e-16)
        drawn = {
            name: np.asarray(distribution.ppf(shares[:, place]), np.float64)
            for place, (name, distribution) in enumerate(self._random.items())
        }
        return {name: drawn[name] if name in drawn else np.full(size, self._fixed[name]) for name in self.names}


class _Empirical:
    """Values that were seen, each as likely as the others."""

    def __init__(self, values: Floats) -> None:
        self._values = values

    def ppf(self, shares: Floats) -> Floats:
        """Return the values at these shares of them."""
        import numpy as np

        places = np.minimum((shares * len(self._values)).astype("int64"), len(self._values) - 1)
        return np.asarray(self._values[places], np.float64)


def _frozen(given: Any, field: str) -> Any:
    import numpy as np
    from scipy import stats

    if not isinstance(given, Mapping) or not isinstance(given.get("distribution"), str):
        raise InvalidField(
            f"{field} is neither a number nor a distribution",
            hint='It looks like {"distribution": "norm", "loc": 100, "scale": 15}.',
            context={"field": field},
        )
    name, parameters = given["distribution"], {key: value for key, value in given.items() if key != "distribution"}
    if name not in DISTRIBUTIONS:
        raise InvalidField(
            f"{field}: there is no distribution {name[:80]!r}",
            hint=f"There are {', '.join(DISTRIBUTIONS)}, by SciPy's names.",
            context={"field": field},
        )
    if name == "empirical":
        values = parameters.get("values")
        if set(parameters) != {"values"} or not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise InvalidField(f"{field}: an empirical distribution has values, and nothing else", "", {"field": field})
        return _Empirical(np.sort(np.array([_finite(value, f"{field}.values") for value in values], np.float64)))
    kind = getattr(stats, name)
    shapes = [shape.strip() for shape in (kind.shapes or "").split(",") if shape.strip()]
    known = [*shapes, "loc", *(["scale"] if hasattr(kind, "pdf") else [])]
    unknown = [key for key in parameters if key not in known]
    missing = [shape for shape in shapes if shape not in parameters]
    if unknown or missing:
        what = f"has no parameter {unknown[0][:80]!r}" if unknown else f"needs {missing[0]!r}"
        raise InvalidField(f"{field}: {name} {what}", hint=f"It has {', '.join(known)}.", context={"field": field})
    frozen = kind(**{key: _finite(value, f"{field}.{key}") for key, value in parameters.items()})
    if not np.isfinite(frozen.ppf([0.25, 0.5, 0.75])).all():
        raise InvalidField(f"{field}: {name} is not defined for these parameters", context={"field": field})
    return frozen


def _root(names: list[str], correlations: Sequence[Mapping[str, Any]]) -> Floats:
    """Return a root of the correlation matrix."""
    import numpy as np

    matrix = np.eye(len(names))
    for number, one in enumerate(correlations):
        field = f"query_data.correlations[{number}]"
        pair, rho = one.get("of"), one.get("is")
        good = isinstance(pair, Sequence) and len(pair) == 2 and all(item in names for item in pair)
        if set(one) != {"of", "is"} or not good or pair is None or pair[0] == pair[1]:
            raise InvalidField(
                f"{field} does not name two inputs that vary",
                hint='It looks like {"of": ["demand", "price"], "is": -0.4}.',
                context={"field": field},
            )
        left, right = names.index(pair[0]), names.index(pair[1])
        matrix[left, right] = matrix[right, left] = _finite(rho, f"{field}.is")
    values, vectors = np.linalg.eigh(matrix)
    if values.min() < -1e-9:
        raise InvalidField(
            "query_data.correlations contradict each other: no inputs have them all",
            hint="Each lies between -1 and 1, and two inputs that go with a third go with each other.",
            context={"field": "query_data.correlations"},
        )
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)), np.float64)


def _finite(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidField(f"{field} is {value!r:.80}, not a number", context={"field": field})
    return float(value)
