"""Answers queries of the type `simulation`: draws inputs, gets what comes of them, and says how that is distributed.

Samples come in blocks of a fixed size, each with a seed sequence of its own, and the rule that stops looks at blocks in
their order: the answer is the same however many workers there are, and however fast they are. numpy and scipy are
imported inside the functions.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from compute import Config, get_compute_manager
from compute.errors import InvalidField
from registry import TaskContext, get_model_registry
from solver.chunks import in_order
from solver.formula import read_formula
from solver.optimization.engine import Options
from solver.optimization.solve import solve_program
from solver.prediction import predict_rows
from solver.sampling import Inputs
from solver.simulation_query import SimulationParameters, SimulationQuery
from solver.template import Template

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

_BLOCK = {"formula": 10_000, "model": 2_000, "optimization": 10}
"""Samples of one block: what is drawn, and counted, together."""
_SOLVE_SECONDS = 60.0
_RANKED = 50_000
"""Samples that sensitivities are reckoned from, at most."""


def prepare(query: SimulationQuery, parameters: SimulationParameters, config: Config) -> SimulationQuery:  # noqa: ARG001
    """Check the question by a first few samples, and pin the model."""
    if query.model is not None:
        record = get_model_registry(config).resolve(query.model)
        query = query.model_copy(update={"model": record.model_id})
    _outcomes(query, _inputs(query).block(0, 0, 2), config)
    return query


def needs(parameters: SimulationParameters) -> dict[str, float]:  # noqa: ARG001
    """Return what a task takes of the cluster: its blocks are in tasks of their own."""
    return {"cpu": 0.1}


def answer(query: SimulationQuery, parameters: SimulationParameters, context: TaskContext) -> dict[str, Any]:
    """Simulate until the mean is known well enough, or all samples are taken.

    Returns
    -------
    dict
        ``samples``, ``mean``, ``mean_interval``, ``std``, ``min``, ``max``, ``quantiles``, ``histogram``
        (``edges``, ``counts``), ``sensitivities`` (Spearman's rank correlation of each input with the outcome),
        ``stopped`` (``tolerance`` or ``samples``), and of an optimization ``terminations``, how often each; scenarios
        without an optimum are in no other figure.
    """
    import numpy as np

    size = min(_BLOCK[_kind(query)], parameters.samples)
    count = -(-parameters.samples // size)
    blocks: list[Floats] = []
    reasons: Counter[str] = Counter()
    stopped, taken = "samples", 0
    shared = (query.model_dump(), parameters.seed, size, context.config)
    with closing(in_order(partial(get_compute_manager, config=context.config), _block, shared, count)) as results:
        for values, ended in results:
            block = np.asarray(values)[: parameters.samples - taken]
            taken += len(block)
            blocks.append(block)
            reasons.update(ended)
            known = np.concatenate(blocks)
            known = known[np.isfinite(known)]
            context.progress(min(1.0, taken / parameters.samples), f"{taken:,} samples")
            if parameters.tolerance is not None and len(known) >= 100:
                mean, half = _mean(known, parameters.confidence)
                if half <= parameters.tolerance * abs(mean):
                    stopped = "tolerance"
                    break
    outcomes = np.concatenate(blocks)
    return {
        **_figures(outcomes, parameters),
        "sensitivities": _sensitivities(query, outcomes, parameters.seed, size),
        "stopped": stopped,
        "seed": parameters.seed,
        **({"terminations": dict(reasons)} if query.optimization is not None else {}),
    }


def _block(shared: tuple[dict[str, Any], int, int, Config], number: int) -> tuple[Floats, list[str]]:
    """Give the outcomes of one block, and how its solves ended; in a worker."""
    question, seed, size, config = shared
    query = SimulationQuery.model_validate(question)
    return _outcomes(query, _inputs(query).block(seed, number, size), config)


def _outcomes(query: SimulationQuery, inputs: dict[str, Floats], config: Config) -> tuple[Floats, list[str]]:
    import numpy as np

    count = len(next(iter(inputs.values())))
    if query.formula is not None:
        with np.errstate(all="ignore"):
            computed = read_formula(query.formula, list(inputs), "query_data.formula")(inputs)
        return np.broadcast_to(np.asarray(computed, np.float64), (count,)).copy(), []
    samples = [dict(zip(inputs, row, strict=True)) for row in np.column_stack(list(inputs.values())).tolist()]
    if query.model is not None:
        record = get_model_registry(config).resolve(query.model)
        if record.signature is not None:
            _check_features(query, set(record.signature.feature_names))
        found = predict_rows(record, [{**query.row, **sample} for sample in samples], config)
        return np.asarray(found, np.float64), []
    assert query.optimization is not None, "the question has one source"
    template = Template(query.optimization, list(inputs))
    ended: list[str] = []
    values: list[float] = []
    for sample in samples:
        solution = solve_program(template.program(sample), Options(time_limit=_SOLVE_SECONDS), here=True)
        ended.append(solution.reason)
        optimal = solution.reason == "OPTIMAL" and solution.check is not None
        values.append(solution.check.objective if optimal and solution.check is not None else math.nan)
    return np.array(values), ended


def _check_features(query: SimulationQuery, features: set[str]) -> None:
    for name in query.inputs:
        if name not in features:
            raise InvalidField(
                f"query_data.inputs.{name}: the model has no such feature",
                hint=f"It has {', '.join(sorted(features))}.",
                context={"field": f"query_data.inputs.{name}"},
            )


def _kind(query: SimulationQuery) -> str:
    return next(name for name in _BLOCK if getattr(query, name) is not None)


def _inputs(query: SimulationQuery) -> Inputs:
    return Inputs(query.inputs, query.correlations)


def _mean(values: Floats, confidence: float) -> tuple[float, float]:
    from scipy.special import ndtri

    return float(values.mean()), float(ndtri(0.5 + confidence / 2) * values.std(ddof=1) / math.sqrt(len(values)))


def _figures(outcomes: Floats, parameters: SimulationParameters) -> dict[str, Any]:
    import numpy as np

    known = outcomes[np.isfinite(outcomes)]
    told: dict[str, Any] = {"samples": len(outcomes), "without_value": len(outcomes) - len(known)}
    if len(known) < 2:
        return {**told, "mean": None, "mean_interval": None, "std": None, "min": None, "max": None} | {
            "quantiles": {}, "histogram": {"edges": [], "counts": []}
        }  # fmt: skip
    mean, half = _mean(known, parameters.confidence)
    counts, edges = np.histogram(known, parameters.bins)
    shares = np.quantile(known, parameters.quantiles).tolist()
    return {
        **told,
        "mean": mean,
        "mean_interval": [mean - half, mean + half],
        "std": float(known.std(ddof=1)),
        "min": float(known.min()),
        "max": float(known.max()),
        "quantiles": dict(zip(map(str, parameters.quantiles), shares, strict=True)),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _sensitivities(query: SimulationQuery, outcomes: Floats, seed: int, size: int) -> dict[str, float | None]:
    """Return the rank correlation of each input with the outcome; the inputs are drawn again."""
    import numpy as np
    from scipy.stats import rankdata

    inputs, outcomes = _inputs(query), outcomes[:_RANKED]
    drawn = [inputs.block(seed, number, size) for number in range(-(-len(outcomes) // size))]
    known = np.isfinite(outcomes)
    found: dict[str, float | None] = {}
    for name in inputs.uncertain:
        values = np.concatenate([block[name] for block in drawn])[: len(outcomes)][known]
        left, right = rankdata(values), rankdata(outcomes[known])
        varies = len(left) > 1 and left.std() > 0 and right.std() > 0
        found[name] = float(np.corrcoef(left, right)[0, 1]) if varies else None
    return found
