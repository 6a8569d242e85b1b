"""Keys and the identities that they prove."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ragline.errors import ConfigurationError, PermissionDenied, Unauthenticated
from ragline.identity import Identity, KeyFile

ADA = Identity("acme", "ada", frozenset({"staff"}), frozenset({"ask", "search"}))


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "state" / "keys.json")


def test_a_token_proves_the_identity_that_it_was_made_for(keys: KeyFile) -> None:
    assert KeyFile(keys.path).verify(keys.create(ADA)) == ADA


def test_the_file_holds_no_secret_and_only_its_owner_may_read_it(keys: KeyFile) -> None:
    secret = keys.create(ADA).split("_", 2)[2]

    assert secret not in keys.path.read_text()
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + "x", lambda t: t[1:], lambda t: t.upper()])
def test_anything_but_the_token_is_refused(keys: KeyFile, change: object) -> None:
    token = keys.create(ADA)

    with pytest.raises(Unauthenticated, match="unknown or revoked"):
        keys.verify(change(token))  # type: ignore[operator]


def test_a_service_sees_new_and_revoked_keys_without_a_restart(keys: KeyFile) -> None:
    service = KeyFile(keys.path)
    token = keys.create(ADA)
    assert service.verify(token) == ADA

    assert keys.revoke(keys.list()[0].id)

    with pytest.raises(Unauthenticated):
        service.verify(token)
    assert not keys.revoke("unknown")


def test_an_expired_key_is_refused(keys: KeyFile) -> None:
    token = keys.create(ADA, expires=datetime.now(UTC) - timedelta(seconds=1))

    with pytest.raises(Unauthenticated, match="expired"):
        keys.verify(token)


def test_keys_made_at_the_same_time_are_all_kept_and_revoked_ones_stay_revoked(keys: KeyFile) -> None:
    doomed = [keys.create(ADA) for _ in range(10)]
    revoked = [key.id for key in keys.list()]

    with ThreadPoolExecutor(8) as threads:
        for key_id in revoked:
            threads.submit(KeyFile(keys.path).revoke, key_id)
        made = list(threads.map(lambda _: KeyFile(keys.path).create(ADA), range(30)))

    assert all(keys.verify(token) == ADA for token in made)
    assert not {key.id for key in keys.list()}.intersection(revoked)
    for token in doomed:
        with pytest.raises(Unauthenticated):
            keys.verify(token)


def test_an_unknown_scope_is_refused(keys: KeyFile) -> None:
    with pytest.raises(ConfigurationError, match="root"):
        keys.create(Identity("acme", "ada", scopes=frozenset({"root"})))


def test_one_of_the_scopes_is_enough() -> None:
    ADA.require("admin", "ask")
    with pytest.raises(PermissionDenied, match="admin"):
        ADA.require("admin")


def test_a_damaged_file_is_named(keys: KeyFile) -> None:
    keys.create(ADA)
    keys.path.write_text("{}")

    with pytest.raises(ConfigurationError, match=r"keys\.json"):
        keys.verify("rgl_x_y")
