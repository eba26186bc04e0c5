"""One trial of a study, in a worker: fit the parameters to a part of the training rows, and measure on the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compute.errors import DataError
from jobs.families import ROUNDS, Problem, find_family
from jobs.metrics import measure

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Material:
    """What all trials share: the training rows, how much they weigh, and which are fitted and measured in each fold."""

    matrix: npt.NDArray[Any]
    truth: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None
    folds: list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]
    model_type: str
    metric: str
    problem: Problem


@dataclass(frozen=True)
class Rung:
    """A part of a trial: so many rounds more of the models of its folds, and what they are worth then."""

    value: float
    models: list[Any]


def run_rung(material: Material, params: Mapping[str, Any], rounds: int | None, models: list[Any] | None) -> Rung:
    """Fit a model for each fold, or go on with those of the rung before.

    Parameters
    ----------
    material : Material
        Shared by all trials.
    params : mapping
        All parameters of the library.
    rounds : int or None
        How many to add; None for what the parameters say, of a family that cannot go on.
    models : list or None
        Of the rung before.
    """
    import numpy as np

    from jobs.fitting import baseline_of

    family = find_family(material.model_type)
    if rounds is not None:
        params = {**without_rounds(params), "num_boost_round": rounds}
    problem = replace(material.problem, params=params)
    values, fitted = [], []
    for fold, (training, held) in enumerate(material.folds):
        start = () if models is None else (models[fold],)
        options = {} if material.weights is None else {"weights": material.weights[training]}
        model = family.fit(material.matrix[training], material.truth[training], problem, *start, **options)
        baseline = baseline_of(material.truth[training], problem.target)
        scores = family.score(model, material.matrix[held], problem)
        measured = measure(material.truth[held], scores, baseline)
        if material.metric not in measured:
            raise DataError(
                f"{material.metric} needs rows of both classes in each part, and one has rows of one class only",
                hint="Use fewer folds, a larger validation_fraction, or log_loss.",
            )
        values.append(measured[material.metric])
        fitted.append(model)
    return Rung(float(np.mean(values)), fitted if rounds is not None else [])


def rungs_of(model_type: str, params: Mapping[str, Any]) -> list[int]:
    """Return how many rounds each rung adds: to a ninth, to a third, and to all.

    Examples
    --------
    >>> rungs_of("xgboost", {"num_boost_round": 100}), rungs_of("xgboost", {"n_estimators": 5})
    ([11, 22, 67], [5])
    """
    total = find_family(model_type).rounds(params)
    if total < 9:
        return [total]
    steps = [total // 9, total // 3, total]
    return [after - before for before, after in zip([0, *steps], steps, strict=False)]


def without_rounds(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters but the number of rounds."""
    return {name: value for name, value in params.items() if name not in ROUNDS}
