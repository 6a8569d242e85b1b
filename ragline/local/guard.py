"""A tiny process between Ragline and a child: it stops the child when Ragline ends, however it ends.

Run by path with `python -I -S`, so that it imports nothing of Ragline and starts in some 15 ms:

    python -I -S guard.py STOP_SIGNAL STOP_SECONDS COMMAND...

Standard input is a pipe from the parent. When it closes (the parent asks for a stop, or was killed),
when the parent is gone, or on SIGTERM, SIGINT or SIGHUP, the child gets STOP_SIGNAL and, after
STOP_SECONDS, SIGKILL with its process group. The guard ends with the child's exit code, or
128 + the signal that ended it. Should the guard itself be killed, Linux kills the child.

A `preexec_fn` in the parent would be unsafe beside its threads; this process has only one.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ORPHAN_CHECK_S = 0.5
_PR_SET_PDEATHSIG = 1
_NOT_RUN = 127


def main(arguments: list[str]) -> int:
    """Run the command until it ends or must be stopped; returns the exit code to pass on."""
    stop_signal, stop_s, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    parent = os.getppid()
    wakeups = _wake_on_signals()
    watched = {*_STOP_SIGNALS, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command, watched, guard)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
    return _watch(child, parent, wakeups, stop_signal, stop_s)


def _wake_on_signals() -> int:
    """Have each signal write its number to a pipe; returns the pipe's read end."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (*_STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return read_end


def _become(command: list[str], blocked: set[signal.Signals], guard: int) -> None:
    """In the forked child: turn into the command, with default signals, dying with the guard (Linux)."""
    try:
        os.setpgid(0, 0)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(_NOT_RUN)  # it died before we asked to be told
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (*blocked, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        os.execv(command[0], command)  # noqa: S606  (no shell is wanted)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(_NOT_RUN)


def _watch(child: int, parent: int, wakeups: int, stop_signal: int, stop_s: float) -> int:
    """Wait for the child to end; stop it once asked to, and kill it when it does not obey in time."""
    kill_at = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        left_s = _ORPHAN_CHECK_S if kill_at is None else kill_at - time.monotonic()
        if left_s <= 0:
            os.killpg(child, signal.SIGKILL)
        # Once stopping, the closed pipe would wake us without end.
        sources = [wakeups] if kill_at is not None else [wakeups, 0]
        readable, _, _ = select.select(sources, [], [], min(max(left_s, 0.01), _ORPHAN_CHECK_S))
        asked = wakeups in readable and any(n != signal.SIGCHLD for n in os.read(wakeups, 64))
        closed = 0 in readable and not os.read(0, 64)
        # A fork of the parent may hold the pipe open after the parent was killed.
        if kill_at is None and (asked or closed or os.getppid() != parent):
            os.kill(child, stop_signal)
            kill_at = time.monotonic() + stop_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
