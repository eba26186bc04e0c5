"""What a person is told who names a model that is not there: a name for an id, a version that was deleted, a slip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compute.errors import ModelNotFound

if TYPE_CHECKING:
    from registry.models import ModelTable


def no_model(table: ModelTable, model_id: object) -> ModelNotFound:
    """Return the error for what is not the id of a model."""
    shown = str(model_id)[:100]
    what, hint = f"there is no model {shown!r}", "List the models to see which there are."
    if isinstance(model_id, str) and model_id in table.deleted:
        what, hint = f"{model_id} was deleted", "Restore it, which keeps its id and version, or name another model."
    elif isinstance(model_id, str) and (newest := table.active(model_id)):
        what = f"there is no model of the id {shown!r}, which is a name"
        hint = f"Give an id: {newest.model_id} is {model_id}:{newest.version}, the newest that is active."
    return ModelNotFound(what, hint=hint, context={"model_id": shown})


def no_version(table: ModelTable, name: str, version: int | None, reference: str) -> ModelNotFound:
    """Return the error for a version of a name, given or looked for, that is not there."""
    hint = "Name a model by its id, or as name, name:3 or name@champion; list the models to see which there are."
    known = table.names.get(name)
    deleted = {record.version: record for record, _ in table.deleted.values() if record.name == name}
    if known is None:
        what = f"there is no model of the name {name[:100]!r}"
    elif version in deleted:
        what = f"{name}:{version} was deleted"
        hint = f"Restore it by its id, {deleted[version].model_id}, or name another version."
    elif not any((name, number) in table.versions for number in range(1, known.newest + 1)):
        what = f"every version of {name!r} was deleted"
        hint = "Restore one by its id, from the list of deleted models." if deleted else "Register another."
    elif "@" in reference or ":" in reference:
        aliases = ", ".join(sorted(known.aliases)) or "none"
        what = f"{reference[:100]!r} is no version of {name!r}, whose newest is {known.newest} (aliases: {aliases})"
    else:
        what = f"no version of {name!r} is active, and it has no alias 'champion'"
    return ModelNotFound(what, hint=hint, context={"reference": reference[:100]})
