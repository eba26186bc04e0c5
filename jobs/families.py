"""The model types: one small record each, and the errors for what they do not know.

A family is a function that fits a native model to an encoded matrix, one that scores a matrix with it, and what a
planner must know about it. xgboost, lightgbm and scikit-learn are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from compute.errors import InvalidField
from jobs.columns import listing, nearest
from jobs.targets import Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.floating[Any]]

Dtype = Literal["float32", "float64"]
"""What the numbers of a matrix are kept as."""


ROUNDS = (
    "num_boost_round", "n_estimators", "num_iterations", "num_iteration", "n_iter", "num_tree", "num_trees",
    "num_round", "num_rounds", "nrounds", "max_iter",
)  # fmt: skip
"""What the libraries call the number of boosting rounds."""


@dataclass(frozen=True)
class Problem:
    """What to learn: the task, the columns of the matrix, and how.

    ``categories`` has the number of categories of each column, 0 for one that is a number. ``monotone`` has for each
    column 1 where predictions may only rise with it, -1 where they may only fall, and 0; it is empty without any.
    """

    target: Target
    columns: tuple[str, ...]
    categories: tuple[int, ...]
    params: Mapping[str, Any]
    seed: int
    threads: int
    monotone: tuple[int, ...] = ()

    @property
    def classes(self) -> int:
        """The number of classes; 0 for regression."""
        return len(self.target.classes or ())


@dataclass(frozen=True)
class Boosting:
    """What can be done with a model that is made of rounds.

    ``count`` is how many it has, ``first`` a model of its first rounds, and ``at`` scores with so many of them.
    ``dump`` and ``load`` turn it into bytes and back, where training goes on from them.
    """

    count: Callable[[Any], int]
    first: Callable[[Any, int], Any]
    at: Callable[[Any, Matrix, Problem, int], Matrix]
    dump: Callable[[Any], bytes] | None = None
    load: Callable[[bytes], Any] | None = None


@dataclass(frozen=True)
class Family:
    """One model type.

    ``check`` refuses parameters the library does not know, before any data are read. ``fit`` takes the training
    matrix, its encoded target and the problem, and where ``continues`` also a model to which it adds its rounds;
    ``weights`` of the rows, and where there is ``boosting`` a ``watch`` (`jobs.boosting`), are keywords.
    ``score`` gives values of shape (rows,) for regression and probabilities of shape (rows, classes) otherwise.
    ``rounds`` is the number of boosting rounds or trees, and ``peak`` the bytes that fitting takes on top of the
    matrix, for (rows, features, params). ``importances`` has a value of at least 0 for each column, from the model and
    some rows. ``distributes`` is what workers of a cluster have shares of: the rows, or the trees, each from all rows;
    ``effort`` is how long a round takes for each cell of the matrix, 1 for boosting. ``monotone`` is whether it
    takes monotone constraints.
    """

    model_type: str
    libraries: tuple[str, ...]
    dtype: Dtype
    check: Callable[[Mapping[str, Any], str | None], None]
    fit: Callable[..., Any]
    score: Callable[[Any, Matrix, Problem], Matrix]
    rounds: Callable[[Mapping[str, Any]], int]
    peak: Callable[[int, int, Mapping[str, Any]], int]
    importances: Callable[[Any, Matrix, Problem], Matrix]
    distributes: Literal["rows", "trees"] | None = None
    effort: float = 1.0
    continues: bool = False
    boosting: Boosting | None = None
    monotone: bool = False


def find_family(model_type: str) -> Family:
    """Return the family of a model type, or say which there are.

    Examples
    --------
    >>> find_family("xgboost").distributes
    'rows'
    >>> find_family("xgbost")
    Traceback (most recent call last):
    ...
    compute.errors.InvalidField: there is no model type 'xgbost' (did you mean 'xgboost'?). The types are ...
    """
    from jobs import family_lightgbm, family_sklearn, family_xgboost

    families = {
        family.model_type: family
        for family in (
            family_xgboost.XGBOOST,
            family_lightgbm.LIGHTGBM,
            family_sklearn.RANDOM_FOREST,
            family_sklearn.GRADIENT_BOOSTING,
            family_sklearn.LINEAR,
            family_sklearn.LOGISTIC,
        )
    }
    if model_type not in families:
        raise InvalidField(
            f"there is no model type {model_type!r}{nearest(str(model_type), families)}",
            hint=f"The types are {', '.join(families)}.",
            context={"model_type": model_type, "known": list(families)},
        )
    return families[model_type]


def refuse_unknown(given: Iterable[str], known: Iterable[str], library: str) -> None:
    """Raise InvalidField for the parameters that a library would ignore or misread."""
    names = sorted(set(known))
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise InvalidField(
            f"{library} has no parameter {unknown[0]!r}{nearest(unknown[0], names)}"
            + (f" (nor {listing(unknown[1:])})" if unknown[1:] else ""),
            hint="Parameters are passed on as they are; see the library's documentation.",
            context={"parameters": unknown},
        )


def take_rounds(params: Mapping[str, Any], names: tuple[str, ...], default: int = 100) -> tuple[int, dict[str, Any]]:
    """Split the number of boosting rounds, under whichever of its names, from the other parameters.

    Examples
    --------
    >>> take_rounds({"n_estimators": 50, "max_depth": 3}, ("num_boost_round", "n_estimators"))
    (50, {'max_depth': 3})
    """
    rest = dict(params)
    given = {name: rest.pop(name) for name in names if name in rest}
    if len(given) > 1:
        raise InvalidField(f"{' and '.join(given)} are the same parameter", hint="Give one of them.")
    rounds = next(iter(given.values()), default)
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
        raise InvalidField(
            f"{next(iter(given))} is {rounds!r}, and must be a whole number of at least 1",
            context={"parameters": list(given)},
        )
    return rounds, rest


def plain_names(columns: tuple[str, ...]) -> list[str]:
    """Return names the libraries take: no brackets, quotes or spaces, all different.

    Examples
    --------
    >>> plain_names(("mean radius", "a[1]", "a<1]"))
    ['mean_radius', 'a_1_', 'a_1__2']
    """
    taken: dict[str, int] = {}
    names = []
    for column in columns:
        name = "".join("_" if char in ' \t\n[]<>{}":,' else char for char in column)
        while name in taken:
            taken[name] += 1
            name = f"{name}_{taken[name]}"
        taken[name] = 1
        names.append(name)
    return names
