"""Models scored a few rows at a time: what a call of their libraries costs is far more than the scoring.

Treelite reads the models of XGBoost and of scikit-learn, and its GTIL walks their trees at once: 30 instead of 130
microseconds for a row of a booster of XGBoost, or of 10,000 for a forest. What has no trees is compiled to ONNX
(`registry.compiled`). Either is used only where it says what the library says, on rows made to find a difference, and
only for as many rows as it is the faster one for. The call of LightGBM is fast by itself.
"""

from __future__ import annotations

import ctypes
import json
import logging
import time
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from registry.compiled import Score, SureScore, compile_smooth

logger = logging.getLogger(__name__)

MOST_ROWS = 4096
_ROWS = 512
_TREES = 200
_TOLERANCE = {"float32": 1e-6, "float64": 1e-9}
"""Relative. The sums of XGBoost agree to the last bit; its logistic function, and a mean of doubles, need not."""
_TIMED = (1, 64)
_SHAPES = 1_000
_crossovers: dict[Hashable, int] = {}
"""What was measured for models of a shape: thousands that are alike are timed once, for that takes half of a load."""


class FewRows:
    """Scores what a library would, for up to `most_rows` rows faster.

    Parameters
    ----------
    score : callable
        Takes a matrix of shape (rows, features); returns None where the library has to be asked.
    most_rows : int
        Up to how many rows it is the faster one.
    """

    def __init__(self, score: SureScore, most_rows: int) -> None:
        self.score = score
        self.most_rows = most_rows


def few_rows(
    model: Any, native: Score, features: int, iterations: tuple[int, int] | None = None, *, margin: bool = False
) -> FewRows | None:
    """Return what scores few rows faster than the library, or None when there is nothing that does.

    Parameters
    ----------
    model : xgboost.Booster or scikit-learn estimator
        The native model.
    native : callable
        What its library says: for a matrix, an array of shape (rows,), or (rows, classes) of probabilities.
    features : int
        Columns of the matrix.
    iterations : tuple of int, optional
        Of a booster: which of its rounds count; (0, 0) for all.
    margin : bool
        Of a booster: whether ``native`` gives the sums of the leaves, rather than what the objective makes of them.
    """
    try:
        trees = _read(model, iterations)
        tried = _compiled(model, features, native) if trees is None else _walked(model, trees, features, margin=margin)
        if tried is None:
            return None  # not of a kind for which this would be faster
        expected, found = native(tried.rows), tried.score(tried.rows)
        if (
            found is None
            or expected.shape != found.shape
            or not np.allclose(expected, found, rtol=_TOLERANCE[str(found.dtype)], atol=tried.least, equal_nan=True)
        ):
            logger.info("event=few_rows_left_out model=%s reason=differs", type(model).__name__)
            return None
        most = _crossovers.get(tried.shape)
        if most is None:
            most = _crossover(native, tried.score, tried.rows)
            if tried.shape is not None and len(_crossovers) < _SHAPES:
                _crossovers[tried.shape] = most
    except Exception as error:  # noqa: BLE001  (whatever cannot be read or converted, or the library refuses to be asked)
        logger.info("event=few_rows_left_out model=%s reason=%r", type(model).__name__, str(error)[:200])
        return None
    return FewRows(tried.score, most) if most else None


class _Tried(NamedTuple):
    """What may be faster, the rows to see that it says the same, and how far off it may be where that is nothing."""

    score: SureScore
    rows: NDArray[Any]
    least: float
    shape: Hashable
    """What its times depend on; None: they are taken for each model."""


def _compiled(model: Any, features: int, native: Score) -> _Tried | None:
    found = compile_smooth(model, features, native)
    return None if found is None else _Tried(*found, None)


def _walked(model: Any, trees: Any, features: int, *, margin: bool) -> _Tried:
    narrow = hasattr(model, "save_config") or _casts(model)
    score = _scorer(model, trees, features, margin=margin)
    rows = _near_thresholds(trees, features, "float32" if narrow else "float64")
    first = score(rows[:1])
    assert first is not None  # thresholds are numbers of the library's own
    width, depth = first.size, int(np.max(trees.get_tree_depth()))
    shape = (type(model), margin, width, depth, features.bit_length(), trees.num_tree.bit_length())
    return _Tried(score, rows, 0.0, shape)


def _read(model: Any, iterations: tuple[int, int] | None) -> Any:
    import treelite

    if hasattr(model, "save_config"):
        if iterations not in (None, (0, 0)):
            model = model[iterations[0] : iterations[1]]
        trees = treelite.frontend.from_xgboost(model)
        base = _logistic_base(model)
        if base is not None:
            trees.get_header_accessor().set_field("base_scores", base)
        return _base_first(trees)
    if type(model).__module__.startswith("sklearn.ensemble."):
        return treelite.sklearn.import_model(model)
    return None


def _logistic_base(model: Any) -> NDArray[np.float64] | None:
    """Return where the sums of a logistic booster begin, in single precision as XGBoost has it; Treelite has double."""
    learner = json.loads(model.save_config())["learner"]
    if learner["objective"]["name"] not in ("binary:logistic", "reg:logistic"):
        return None
    chances = np.atleast_1d(json.loads(learner["learner_model_param"]["base_score"])).astype("float32")
    return (-np.log(np.float32(1) / chances - np.float32(1))).astype("float64")


