"""The account of the database server: our own, and another than root's when we are root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ragline.errors import ConfigurationError
from ragline.local import accounts
from ragline.local.accounts import server_account


async def test_an_ordinary_user_runs_the_server_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    account = await server_account(Path("/bin/true"))
    assert (account.prefix, account.uid) == ((), 1000)


async def test_a_root_that_may_do_nothing_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async def barred(_: tuple[str, ...]) -> bool:
        return False

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(accounts, "_succeeds", barred)
    with pytest.raises(ConfigurationError, match=r"start ragline as an ordinary user.*RAGLINE_DATABASE__URL"):
        await server_account(Path("/bin/true"))


async def test_a_program_that_hangs_or_is_missing_does_not_count_as_a_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accounts, "_PROBE_S", 0.1)
    assert await accounts._succeeds(("/bin/true",))
    assert not await accounts._succeeds(("/bin/false",))
    assert not await accounts._succeeds(("/bin/sleep", "300"))
