"""What a model's predictions rest on: permutation importances, and SHAP values where they are exact.

pandas and numpy are imported inside functions.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from compute import Config, load_config
from compute.errors import DataError, InvalidField
from jobs import node
from jobs.columns import require_columns
from jobs.evaluate import truth_of
from jobs.linear_shap import explain_linear
from jobs.predict import model_with_signature, typed
from jobs.progress import report
from jobs.scoring import ahead
from jobs.tables import Table, open_table, to_frame
from jobs.targets import Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from registry import LoadedModel, Signature

_BOOSTERS = ("xgboost-ubj", "lightgbm-text")


def feature_importance(
    model_id: str,
    data: object,
    target_col: str | None = None,
    *,
    repeats: int = 5,
    rows: int = 10_000,
    seed: int = 0,
    config: Config | None = None,
) -> dict[str, Any]:
    """Tell what a model's predictions on these rows rest on.

    Parameters
    ----------
    model_id : str
        A model id, ``name``, ``name@alias`` or ``name:version``.
    data : DataFrame, pyarrow.Table, ray.data.Dataset or URI
        Rows with the features and the target, best of which the model has not seen.
    target_col : str, optional
        By default the column the model was trained on.
    repeats : int
        Shuffles of each feature.
    rows : int
        So many, drawn from the data, are looked at; those without a target are not.
    seed : int
        Of the draw and of the shuffles.
    config : Config, optional
        By default `load_config`.

    Returns
    -------
    dict
        ``permutation``: for each feature, the largest first, by how much the ``metric`` (rmse or log_loss) grows when
        its values are shuffled (Breiman, Machine Learning 45 (2001) 5), ``importance`` and its ``std`` over the
        repeats. ``shap``: for each feature the ``mean_abs`` of its SHAP values, in the unit of the prediction, or of
        the log-odds; of several classes, those of the one that is predicted. They are the libraries' own for XGBoost
        and LightGBM, and exact for linear models, against the mean of these rows; None for others, and ``shap_reason``
        says so. Also ``model_id``, ``rows``, ``seconds``.

    Examples
    --------
    >>> import pandas as pd, tempfile
    >>> from compute import load_config
    >>> from jobs import train_model
    >>> config = load_config()
    >>> storage = config.storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> config = config.model_copy(update={"storage": storage})
    >>> frame = pd.DataFrame({"x": range(60), "noise": [1, 5, 2] * 20, "y": [i * 1.5 for i in range(60)]})
    >>> model_id = train_model(frame, "y", model_type="linear", config=config)["model_id"]
    >>> found = feature_importance(model_id, frame, config=config)
    >>> found["permutation"][0]["feature"], found["shap"][0]["feature"]
    ('x', 'x')
    """
    import numpy as np

    from registry import encode, get_model_registry

    started = time.perf_counter()
    config = config or load_config()
    if repeats < 1 or rows < 2:
        raise InvalidField(f"repeats is {repeats} and rows {rows}", hint="At least 1 repeat, and 2 rows.")
    record, signature = model_with_signature(model_id, config)
    name = target_col or signature.target
    if name is None:
        raise DataError(f"the model {record.model_id} does not say what its target is", hint="Give target_col.")
    table = typed(open_table(data, config), signature)
    require_columns(signature.feature_names, table.columns, table.source, "feature")
    require_columns([name], table.columns, table.source, "target")
    frame = _draw(table, signature, name, rows, seed)
    if len(frame) < 2:
        raise DataError(f"{table.source} has {len(frame)} rows with a target {name!r}, and at least 2 are needed")
    model = get_model_registry(config).load_model(record.model_id, threads=node.threads(config))
    matrix = encode(frame, signature, model.dtype)
    truth = truth_of(frame[name], Target(signature.task, "of the model", signature.classes))
    rng = np.random.default_rng(seed)
    base = _loss(model, matrix, truth)
    permuted = []
    for place, column in enumerate(signature.columns):
        kept = matrix[:, place].copy()
        growth = []
        for _ in range(repeats):
            matrix[:, place] = rng.permutation(kept)
            growth.append(_loss(model, matrix, truth) - base)
        matrix[:, place] = kept
        permuted.append({"feature": column.name, "importance": float(np.mean(growth)), "std": float(np.std(growth))})
        report("importance", place + 1, len(signature.columns))
    shap, reason = _shap(model, matrix, signature)
    return {
        "model_id": record.model_id,
        "rows": len(frame),
        "metric": "rmse" if signature.classes is None else "log_loss",
        "permutation": sorted(permuted, key=lambda item: -float(str(item["importance"]))),
        "shap": shap,
        "shap_reason": reason,
        "seconds": {"total": round(time.perf_counter() - started, 4)},
    }


def _draw(table: Table, signature: Signature, target: str, rows: int, seed: int) -> pd.DataFrame:
    """Return rows drawn evenly from all that have a target, in one pass: those with the smallest random keys."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    columns = [*signature.feature_names, target]
    kept = pd.DataFrame(columns=columns)
    keys = np.empty(0)
    for batch in ahead(table.batches(columns, 50_000)):
        part = to_frame(batch)
        part = part[part[target].notna()]
        drawn = rng.random(len(part))
        small = np.argsort(drawn)[:rows]
        kept = pd.concat([kept, part.iloc[small]], ignore_index=True) if len(kept) else part.iloc[small]
        keys = np.concatenate([keys, drawn[small]])
        if len(keys) > rows:
            order = np.sort(np.argsort(keys)[:rows])
            kept, keys = kept.iloc[order], keys[order]
    return kept.reset_index(drop=True)


def _loss(model: LoadedModel, matrix: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    import numpy as np

    if model.record.signature is not None and model.record.signature.classes is None:
        return float(np.sqrt(np.mean((model.predict(matrix).astype("float64") - truth) ** 2)))
    chances = model.predict(matrix, proba=True)
    places = truth.astype("int64")
    given = np.where(places >= 0, chances[np.arange(len(places)), places], 0.0)
    return float(-np.mean(np.log(np.clip(given.astype("float64"), np.finfo("float32").eps, 1.0))))


def _shap(
    model: LoadedModel, matrix: npt.NDArray[np.floating[Any]], signature: Signature
) -> tuple[list[dict[str, Any]] | None, str | None]:
    import numpy as np

    if model.record.format in _BOOSTERS:
        values = model.explain(matrix)[0]
    else:
        found = explain_linear(model.model, matrix)
        if found is None:
            return None, f"SHAP values are exact for boosters and linear models, not for a {model.record.model_type}"
        values = found
    means = np.abs(values).mean(axis=0)
    order = np.argsort(-means, kind="stable")
    return [{"feature": signature.columns[place].name, "mean_abs": float(means[place])} for place in order], None
