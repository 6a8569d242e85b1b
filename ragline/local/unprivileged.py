"""Turns root into another user and then into the given command, for programs that refuse to run as root.

Run by path with `python -I -S` (Linux only):

    python -I -S unprivileged.py WAY UID GID COMMAND...

No folder's mode is changed, although parents of the command or of its data may be closed to that user:

- `user`: become UID, keeping one capability: to pass through folders that only root may enter.
- `namespace`: a user namespace in which root bears the number UID: for containers whose root
  may not change its user or keep a capability. Files stay root's.

Ends with exit code 126 and one line on standard error when the way is barred.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_PR_GET_SECUREBITS, _PR_SET_SECUREBITS = 27, 28
_SECBIT_NO_SETUID_FIXUP, _SECBIT_KEEP_CAPS = 1 << 2, 1 << 4
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522
_CLONE_NEWUSER = 0x10000000
_BARRED = 126


def main(arguments: list[str]) -> int:
    """Change the user and run the command in this very process; returns only when that is barred."""
    way, uid, gid, command = arguments[0], int(arguments[1]), int(arguments[2]), arguments[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        death_signal = ctypes.c_int(0)
        _check(libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(death_signal), 0, 0, 0))
        if way == "user":
            _become_user(libc, uid, gid)
        else:
            _enter_namespace(libc, uid, gid)
        # The kernel forgets it when the user changes.
        _check(libc.prctl(_PR_SET_PDEATHSIG, death_signal.value, 0, 0, 0))
        os.execv(command[0], command)  # noqa: S606  (no shell is wanted)
    except OSError as error:
        os.write(2, f"cannot run {command[0]} as user {uid} ({way}): {error.strerror}\n".encode())
    return _BARRED


def _become_user(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    """Drop root for good, keeping the weakest capability at hand that passes through closed folders."""
    capability = _CAP_DAC_READ_SEARCH if _permitted() >> _CAP_DAC_READ_SEARCH & 1 else _CAP_DAC_OVERRIDE
    # KEEP_CAPS carries it over the change of user; NO_SETUID_FIXUP has access(2), by which PostgreSQL
    # looks for its own programs, respect it too.
    bits = libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0) | _SECBIT_NO_SETUID_FIXUP | _SECBIT_KEEP_CAPS
    _check(libc.prctl(_PR_SET_SECUREBITS, bits, 0, 0, 0))
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    mask = 1 << capability
    sets = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)  # effective, permitted, inheritable; high words
    _check(libc.capset(header, sets))
    _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0))


def _enter_namespace(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    """Enter a user namespace in which the present user and group are called `uid` and `gid`."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _check(libc.unshare(_CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")


def _permitted() -> int:
    """This process's permitted capabilities, as the kernel's bit mask."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("CapPrm:")[1].split()[0], 16)


def _check(result: int) -> None:
    """Raise the C library's error when a call failed."""
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
