"""`ModelRegistry`: models go in and come out. Records come from an actor or this process, bytes from the store."""

from __future__ import annotations

import copy
import logging
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from compute import Config, load_config
from compute.errors import ArtifactCondemned, DataNotFound, InvalidField
from registry.actor import RemoteCatalog
from registry.admission import check_fields, check_width, find_signature, try_example
from registry.artifacts import ArtifactStore
from registry.cache import ModelCache
from registry.catalog import ModelCatalog
from registry.changes import ChangePage
from registry.collection import CollectionReport
from registry.custom_formats import open_formats
from registry.formats import HEAD, detect_format, dump_model, load_native
from registry.loaded import LoadedModel
from registry.mlflow_export import write_mlflow
from registry.mlflow_import import open_mlflow
from registry.models import Draft, new_id
from registry.node_cache import NodeCache
from registry.records import Artifact, DeletedModel, Format, ModelRecord
from registry.search import SearchPage
from registry.signature import Signature
from registry.storage import open_store
from registry.traffic import Rollback, Traffic, read_plan
from registry.traffic_results import Report
from registry.trial import Trial, examine, try_file

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_cache = ModelCache()


class ModelRegistry:
    """The models of one store, from wherever this is called: a driver, a task, an actor, a Serve replica, plain Python.

    With Ray connected, records come from the detached actor of the store; without, from a table in this process over
    the same journal, which any number of processes share. Picklable; safe to use from several threads.

    Parameters
    ----------
    config : Config
        ``storage.uri`` is where everything lies.

    Examples
    --------
    >>> import tempfile
    >>> from compute import load_config
    >>> from sklearn.linear_model import LinearRegression
    >>> storage = load_config().storage.model_copy(update={"uri": tempfile.mkdtemp()})
    >>> registry = ModelRegistry(load_config().model_copy(update={"storage": storage}))
    >>> model = LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    >>> model_id = registry.register_model(model, "linear", {"owner": "ops"}, ["demo"], name="line")
    >>> registry.set_alias("line", "champion", 1).aliases
    ('champion',)
    >>> import numpy as np
    >>> float(registry.load_model("line@champion").predict(np.array([[2.0]])).round(6)[0])
    5.0
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._artifacts = ArtifactStore(open_store(config.storage.uri, config), NodeCache.of(config))
        self._remote = RemoteCatalog(config)
        self._custom = open_formats(config.security.custom_formats)

    def __reduce__(self) -> tuple[Callable[[Config], ModelRegistry], tuple[Config]]:
        return ModelRegistry, (self._config,)

    def register_model(
        self,
        model_obj: object,
        model_type: str,
        metadata: Mapping[str, Any] | None = None,
        tags: Iterable[str] | None = None,
        name: str | None = None,
        *,
        signature: Signature | None = None,
        example: pd.DataFrame | None = None,
        metrics: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Keep a fitted model as the next version of its name.

        Parameters
        ----------
        model_obj : xgboost.Booster or XGBModel, lightgbm.Booster or LGBMModel, scikit-learn estimator, onnx.ModelProto
            The fitted model. Estimators may be made of scikit-learn's own parts only.
        model_type : str
            What you call its kind: xgboost, random_forest, ...
        metadata : mapping, optional
            Free JSON, of at most 256 KiB, nested at most 16 deep.
        tags : iterable of str, optional
            At most 64.
        name : str, optional
            By default the model type. Versions 1, 2, ... are given within it.
        signature : Signature, optional
            How raw rows become the model's matrix. By default it is taken from ``example``, else from the names of the
            features that the model knows, as floats; a model without any takes a matrix only.
        example : DataFrame, optional
            A table as the model was trained on. A hundred of its rows show whether the model, once it is kept,
            predicts what it predicts now; one that would not is refused.
        metrics : mapping, optional
            Finite numbers, grouped one deep if you like.
        lineage : mapping, optional
            Where it came from; free JSON like the metadata.
        idempotency_key : str, optional
            Repeating the call with the same key and content gives the same id and keeps nothing twice.

        Returns
        -------
        str
            The model's id.

        Raises
        ------
        UnsupportedFormat
            When the model is of a kind that cannot be kept, or would predict something else then.
        InvalidField
            When an argument is not allowed; the error says the rule.
        Conflict
            When the idempotency key was used for another content.
        """
        fields = check_fields(model_type, metadata, tags, name, metrics, lineage, idempotency_key)
        with TemporaryDirectory() as directory:
            path = Path(directory) / "model"
            model_format = dump_model(model_obj, path, self._custom)
            native = load_native(model_format, path, custom=self._custom)  # what others will get
            signature = signature or find_signature(model_obj if model_format != "onnx" else native, example)
            check_width(examine(native), signature)
            draft = _draft(model_format, signature, fields)
            if example is not None:
                try_example(native, draft, example, model_obj)
            return self._register(draft, path)

    def register_file(
        self,
        path: str | Path,
        model_type: str,
        metadata: Mapping[str, Any] | None = None,
        tags: Iterable[str] | None = None,
        name: str | None = None,
        *,
        signature: Signature | None = None,
        metrics: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Keep a model that lies in a file; the format is told from its bytes.

        Parameters
        ----------
        path : path-like
            XGBoost UBJSON, LightGBM text, a scikit-learn estimator by skops, ONNX, or a custom format that is enabled.
            It is loaded to see that it is whole: in a process of its own if it is ONNX or large.
        model_type, metadata, tags, name, signature, metrics, lineage, idempotency_key
            As in `register_model`.

        Returns
        -------
        str
            The model's id.

        Raises
        ------
        UnsupportedFormat
            When it is anything else. Pickles, also packed ones, are refused and never unpickled.
        """
        fields = check_fields(model_type, metadata, tags, name, metrics, lineage, idempotency_key)
        return self._keep_file(Path(path), fields, lambda trial: signature or trial.signature)

    def import_mlflow(
        self,
        directory: str | Path,
        model_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Iterable[str] | None = None,
        name: str | None = None,
        *,
        signature: Signature | None = None,
        metrics: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Keep a model that MLflow saved: of the flavours xgboost, lightgbm, sklearn (by skops) and onnx.

        Parameters
        ----------
        directory : path-like
            With the file ``MLmodel`` in it. MLflow's signature becomes ours, and what it says about its run goes under
            ``mlflow`` into the lineage.
        model_type : str, optional
            By default the flavour.
        metadata, tags, name, signature, metrics, lineage, idempotency_key
            As in `register_model`.

        Returns
        -------
        str
            The model's id.

        Raises
        ------
        UnsupportedFormat
            When it is pickled, or of another flavour.
        """
        with open_mlflow(directory) as found:
            kind = found.model_type if model_type is None else model_type
            lineage = {**found.lineage, **(lineage or {})}
            fields = check_fields(kind, metadata, tags, name, metrics, lineage, idempotency_key)
            return self._keep_file(found.path, fields, lambda trial: signature or found.schema.signature(trial))

    def export_mlflow(self, reference: str, directory: str | Path) -> None:
        """Write a model as a directory that MLflow loads, and that predicts there as it does here.

        ``mlflow.pyfunc.load_model`` gives the whole model, with its categories, times and labels;
        ``mlflow.xgboost.load_model`` and the like give the native one.

        Parameters
        ----------
        reference : str
            As for `load_model`.
        directory : path-like
            Is made; it may not be there yet.

        Raises
        ------
        CapabilityMissing
            When MLflow could not predict the same.
        Conflict
            When the directory exists.
        """
        record = self._catalog.resolve(reference)
        with self._artifacts.file(record.artifact) as path:
            write_mlflow(record, path, Path(directory))

    def load_model(self, reference: str | ModelRecord, threads: int | None = None) -> LoadedModel:
        """Return a model, ready to predict.

        Parameters
        ----------
        reference : str or ModelRecord
            A model id, ``name``, ``name@alias`` or ``name:version``; see `resolve`. A record, as `resolve` gave it,
            is taken as it is: nobody is asked whether it has changed since.
        threads : int, optional
            Threads of one prediction; by default as many as the library likes.

        Returns
        -------
        LoadedModel
            Its native object is shared by all who load it in this process: copy it before you change it.

        Raises
        ------
        ModelNotFound
            When the reference names none.
        Corrupt
            When the bytes on the store are not those that were registered.
        """
        record = reference if isinstance(reference, ModelRecord) else self._catalog.resolve(reference)
        loaded: LoadedModel = _cache.get(
            (record.artifact.digest, threads),
            record.artifact.size,
            lambda: self._load(record, threads),
        )
        return loaded.with_record(_own(record))

    def get_model(self, model_id: str) -> ModelRecord:
        """Return the record of a model; raises `ModelNotFound`."""
        return _own(self._catalog.get(model_id))

    def resolve(self, reference: str) -> ModelRecord:
        """Return the record that a reference stands for.

        Parameters
        ----------
        reference : str
            A model id; ``name`` (the version with the alias ``champion``, else the newest active one);
            ``name@alias``; or ``name:version``.

        Raises
        ------
        ModelNotFound
            When it names none.
        """
        return _own(self._catalog.resolve(reference))

    def update_model_metadata(
        self, model_id: str, updates: Mapping[str, Any], revision: int | None = None
    ) -> ModelRecord:
        """Change what is known about a model.

        Parameters
        ----------
        model_id : str
            The model.
        updates : mapping
            ``status`` (active, deprecated, archived) and ``tags`` are replaced; ``metrics`` and ``metadata`` are merged
            key by key, where None removes a key. Keys that are no field of a record are metadata.
        revision : int, optional
            Change it only if the record is still at this revision.

        Returns
        -------
        ModelRecord
            As it is now.

        Raises
        ------
        Conflict
            Naming a field that may not change.
        RevisionMismatch
            When the record was changed since.
        """
        return _own(self._catalog.update(model_id, updates, revision, _change()))

    def list_models(
        self,
        model_type: str | None = None,
        tags: Iterable[str] | None = None,
        status: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> list[ModelRecord]:
        """Return records, the one registered last first.

        Parameters
        ----------
        model_type, status, name : str, optional
            Only those with this value.
        tags : iterable of str, optional
            Only those with all of these tags.
        limit : int, optional
            At most so many (1 to 1,000); by default all.
        cursor : str, optional
            Only those registered before the model of this id: the last one of the page before.
        """
        tags = tags if tags is None or isinstance(tags, str) else list(tags)
        return [_own(record) for record in self._catalog.list(model_type, tags, status, name, limit, cursor)]

    def search_models(
        self, query: str, sort: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> SearchPage:
        """Return a page of the records that fit a query.

        Parameters
        ----------
        query : str
            Such as ``model_type = "xgboost" and metrics.rmse < 12 and tags contains "fraud"``: see `registry.query`.
        sort : str, optional
            A field, with ``-`` before it for the largest first; by default the one registered last comes first.
        limit : int
            Models on the page, 1 to 1,000.
        cursor : str, optional
            The ``next_cursor`` of the page before. Models registered meanwhile neither shift nor repeat what follows.

        Returns
        -------
        SearchPage
            ``models``, and ``next_cursor``, None on the last page.

        Raises
        ------
        InvalidField
            With the position of what is wrong in the query, and what was expected there.
        """
        page = self._catalog.search(query, sort, limit, cursor)
        return page._replace(models=[_own(record) for record in page.models])

    def delete_model(self, model_id: str, *, force: bool = False, revision: int | None = None) -> None:
        """Remove a model from sight; its version is not given again, and its idempotency key is free.

        It can be brought back by `restore_model` for ``storage.keep_deleted_days``; then `collect` removes its bytes.

        Parameters
        ----------
        model_id : str
            The model.
        force : bool
            Also when aliases point to it; they go with it.
        revision : int, optional
            Only if the record is still at this revision.

        Raises
        ------
        Conflict
            When an alias points to it.
        """
        self._catalog.delete(model_id, revision, _change(), force=force)

    def restore_model(self, model_id: str) -> ModelRecord:
        """Bring a deleted model back: the same version with the same bytes, without its aliases.

        Its idempotency key is its own again, unless another model was registered with it meanwhile. A model that was
        not deleted is left as it is.

        Parameters
        ----------
        model_id : str
            See `list_deleted`.

        Returns
        -------
        ModelRecord
            As it is now.

        Raises
        ------
        ModelNotFound
            When there is none, or its time (``storage.keep_deleted_days``) is over.
        """
        return _own(self._catalog.restore(model_id, _change()))

    def list_deleted(self, name: str | None = None) -> list[DeletedModel]:
        """Return the models that can be restored, the one deleted last first.

        Parameters
        ----------
        name : str, optional
            Only versions of this name.
        """
        deleted = self._catalog.list_deleted(name)
        return [model.model_copy(update={"record": _own(model.record)}) for model in deleted]

    def collect(self, *, dry_run: bool = False) -> CollectionReport:
        """Remove what nobody needs: deleted models whose time is over, and bytes that no model names.

        On a cluster this happens every hour by itself. Safe at any time, also while others register the same bytes.

        Parameters
        ----------
        dry_run : bool
            Change nothing, and report what would go.

        Returns
        -------
        CollectionReport
            What was freed.
        """
        return self._catalog.collect(dry_run=dry_run)

    def set_alias(self, name: str, alias: str, version: int | None, revision: int | None = None) -> ModelRecord | None:
        """Point an alias to a version of a name, wherever it pointed before.

        Parameters
        ----------
        name, alias : str
            ``champion`` is what a name alone stands for.
        version : int or None
            None takes the alias away.
        revision : int, optional
            Only if the record of the version (with None: of the one that loses the alias) is still at this revision.

        Returns
        -------
        ModelRecord or None
            The record of the version.

        Raises
        ------
        ModelNotFound
            When the name has no such version.
        RevisionMismatch
            When the record was changed since.
        """
        record = self._catalog.set_alias(name, alias, version, _change(), revision=revision)
        return None if record is None else _own(record)

    def set_traffic(
        self,
        name: str,
        arms: Mapping[str | int, float] | None,
        *,
        shadow: str | int | None = None,
        shadow_fraction: float = 1.0,
        sticky: str | None = None,
        rollback: Rollback | Mapping[str, Any] | None = None,
        revision: int | None = None,
        reason: str | None = None,
    ) -> Traffic:
        """Share the requests to a name out among its versions; replicas follow within a second.

        Requests that name a version, an alias or a model id are not concerned.

        Parameters
        ----------
        name : str
            Of a model.
        arms : mapping or None
            Weights of versions and aliases, ``{"champion": 90, 4: 10}``; None: what the name alone stands for answers
            again.
        shadow : str or int, optional
            A version or alias that is asked as well: its answers are compared and counted, and never returned.
        shadow_fraction : float
            Share of the requests that it gets.
        sticky : str, optional
            A header, or parameter of a V2 request: requests with one value of it get one arm.
        rollback : mapping, optional
            ``{"to": "champion", "error_rate": 0.05, "latency": 0.2, "min_requests": 50, "window": 60}``: an arm with a
            larger share of failures, or a longer 95th percentile of seconds, loses its share to ``to``.
        revision : int, optional
            Only if the traffic of the name is still at this revision; 0 when it had none.
        reason : str, optional
            Kept with the change.

        Returns
        -------
        Traffic

        Raises
        ------
        ModelNotFound
            When a version or an alias is not there.
        InvalidField
            Naming what is wrong.
        RevisionMismatch
            When someone was faster.
        """
        if reason is not None and (not isinstance(reason, str) or len(reason) > 1000):
            raise InvalidField("the reason is not a text of up to 1,000 characters", context={"field": "reason"})
        plan = None
        if arms is not None:
            plan = read_plan(
                {
                    "arms": {str(target): weight for target, weight in arms.items()},
                    "shadow": None if shadow is None else str(shadow),
                    "shadow_fraction": shadow_fraction,
                    "sticky": sticky,
                    "rollback": rollback,
                }
            )
        return self._catalog.set_traffic(name, plan, _change(), revision=revision, reason=reason)

    def traffic(self) -> dict[str, Traffic]:
        """Return how requests are shared out, of the names for which that was said."""
        return self._catalog.traffic()

    def traffic_results(self, name: str) -> dict[str, Any]:
        """Return how the requests to a name are shared out, and what came of it since that was last changed.

        Returns
        -------
        dict
            ``plan``, ``revision``, ``changed_at``, ``reason``, and ``results``: of each of the ``arms`` and of the
            ``shadow`` the ``requests``, ``errors`` and ``latency`` (quantiles in seconds); of a shadow also the
            ``rows`` that were compared, how many ``disagreed``, and the mean absolute difference of numbers.
        """
        return self._catalog.traffic_results(name)

    def report_traffic(self, name: str, revision: int, arms: Report) -> None:
        """Count what the arms of a name did at a revision of its traffic; for whoever answers requests."""
        self._catalog.report_traffic(name, revision, arms)

    def changes(self, after: str | None = None, limit: int = 100, wait: float = 0.0) -> ChangePage:
        """Return what happened to models after a position: registrations, updates, aliases, deletions.

        Parameters
        ----------
        after : str, optional
            The ``position`` of a page, or of a change, that was read before; by default now, so that the page is empty
            and says where the feed goes on. `registry.changes.START` is the beginning.
        limit : int
            Changes on the page, 1 to 1,000.
        wait : float
            Seconds, at most 30, to wait for a change when there is none yet.

        Returns
        -------
        ChangePage
            ``changes``, the oldest first, and the ``position`` after them.

        Raises
        ------
        PositionGone
            When what followed the position is no longer kept: list the models, and begin anew from now.
        """
        return self._catalog.changes(after, limit, wait)

    @property
    def _catalog(self) -> ModelCatalog | RemoteCatalog:
        ray = sys.modules.get("ray")  # who has not imported it is not connected
        if ray is not None and ray.is_initialized():
            return self._remote
        return _local_catalog(self._config)

    def _keep_file(self, path: Path, fields: Mapping[str, Any], describe: Callable[[Trial], Signature | None]) -> str:
        """Keep a file as it is, with the signature that is made from what the model says about itself."""
        try:
            with path.open("rb") as file:
                model_format = detect_format(file.read(HEAD), self._custom)
            trial = try_file(path, model_format, self._config.security.custom_formats)
        except OSError as error:
            raise DataNotFound(
                f"cannot read the model file {path}: {error.strerror}", context={"path": str(path)}
            ) from error
        signature = describe(trial)
        check_width(trial, signature)
        return self._register(_draft(model_format, signature, fields), path)

    def _load(self, record: ModelRecord, threads: int | None) -> LoadedModel:
        with self._artifacts.file(record.artifact) as path:
            native = load_native(record.format, path, threads=threads, custom=self._custom)
        return LoadedModel(native, record, threads)

    def _register(self, draft: Draft, path: Path) -> str:
        """Write the bytes, then the record; when the bytes are collected in between, both again."""
        generation = 0
        while True:
            draft = draft.model_copy(update={"artifact": self._artifacts.write_file(path, generation)})
            try:
                record = self._catalog.register(draft)
            except ArtifactCondemned as error:
                generation = int(error.context["generation"])
                continue
            logger.info(
                "event=model_registered model_id=%s name=%s version=%d", record.model_id, record.name, record.version
            )
            return record.model_id


def get_model_registry(config: Config | None = None) -> ModelRegistry:
    """Return the registry of a configuration; cheap to call again and again.

    Parameters
    ----------
    config : Config, optional
        By default what `compute.load_config` finds.
    """
    return ModelRegistry(config if config is not None else load_config())


@lru_cache(maxsize=16)
def _local_catalog(config: Config) -> ModelCatalog:
    return ModelCatalog.of(config)


def _own(record: ModelRecord) -> ModelRecord:
    """Return a copy whose objects the caller may change; those of a table in this process are the table's."""
    changeable = {field: copy.deepcopy(getattr(record, field)) for field in ("metadata", "metrics", "lineage")}
    return record.model_copy(update=changeable)


def _draft(model_format: Format, signature: Signature | None, fields: Mapping[str, Any]) -> Draft:
    """Return a draft whose artifact is not written yet."""
    nothing = Artifact(digest=f"sha256:{'0' * 64}", size=0)
    return Draft(model_id=new_id(), format=model_format, artifact=nothing, signature=signature, **fields)


def _change() -> str:
    return uuid.uuid4().hex
