"""Go on from a registered model: its preprocessing is kept, so what it was trained on has to be there again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compute import Config
from compute.errors import CapabilityMissing, ColumnInvalid, ColumnMissing, InvalidField
from jobs.columns import listing, nearest
from jobs.families import ROUNDS, Family
from jobs.targets import Target

if TYPE_CHECKING:
    import pandas as pd

    from registry import Signature


@dataclass(frozen=True)
class Parent:
    """A registered model that training goes on from; ``params`` are those it was trained with."""

    model_id: str
    name: str
    model: Any
    signature: Signature
    params: Mapping[str, Any]

    @property
    def target(self) -> Target:
        """The task and the classes that the model knows."""
        return Target(self.signature.task, f"of {self.model_id}, which is gone on from", self.signature.classes)


def find_parent(
    reference: str,
    family: Family,
    target: str,
    features: Sequence[str] | None,
    task: str | None,
    params: Mapping[str, Any],
    config: Config,
) -> Parent:
    """Load the model, and say what of the request does not go with it.

    Parameters
    ----------
    reference : str
        A model id, ``name``, ``name@alias`` or ``name:version``.
    family : Family
        Of what is trained.
    target, features, task, params
        As for `train_model`.
    config : Config
        Where the registry is.

    Raises
    ------
    ModelNotFound
        When there is no such model.
    CapabilityMissing
        When models of its type cannot go on.
    InvalidField, ColumnMissing
        When it is of another type, target, task or objective, or has other features; naming them.
    """
    from registry import get_model_registry

    if not family.continues:
        raise CapabilityMissing(
            f"{family.model_type} models cannot go on from another",
            hint="Leave out continue_from, or choose xgboost or lightgbm.",
        )
    loaded = get_model_registry(config).load_model(reference)
    record, signature = loaded.record, loaded.record.signature
    where = f"the model {record.model_id} ({record.name}:{record.version})"
    expected = {"xgboost": "xgboost-ubj", "lightgbm": "lightgbm-text"}[family.model_type]
    if record.format != expected:
        raise InvalidField(
            f"{where} is of the type {record.model_type} ({record.format}), not {family.model_type}",
            hint="Give its model_type.",
            context={"field": "continue_from"},
        )
    if signature is None:
        raise InvalidField(
            f"{where} was registered without a signature, so nothing says how rows become its matrix",
            hint="Train it here, or register it with example=.",
            context={"field": "continue_from"},
        )
    if signature.target not in (None, target):
        raise InvalidField(f"{where} predicts {signature.target!r}, not {target!r}", context={"field": "target_col"})
    if task not in (None, signature.task) and (task != "classification" or signature.classes is None):
        raise InvalidField(f"{where} is a {signature.task} model, not {task}", context={"field": "task"})
    if features is not None:
        differs = sorted(set(features) ^ set(signature.feature_names))
        if differs:
            has = "has" if differs[0] in signature.feature_names else "does not have"
            raise ColumnMissing(
                f"{where} {has} the feature {differs[0]!r}, and what was asked for "
                f"{'does not' if has == 'has' else 'does'}",
                hint=f"Leave out features: they are {listing(signature.feature_names)}.",
                context={"features": differs},
            )
    known = record.lineage.get("parameters")
    before = {name: value for name, value in (known if isinstance(known, dict) else {}).items() if name not in ROUNDS}
    if before.get("objective") != params.get("objective", before.get("objective")):
        raise InvalidField(
            f"{where} has {_objective(before)}, not {params['objective']!r}: its rounds and new ones do not add up",
            hint="Leave the objective out.",
            context={"parameters": ["objective"]},
        )
    return Parent(record.model_id, record.name, loaded.model, signature, before)


def _objective(params: Mapping[str, Any]) -> str:
    return f"the objective {params['objective']!r}" if "objective" in params else "the objective of its task"


def check_classes(values: pd.Series[Any], parent: Parent) -> None:
    """Refuse classes that the model does not know: rounds that are added cannot teach it any."""
    if parent.signature.classes is None:
        return
    texts = [str(label) for label in parent.signature.classes]
    places = parent.target.encode(values)
    unknown = values[places < 0]
    if len(unknown):
        label = unknown.iloc[0]
        raise ColumnInvalid(
            f"the target {values.name!r} has the class {label!r}{nearest(str(label), texts)} in {len(unknown):,} rows, "
            f"which {parent.model_id} does not know",
            hint=f"Its classes are {listing([repr(known) for known in parent.signature.classes])}; "
            "train anew for others.",
            context={"target": str(values.name)},
        )
