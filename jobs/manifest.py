"""What a batch run has done: parts on an object store, each whole or not there, so that a killed run goes on.

A part holds the predictions for a fixed range of rows, and is put in place in one atomic step; a manifest beside the
parts says what was asked for, so that only the same call goes on with them. Nothing else is recorded: a part that is
there is done, and one that is not is scored again. pyarrow and the registry are imported inside functions.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from compute import Config
from compute.errors import ConfigurationError, Conflict, Corrupt, DataError, InvalidField, KeyExists, KeyNotFound
from jobs.output import remove_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from registry import ObjectStore

_MANIFEST = "_manifest.json"
_SUCCESS = "_SUCCESS"
_BAD = "_bad_rows"
_FORMAT = 1


@dataclass(frozen=True)
class Run:
    """A batch run at a place: its parts, those that are there, and whether it is complete.

    Parameters
    ----------
    uri : str
        A directory, or ``s3://bucket/prefix``.
    facts : mapping
        What was asked for, as plain values; a run goes on only when they are equal.
    kind : {"parquet", "arrow"}
        How parts are written: to be read by others, or to be joined into one file.
    config : Config
        Access to S3.
    """

    uri: str
    facts: Mapping[str, Any]
    kind: Literal["parquet", "arrow"]
    config: Config

    @cached_property
    def store(self) -> ObjectStore:
        """The object store; every process opens its own."""
        from registry import open_store

        try:
            return open_store(self.uri, self.config)
        except ConfigurationError as error:
            raise InvalidField(
                f"{self.uri} cannot hold the parts of an output",
                hint="Use a path, file:// or s3://bucket/prefix, with A-Z a-z 0-9 . _ - / in the prefix.",
                context={"output": self.uri},
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open store behind."""
        return {name: value for name, value in self.__dict__.items() if name != "store"}

    def begin(self, *, overwrite: bool) -> dict[str, Any] | None:
        """Claim the place, for this call or as what an equal one left.

        Parameters
        ----------
        overwrite : bool
            Remove what another run left there, or an equal one; else that is an error, or gone on with.

        Returns
        -------
        dict or None
            What `finish` was given, when the run is complete already.

        Raises
        ------
        Conflict
            When another run's predictions are there; with what differs.
        DataError
            When there are files that are no run's.
        """
        if overwrite:
            self.clear()
        try:
            # With what nobody else writes: a store that had no answer compares the bytes to tell whose they are.
            mark = {**self._manifest, "written_by": uuid.uuid4().hex}
            self.store.create(_MANIFEST, json.dumps(mark, sort_keys=True).encode())
        except KeyExists:
            self._check_owner()
        else:
            strange = next((key for key in self.store.list() if not key.startswith("_")), None)
            if strange is not None:
                self.store.delete(_MANIFEST)
                raise DataError(
                    f"{self.uri} has files that no run of this kind wrote, such as {strange}",
                    hint="Name an empty or a new directory.",
                )
        try:
            finished: dict[str, Any] = json.loads(self.store.get(_SUCCESS))
        except KeyNotFound:
            return None
        return finished

    def done(self) -> frozenset[int]:
        """Return the numbers of the parts that are there."""
        found = (key.removeprefix("part-").partition(".") for key in self.store.list("part-"))
        return frozenset(int(number) for number, _, ending in found if number.isdigit() and ending == self.kind)

    def commit(self, number: int, table: pa.Table, bad: pa.Table | None) -> None:
        """Put a part in place: first the rows that could not be scored, then, in one step, those that were."""
        self._check_owner()
        if bad is not None and bad.num_rows:
            self.store.put(_key(number, "parquet", f"{_BAD}/"), _parquet(bad))
        self.store.put(_key(number, self.kind), _parquet(table) if self.kind == "parquet" else _arrow(table))

    def read(self, number: int) -> pa.Table:
        """Read a part that was written to be joined."""
        import pyarrow as pa

        path = self.store.local_path(_key(number, self.kind))
        try:
            if path is not None:
                with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
                    return reader.read_all()
            with pa.ipc.open_file(pa.BufferReader(self.store.get(_key(number, self.kind)))) as reader:
                return reader.read_all()
        except (KeyNotFound, FileNotFoundError) as error:
            raise Conflict(
                f"part {number} of {self.uri} was there and is gone",
                hint="Another run of the same call joined the parts, or they were deleted: look at the output.",
            ) from error

    def rows(self, number: int) -> int:
        """Return the number of rows of a part, from its footer."""
        return self._count(_key(number, "parquet"))

    def bad_parts(self) -> dict[int, int]:
        """Return the number of rows that were not scored, for each part that has some."""
        keys = list(self.store.list(f"{_BAD}/"))
        return {int(key.removeprefix(f"{_BAD}/part-").removesuffix(".parquet")): self._count(key) for key in keys}

    def read_bad(self, number: int) -> pa.Table:
        """Read the rows of a part that were not scored."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pq.read_table(pa.BufferReader(self.store.get(_key(number, "parquet", f"{_BAD}/"))))

    def finish(self, count: int, result: Mapping[str, Any]) -> None:
        """Say that all parts are there, once they are."""
        missing = sorted(set(range(count)) - self.done())
        if missing:
            raise DataError(
                f"part {missing[0]} of {self.uri} was written, and cannot be seen here",
                hint="Workers on several nodes need an output on a file system that all of them share, or s3://.",
            )
        self.store.put(_SUCCESS, json.dumps(result, default=str).encode())

    def clear(self) -> None:
        """Remove the run; the manifest last, so that a removal that is cut short can be repeated."""
        keys = list(self.store.list())
        ours = [key for key in keys if key.startswith(("part-", f"{_BAD}/")) or key == _SUCCESS]
        for key in [*sorted(ours, key=lambda key: key != _SUCCESS), _MANIFEST]:
            self.store.delete(key)

    def discard(self) -> None:
        """Remove the run and, where its parts were gathered on disk to be joined, the directory made for that."""
        self.clear()
        if self.kind == "arrow":
            # Of another call that writes there still, files may come and go.
            remove_folder(self.uri, self.config)

    @property
    def bad_rows_uri(self) -> str:
        """Where the rows go that cannot be scored."""
        return f"{self.uri.rstrip('/')}/{_BAD}"

    @property
    def _manifest(self) -> dict[str, Any]:
        return {"format": _FORMAT, **self.facts}

    def _check_owner(self) -> None:
        """See that the place is still this run's: another may have been told to overwrite it."""
        try:
            found = self.store.get(_MANIFEST)
        except KeyNotFound as error:
            raise Conflict(
                f"{self.uri} was cleared while this run wrote to it", hint="Give each run an output of its own."
            ) from error
        try:
            theirs = dict(json.loads(found))
        except (ValueError, TypeError) as error:
            raise Corrupt(f"{self.uri}/{_MANIFEST} is not a manifest", hint="Name another directory.") from error
        theirs.pop("written_by", None)
        differ = sorted(key for key in {*theirs, *self._manifest} if theirs.get(key) != self._manifest.get(key))
        if not differ:
            return
        raise Conflict(
            f"{self.uri} holds the predictions of another run: other {', '.join(differ)}",
            hint="Name another directory, or give overwrite=True (--overwrite) to have them replaced.",
            context={"output": self.uri, "differ": differ},
        )

    def _count(self, key: str) -> int:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # The store reads from the beginning alone, and a footer is at the end.
        path = self.store.local_path(key)
        try:
            return int(pq.read_metadata(path or pa.BufferReader(self.store.get(key))).num_rows)
        except pa.ArrowInvalid as error:
            raise Corrupt(f"{self.uri}/{key} is damaged: {error}", hint="Delete it and run again.") from error


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return what tells runs apart.

    Examples
    --------
    >>> digest_of({"model_id": "m-1"}) == digest_of({"model_id": "m-2"})
    False
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _key(number: int, kind: str, folder: str = "") -> str:
    return f"{folder}part-{number:05d}.{kind}"


def _parquet(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def _arrow(table: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(unify_dictionaries=True)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
