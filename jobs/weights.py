"""How much each row counts in fitting: a column that says so, and weights of classes.

numpy and pandas are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compute.errors import ColumnInvalid, InvalidField
from jobs.columns import listing, nearest
from jobs.targets import Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Weights = npt.NDArray[np.float32]


def read_weights(values: pd.Series[Any]) -> Weights:
    """Return a column of weights, or say in which row it cannot be one.

    Examples
    --------
    >>> import pandas as pd
    >>> read_weights(pd.Series([1, 0.5], name="w")).tolist()
    [1.0, 0.5]
    """
    import numpy as np
    import pandas as pd

    name = str(values.name)
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype):
        raise ColumnInvalid(
            f"the weight column {name!r} holds {values.dtype} values, and weights are numbers",
            hint="Choose another weight_col.",
            context={"column": name},
        )
    weights = values.to_numpy(dtype="float64", na_value=np.nan)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise ColumnInvalid(
            f"the weight column {name!r} has {float(weights[wrong[0]])} in row {int(wrong[0])}, "
            f"and {len(wrong):,} such values in all",
            hint="Weights are finite and not negative; 0 leaves a row out of the fit.",
            context={"column": name, "rows": wrong[:10].tolist()},
        )
    return weights.astype("float32")


def class_weights(wanted: str | Mapping[Any, float], target: Target, counts: npt.NDArray[Any]) -> Weights:
    """Return the weight of each class, in the order of the classes.

    Parameters
    ----------
    wanted : "balanced" or mapping
        ``"balanced"`` makes all classes count alike: rows / (classes * rows of the class). A mapping has a weight for
        a class, as it is in the target or as text; those that are not in it weigh 1.
    target : Target
        With the classes.
    counts : ndarray of shape (classes,)
        The training rows of each class.

    Examples
    --------
    >>> import numpy as np
    >>> class_weights("balanced", Target("binary", "", ("no", "yes")), np.array([2, 2])).tolist()
    [1.0, 1.0]
    """
    import numpy as np

    if target.classes is None:
        raise InvalidField(
            "class_weight needs classes, and the target holds amounts",
            hint='Leave it out, or give task="classification" if they are class numbers.',
            context={"field": "class_weight"},
        )
    if wanted == "balanced":
        each: Weights = (counts.sum() / (len(target.classes) * np.maximum(counts, 1))).astype("float32")
        return each
    if not isinstance(wanted, Mapping):
        raise InvalidField(
            f"class_weight is {wanted!r:.100}",
            hint='Give "balanced", or a weight for each class: {"yes": 5}.',
            context={"field": "class_weight"},
        )
    texts = {str(label): place for place, label in enumerate(target.classes)}
    weights = np.ones(len(target.classes), dtype="float32")
    for label, weight in wanted.items():
        if str(label) not in texts:
            raise InvalidField(
                f"class_weight has a weight for {label!r}, which is no class of the target{nearest(str(label), texts)}",
                hint=f"The classes are {listing([repr(known) for known in target.classes])}.",
                context={"field": "class_weight"},
            )
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < float("inf"):
            raise InvalidField(
                f"class_weight gives {label!r} the weight {weight!r}, which is no positive number",
                context={"field": "class_weight"},
            )
        weights[texts[str(label)]] = weight
    return weights
