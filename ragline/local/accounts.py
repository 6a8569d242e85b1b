"""The user that PostgreSQL runs as: ours, or, since PostgreSQL refuses to run as root, another one."""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
from asyncio.subprocess import DEVNULL
from dataclasses import dataclass
from pathlib import Path

from ragline.errors import ConfigurationError

_UNPRIVILEGED = Path(__file__).with_name("unprivileged.py")
_PROBE_S = 10.0


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """How to run a command as the server's user: what goes before it, and who must own its files."""

    prefix: tuple[str, ...]
    uid: int
    gid: int

    def own(self, folder: Path) -> None:
        """Hand a folder and all in it to this user, if it is another's; modes and parents stay."""
        if folder.stat().st_uid == self.uid:
            return
        for parent, folders, files in os.walk(folder):
            for name in (*folders, *files):
                os.chown(Path(parent, name), self.uid, self.gid, follow_symlinks=False)
        os.chown(folder, self.uid, self.gid)  # last: when we are killed before, the next start does it all again


async def server_account(probe: Path) -> ServerAccount:
    """The account to run a server as; `probe` is a program of it, `pg_config`, that ends with 0 at once.

    For root it is a user other than root that can reach the same files: by a kept capability, or else by
    a user namespace (see `ragline.local.unprivileged`). No folder is opened for it.
    Raises ConfigurationError when root may do neither.
    """
    if os.geteuid() != 0:
        return ServerAccount((), os.geteuid(), os.getegid())
    user = _other_user()
    for way, owner, group in (("user", user.pw_uid, user.pw_gid), ("namespace", 0, os.getegid())):
        prefix = _prefix(way, user.pw_uid, user.pw_gid)
        if sys.platform == "linux" and await _succeeds((*prefix, str(probe))):
            return ServerAccount(prefix, owner, group)
    raise ConfigurationError(
        "the embedded PostgreSQL cannot run as root, and this root may not act as another user:"
        " start ragline as an ordinary user, or set RAGLINE_DATABASE__URL to a PostgreSQL server"
    )


def _prefix(way: str, uid: int, gid: int) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", str(_UNPRIVILEGED), way, str(uid), str(gid))


def _other_user() -> pwd.struct_passwd:
    """A user of this machine that is not root: `nobody` where there is one (initdb looks the name up)."""
    others = [user for user in pwd.getpwall() if user.pw_uid != 0]
    if not others:
        raise ConfigurationError(
            "the embedded PostgreSQL cannot run as root, and this machine has no other user:"
            " add one, or set RAGLINE_DATABASE__URL to a PostgreSQL server"
        )
    return next((user for user in others if user.pw_name == "nobody"), others[0])


async def _succeeds(command: tuple[str, ...]) -> bool:
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    try:
        async with asyncio.timeout(_PROBE_S):
            return await process.wait() == 0
    except TimeoutError:
        process.kill()
        await process.wait()
        return False
