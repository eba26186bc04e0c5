"""Tokens: what is kept, what is accepted, and the command line."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path

import pytest

from compute import Config
from compute.errors import InvalidField, KeyNotFound, Unauthorized
from deployments.tokens import Role, TokenStore, main, parse_duration
from registry import open_store


@pytest.fixture
def store(config: Config) -> TokenStore:
    return TokenStore(open_store(config.storage.uri, config))


def _everything_below(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def test_a_token_is_found_again_with_its_name_role_and_expiry(store: TokenStore) -> None:
    secret, record = store.create("ci", "write", timedelta(days=30))
    found = store.check(secret)
    assert found == record
    assert (found.name, found.role) == ("ci", Role.WRITE)
    assert found.expires_at is not None
    assert found.expires_at - found.created_at == timedelta(days=30)


def test_nothing_that_is_kept_lets_anybody_in(store: TokenStore, tmp_path: Path) -> None:
    secret, record = store.create("ci", "admin", None)
    kept = _everything_below(tmp_path / "state")
    assert record.digest.encode() in kept
    assert secret.encode() not in kept
    assert secret.split("_", 2)[2].encode() not in kept
    assert record.digest not in secret
    assert store.verify(f"tw_{record.id}_{record.digest[:43]}") is None


def test_two_tokens_are_never_alike(store: TokenStore) -> None:
    secrets = {store.create("same", "read", None).secret for _ in range(50)}
    assert len(secrets) == 50


@pytest.mark.parametrize(
    "mangle",
    [
        lambda secret: "",
        lambda secret: secret[:-1],
        lambda secret: secret + "A",
        lambda secret: secret[:-1] + ("A" if secret[-1] != "A" else "B"),
        lambda secret: secret.upper(),
        lambda secret: secret + "\n",
        lambda secret: "tw_" + "0" * 16 + secret[19:],
        lambda secret: "tw_../../x_" + secret[20:],
        lambda secret: "é" * 63,
        lambda secret: "\0" * 63,
        lambda secret: "x" * 1_000_000,
    ],
)
def test_anything_but_the_token_itself_is_refused(store: TokenStore, mangle: object) -> None:
    secret = store.create("ci", "admin", None).secret
    wrong = mangle(secret)  # type: ignore[operator]
    assert wrong != secret
    with pytest.raises(Unauthorized) as caught:
        store.check(wrong)
    assert secret not in str(caught.value)


def test_expired_and_revoked_tokens_are_refused_and_stay_listed(store: TokenStore) -> None:
    short = store.create("short", "read", timedelta(milliseconds=50))
    revoked = store.create("revoked", "read", None)
    store.revoke(revoked.record.id)
    time.sleep(0.06)
    with pytest.raises(Unauthorized, match="expired"):
        store.check(short.secret)
    with pytest.raises(Unauthorized, match="revoked"):
        store.check(revoked.secret)
    assert [(token.name, token.state) for token in store.list()] == [("short", "expired"), ("revoked", "revoked")]


def test_revoking_twice_keeps_the_first_moment(store: TokenStore) -> None:
    token = store.create("ci", "read", None).record
    assert store.revoke(token.id) == store.revoke(token.id)


def test_bad_requests_for_tokens_name_the_field(store: TokenStore) -> None:
    for arguments, field in [
        (("", "read", None), "name"),
        (("a\nb", "read", None), "name"),
        (("x" * 65, "read", None), "name"),
        (("ci", "root", None), "role"),
        (("ci", "public", None), "role"),
        (("ci", "read", timedelta(0)), "expires"),
        (("ci", "read", timedelta(days=-1)), "expires"),
        (("ci", "read", timedelta(days=10**6)), "expires"),
    ]:
        with pytest.raises(InvalidField) as caught:
            store.create(*arguments)
        assert caught.value.context["field"] == field
    with pytest.raises(InvalidField):
        store.revoke("../x")
    with pytest.raises(KeyNotFound):
        store.revoke("0" * 16)
    for text in ("30", "d", "-1d", "1y", "1.5h", "", "9" * 12 + "w"):
        with pytest.raises(InvalidField):
            parse_duration(text)
    assert store.list() == []


def test_the_command_line_makes_lists_and_revokes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"storage": {"uri": "state"}}))
    base = ["--config", str(file)]

    assert main([*base, "create", "--name", "ci", "--role", "write", "--expires", "30d"]) == 0
    secret = capsys.readouterr().out.strip()
    store = TokenStore(open_store((tmp_path / "state").as_uri()))
    token = store.check(secret)
    assert (token.name, token.role) == ("ci", Role.WRITE)

    assert main([*base, "list"]) == 0
    out = capsys.readouterr().out
    listed = json.loads(out)
    assert (listed["id"], listed["state"]) == (token.id, "active")
    assert token.digest not in out

    assert main([*base, "revoke", token.id]) == 0
    assert store.verify(secret) is None

    assert main([*base, "revoke", "f" * 16]) == 1
    assert "error:" in capsys.readouterr().err
    assert main([*base, "create", "--name", "ci", "--role", "read", "--expires", "soon"]) == 1
    assert "'soon' is not a duration" in capsys.readouterr().err