def _base_first(trees: Any) -> Any:
    """Put the base score into a first tree of one leaf: XGBoost adds it first, Treelite last, and floats notice."""
    import treelite
    from treelite.model_builder import Metadata, ModelBuilder, PostProcessorFunc, TreeAnnotation

    header = trees.get_header_accessor()
    base = np.atleast_1d(header.get_field("base_scores")).astype("float64")
    if not base.any():
        return trees

    def field(name: str) -> Any:
        return header.get_field(name)

    count = len(base)
    builder: Any = ModelBuilder(
        threshold_type="float32",
        leaf_output_type="float32",
        metadata=Metadata(
            num_feature=int(field("num_feature")[0]),
            task_type=("kBinaryClf", "kRegressor", "kMultiClf")[int(field("task_type")[0])],
            average_tree_output=bool(field("average_tree_output")[0]),
            num_target=int(field("num_target")[0]),
            num_class=[int(number) for number in field("num_class")],
            leaf_vector_shape=(1, 1),
        ),
        tree_annotation=TreeAnnotation(num_tree=count, target_id=[0] * count, class_id=list(range(count))),
        postprocessor=PostProcessorFunc(name=str(field("postprocessor"))),
        base_scores=[0.0] * count,
    )
    for value in base:
        builder.start_tree()
        builder.start_node(0)
        builder.leaf(float(np.float32(value)))
        builder.end_node()
        builder.end_tree()
    header.set_field("base_scores", np.zeros_like(base))
    return treelite.Model.concatenate([builder.commit(), trees])


def _casts(estimator: Any) -> bool:
    """Whether an estimator rounds what it is given to single precision; only the histograms do not."""
    return "hist" not in type(estimator).__module__


def _scorer(model: Any, trees: Any, features: int, *, margin: bool) -> SureScore:
    booster = hasattr(model, "save_config")
    casts = not booster and _casts(model)
    classes = len(getattr(model, "classes_", ()))
    walk = _walker(trees, features, margin=margin)

    def score(matrix: NDArray[Any]) -> NDArray[Any] | None:
        if casts:
            with np.errstate(over="ignore"):
                matrix = matrix.astype("float32").astype("float64")
            if np.isinf(matrix).any():  # which scikit-learn refuses
                return None
        found = walk(matrix)
        if found.shape[1] > 1:
            return found
        if classes:
            return np.concatenate([1 - found, found], axis=1)
        return found[:, 0]

    return score


def _walker(trees: Any, features: int, *, margin: bool) -> Score:
    """Return what `treelite.gtil.predict` calls in the end: what it does before takes three times as long as the trees.

    https://treelite.readthedocs.io/en/latest/treelite-c-api.html
    """
    from treelite import gtil
    from treelite.core import _LIB, _check_call
    from treelite.gtil.gtil import GTILConfig

    if trees.num_feature != features:  # how far apart it takes the rows to be
        raise ValueError(f"the trees have {trees.num_feature} features, the matrix {features}")
    config = GTILConfig(predict_type="raw" if margin else "default", nthread=1)
    example = np.zeros((1, features), dtype=trees.input_type)
    answer = gtil.predict(trees, example, nthread=1, pred_margin=margin)
    width, taken, given = answer[0].size, example.dtype, answer.dtype
    predict, kind = _LIB.TreeliteGTILPredict, trees.input_type.encode()

    def walk(matrix: NDArray[Any]) -> NDArray[Any]:
        matrix = np.ascontiguousarray(matrix, dtype=taken)
        found = np.zeros((len(matrix), width), dtype=given)
        status = predict(
            trees.handle,
            ctypes.c_void_p(matrix.ctypes.data),
            kind,
            ctypes.c_uint64(len(matrix)),
            ctypes.c_void_p(found.ctypes.data),
            config.handle,
        )
        if status:
            _check_call(status)
        return found

    return walk


def _near_thresholds(trees: Any, features: int, dtype: str) -> NDArray[Any]:
    """Return rows whose values lie on the thresholds of the splits, and next to them; some are missing."""
    rng = np.random.default_rng(0)
    known: list[list[NDArray[Any]]] = [[] for _ in range(features)]
    for number in range(min(trees.num_tree, _TREES)):
        tree = trees.get_tree_accessor(number)
        split, threshold = tree.get_field("split_index"), tree.get_field("threshold")
        for feature in np.unique(split[split >= 0]):
            known[feature].append(threshold[split == feature])
    rows = np.empty((_ROWS, features), dtype=dtype)
    for feature, found in enumerate(known):
        values = np.concatenate(found).astype(dtype) if found else np.zeros(1, dtype=dtype)
        # Zeros are also where the splits of categories have no threshold: small whole numbers are their codes.
        codes = rng.integers(0, 32, _ROWS).astype(dtype)
        chosen = rng.choice(values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1, dtype), _ROWS)
        step = rng.integers(0, 3, _ROWS)
        chosen = np.where(step == 0, chosen, np.nextafter(chosen, np.where(step == 1, np.inf, -np.inf), dtype=dtype))
        categories = not found or not values.any()
        rows[:, feature] = codes if categories else chosen
        rows[rng.random(_ROWS) < 0.05, feature] = np.nan
    return rows


def _crossover(native: Score, fast: SureScore, rows: NDArray[Any]) -> int:
    """Return up to how many rows the fast one is faster, by the lines through both of its times, and the library's."""

    def line(score: SureScore) -> tuple[float, float]:
        times = []
        for count in _TIMED:
            part = rows[:count].copy()
            best = float("inf")
            for _ in range(5):
                began = time.perf_counter()
                score(part)
                best = min(best, time.perf_counter() - began)
            times.append(best)
        slope = max((times[1] - times[0]) / (_TIMED[1] - _TIMED[0]), 0.0)
        return times[0] - slope, slope

    (base, slope), (fast_base, fast_slope) = line(native), line(fast)
    if fast_base + fast_slope >= base + slope:
        return 0
    if fast_slope <= slope:
        return MOST_ROWS
    return max(1, min(MOST_ROWS, int((base - fast_base) / (fast_slope - slope))))
