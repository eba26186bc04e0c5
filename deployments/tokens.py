"""Tokens for the HTTP interface: made once, kept as a hash, checked on every request, revocable at any moment.

A token reads ``tw_<id>_<secret>``: the prefix lets secret scanners find it, the id finds its record with one read, and
the secret is 256 random bits. Only its SHA-256 is kept. A slow, salted hash protects passwords because people choose
guessable ones; nobody guesses or tabulates 256 random bits, so one fast hash is as strong here and does not slow each
request down.

From the command line::

    python -m deployments.tokens create --name ci --role write --expires 30d
    python -m deployments.tokens list
    python -m deployments.tokens revoke 0123456789abcdef
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import re
import secrets
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

from compute import load_config
from compute.errors import ComputeError, InvalidField, KeyNotFound, Unauthorized
from registry import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry import ObjectStore

PREFIX = "tokens/"
_TOKEN = re.compile(r"tw_(?P<id>[0-9a-f]{16})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DURATION = re.compile(r"(\d{1,9})\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST = timedelta(days=3660)


class Role(StrEnum):
    """What a token may do; each role includes the ones before it.

    Examples
    --------
    >>> Role.WRITE.covers(Role.READ), Role.WRITE.covers(Role.ADMIN)
    (True, False)
    """

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether this role is enough where `needed` is asked for."""
        return _RANK[self] >= _RANK[needed]


_RANK = {role: rank for rank, role in enumerate(Role)}


class Token(BaseModel):
    """What is kept of a token; not enough to use it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    id: str
    name: str
    role: Role
    digest: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None = None

    @property
    def state(self) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and datetime.now(UTC) >= self.expires_at else "active"


class NewToken(NamedTuple):
    """A token as it is made: the only moment at which the secret is there."""

    secret: str
    record: Token


class TokenStore:
    """The tokens on an object store, one object each under ``tokens/<id>.json``.

    Every replica reads the same objects, so a token that is made or revoked anywhere counts everywhere.

    Parameters
    ----------
    store : ObjectStore
        Where all state lives.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def create(self, name: str, role: Role | str, expires_in: timedelta | None) -> NewToken:
        """Make a token.

        Parameters
        ----------
        name : str
            Who or what it is for; appears in the access log.
        role : Role or str
            ``read``, ``write`` or ``admin``.
        expires_in : timedelta or None
            How long it is valid from now on; None: until it is revoked.

        Returns
        -------
        NewToken
            The token itself, which is shown this once and kept nowhere, and its record.
        """
        if not _NAME.fullmatch(name):
            raise InvalidField(
                f"{name[:80]!r} cannot name a token",
                hint="Use up to 64 letters, digits, dots, dashes, underscores or at signs.",
                context={"field": "name"},
            )
        if role not in list(Role):
            raise InvalidField(f"no role {role!r}", hint=f"Roles are {', '.join(Role)}.", context={"field": "role"})
        if expires_in is not None and not timedelta(0) < expires_in <= _LONGEST:
            raise InvalidField(
                f"a token cannot expire in {expires_in}",
                hint="Give a positive time of at most ten years, such as 30d.",
                context={"field": "expires"},
            )
        now = datetime.now(UTC)
        identity = secrets.token_hex(8)
        secret = f"tw_{identity}_{secrets.token_urlsafe(32)}"
        token = Token(
            id=identity,
            name=name,
            role=Role(role),
            digest=_digest(secret),
            created_at=now,
            expires_at=None if expires_in is None else now + expires_in,
        )
        self._store.create(_key(identity), token.model_dump_json().encode())
        return NewToken(secret, token)

    def check(self, secret: str) -> Token:
        """Return the record of a token that is valid now.

        Raises
        ------
        Unauthorized
            When it is malformed, unknown, expired or revoked.
        """
        parsed = _TOKEN.fullmatch(secret)
        if parsed is None:
            raise _refusal("the token is not one of ours")
        try:
            token = self._read(parsed["id"])
        except KeyNotFound:
            raise _refusal("the token is not known") from None
        # In constant time: how long the comparison takes tells nothing about the digest.
        if not hmac.compare_digest(token.digest, _digest(secret)):
            raise _refusal("the token is not known")
        if token.state != "active":
            raise _refusal(f"the token {token.name!r} is {token.state}")
        return token

    def verify(self, secret: str) -> Token | None:
        """Return the record of a token that is valid now, else None."""
        try:
            return self.check(secret)
        except Unauthorized:
            return None

    def revoke(self, identity: str) -> Token:
        """Make a token invalid for good; replicas notice within a second.

        Raises
        ------
        KeyNotFound
            When there is no token with this id.
        """
        if not re.fullmatch(r"[0-9a-f]{16}", identity):
            raise InvalidField(
                f"{identity[:80]!r} is not the id of a token", hint="`list` shows them.", context={"field": "id"}
            )
        token = self._read(identity)
        if token.revoked_at is None:
            token = token.model_copy(update={"revoked_at": datetime.now(UTC)})
            self._store.put(_key(identity), token.model_dump_json().encode())
        return token

    def list(self) -> list[Token]:
        """Return all tokens, the oldest first."""
        tokens = [Token.model_validate_json(self._store.get(key)) for key in self._store.list(PREFIX)]
        return sorted(tokens, key=lambda token: token.created_at)

    def _read(self, identity: str) -> Token:
        return Token.model_validate_json(self._store.get(_key(identity)))


def parse_duration(text: str) -> timedelta:
    """Return a duration written as a number and a unit.

    Examples
    --------
    >>> parse_duration("30d"), parse_duration("90s")
    (datetime.timedelta(days=30), datetime.timedelta(seconds=90))
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise InvalidField(
            f"{text[:80]!r} is not a duration",
            hint="Write a number and s, m, h, d or w, such as 30d.",
            context={"field": "expires"},
        )
    return timedelta(**{_UNITS[match[2]]: min(int(match[1]), 10**6)})


def _key(identity: str) -> str:
    return f"{PREFIX}{identity}.json"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _refusal(detail: str) -> Unauthorized:
    return Unauthorized(detail, hint="Make one with `python -m deployments.tokens create --name NAME --role ROLE`.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what a program may want goes to standard output."""
    parser = argparse.ArgumentParser(prog="python -m deployments.tokens", description="Tokens for the HTTP interface.")
    parser.add_argument("--config", help="configuration file; by default as everywhere")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a token and print it, this once")
    create.add_argument("--name", required=True, help="who or what it is for")
    create.add_argument("--role", required=True, choices=list(Role))
    create.add_argument("--expires", default="30d", help="30d, 12h, never (default: %(default)s)")
    commands.add_parser("list", help="list the tokens, one JSON object a line")
    commands.add_parser("revoke", help="make a token invalid").add_argument("id")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config)
        tokens = TokenStore(open_store(config.storage.uri, config))
        if options.command == "create":
            expires_in = None if options.expires == "never" else parse_duration(options.expires)
            secret, token = tokens.create(options.name, options.role, expires_in)
            end = f"expires {token.expires_at:%Y-%m-%d %H:%M} UTC" if token.expires_at else "does not expire"
            sys.stderr.write(f"id {token.id}, {end}; shown this once:\n")
            sys.stdout.write(f"{secret}\n")
        elif options.command == "list":
            for token in tokens.list():
                line = {**token.model_dump(mode="json", exclude={"digest", "format"}), "state": token.state}
                sys.stdout.write(json.dumps(line) + "\n")
        else:
            token = tokens.revoke(options.id)
            sys.stderr.write(f"{token.id} ({token.name}) is revoked\n")
    except ComputeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
