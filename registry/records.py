"""What is known about a model: the record that every listing, handle and HTTP body carries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from registry.signature import Signature

Status = Literal["active", "deprecated", "archived"]
# xgboost-ubj, lightgbm-text, sklearn-skops, onnx, or a custom one: records outlive the plugin that their model needs.
Format = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
Metrics = dict[str, "float | dict[str, float]"]


class Artifact(BaseModel):
    """The bytes of a model, by their content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="Of all the bytes.")
    size: int = Field(ge=0, description="In bytes.")
    generation: int = Field(0, ge=0, description="Counts how often these bytes were collected before; see `collect`.")


class ModelRecord(BaseModel):
    """One version of a model. Frozen: a change makes a new record with the next revision.

    Examples
    --------
    >>> from datetime import datetime, UTC
    >>> now = datetime(2026, 1, 2, tzinfo=UTC)
    >>> artifact = Artifact(digest="sha256:" + "0" * 64, size=1)
    >>> record = ModelRecord(
    ...     model_id="m-1", name="delays", version=1, model_type="xgboost", format="xgboost-ubj", artifact=artifact,
    ...     created_at=now, updated_at=now,
    ... )
    >>> record.model_dump(mode="json")["created_at"], record.status, record.revision
    ('2026-01-02T00:00:00Z', 'active', 1)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_id: str
    name: str
    version: int = Field(ge=1, description="1, 2, ... within the name, without gaps; never given twice.")
    aliases: tuple[str, ...] = Field((), description="Names that point to this version, such as champion.")
    model_type: str = Field(description="As the one who registered it calls it: xgboost, random_forest, ...")
    format: Format
    artifact: Artifact
    signature: Signature | None = None
    metadata: dict[str, Any] = Field({}, description="Free JSON of the one who registered it.")
    tags: tuple[str, ...] = ()
    status: Status = "active"
    metrics: Metrics = {}
    lineage: dict[str, Any] = Field({}, description="Where it came from: data and its digest, parameters, job, parent.")
    created_at: datetime
    updated_at: datetime
    revision: int = Field(1, ge=1, description="Counts the changes; name it when you update what you have read.")


class DeletedModel(BaseModel):
    """A model that was deleted and can still be brought back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    record: ModelRecord
    deleted_at: datetime
    restorable_until: datetime
