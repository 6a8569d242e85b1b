"""The process that reads documents for `isolation.ParserPool`: it may hang, crash or be killed at any time.

    python -m services.ingest.parser_worker CHANNEL LIFELINE WORK TIME_LIMIT_S MEMORY_LIMIT_MB

CHANNEL is a socket to the pool, LIFELINE the read end of a pipe that the pool holds open. A request is two
lengths, a job as JSON and the content's bytes; a reply is its kind, whether it is this process's last, a
length and JSON. WORK, written `module:function`, makes the result of a job and the content.

Nothing that is read here is trusted: the process gets no secrets, its replies are plain JSON, and an error
that nobody foresaw ends it.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import math
import os
import resource
import select
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

from ragline.errors import PermanentError

REQUEST: Final = struct.Struct("!QQ")
"""The lengths of the job and of the content, in bytes."""
REPLY: Final = struct.Struct("!B?Q")
"""The reply's kind, whether it is the last, and its length in bytes."""
READY, RESULT, REFUSAL, CRASH = range(4)
"""READY comes first, with the `ru_maxrss` that the process was born with."""

_MEGABYTE = 1 << 20
_OPEN_FILES = 64
_WRITTEN_BYTES = 128 * _MEGABYTE
"""py3langid unpacks its model into a temporary file of 68 MB."""
_TIRED_SHARE = 0.75
"""A process whose memory once grew beyond this share of its limit is replaced: much of it stays fragmented."""
_GRACE_S = 2
_SHOWN_CHARACTERS = 200

Work = Callable[[dict[str, Any], bytes], Any]


def main(arguments: list[str]) -> None:
    """Serve requests until the pool closes the channel or this process should not go on."""
    channel, lifeline, work_name, time_limit_s, memory_limit_mb = arguments
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _end_with_parent(int(lifeline))
    os.register_at_fork(after_in_child=partial(os.close, int(channel)))  # what a parser forks must not speak for it
    pool = socket.socket(fileno=int(channel))  # closed by the process's end alone: the last words go through it
    requests = pool.makefile("rb")
    sys.excepthook = _Epitaph(pool)
    module, _, function = work_name.partition(":")
    work: Work = getattr(importlib.import_module(module), function)
    _limit_resources(int(memory_limit_mb) * _MEGABYTE)
    gc.collect()
    gc.freeze()  # what every job shares need not be looked at again
    _send(pool, READY, str(inherited).encode(), last=False)
    last = False
    while not last and (request := _receive(requests)) is not None:
        _limit_cpu(float(time_limit_s))
        kind, reply, last = _answer(work, *request)
        last = last or _peak_bytes() > _TIRED_SHARE * int(memory_limit_mb) * _MEGABYTE
        del request
        _send(pool, kind, reply, last=last)


def _answer(work: Work, job: bytes, content: bytes) -> tuple[int, bytes, bool]:
    """Do one job; returns the reply's kind, the reply, and whether the process is spent."""
    try:
        result = work(json.loads(job), content)
        return RESULT, json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode(), False
    except PermanentError as error:
        return REFUSAL, _error(str(error), error.reason), False
    except MemoryError:
        return REFUSAL, _error("reading it takes more memory than is allowed", "PARSE_TOO_LARGE"), True


class _Epitaph:
    """Tells the pool of the error that ends this process; as `sys.excepthook` it sees what nobody catches."""

    def __init__(self, pool: socket.socket) -> None:
        self._pool = pool

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        said = " ".join(f"{kind.__name__}: {error}".split())[:_SHOWN_CHARACTERS]
        _send(self._pool, CRASH, _error(said, "PARSE_CRASHED"), last=True)


def _error(message: str, reason: str) -> bytes:
    return json.dumps({"message": message, "reason": reason}).encode(errors="replace")


def _end_with_parent(lifeline: int) -> None:
    """Have the kernel end this process and all that it forks when the pipe's other end closes.

    Of a thread that waits for it nothing would be heard while a parser holds the interpreter's lock; the
    signal SIGIO needs no one to run, and by default it kills.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    closed, _, _ = select.select([lifeline], [], [], 0)
    if closed:  # before we asked to be told
        os._exit(0)


def _limit_resources(memory_bytes: int) -> None:
    """No core dumps, no large files, and no more memory of its own than this.

    Shared mappings escape RLIMIT_DATA: RLIMIT_AS bounds these, beyond the libraries that are mapped already.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _WRITTEN_BYTES)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_DATA, memory_bytes)
    _limit(resource.RLIMIT_AS, 2 * memory_bytes)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(kind, (most, most))


def _limit_cpu(time_limit_s: float) -> None:
    """Have the kernel end a job that computes on though the pool should have ended it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = math.ceil(used.ru_utime + used.ru_stime + time_limit_s) + _GRACE_S
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _peak_bytes() -> int:
    """The most memory that this process had; on Linux `ru_maxrss` begins with what its parent had."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def _receive(requests: BinaryIO) -> tuple[bytes, bytes] | None:
    """The next request; None when the pool is gone."""
    head = requests.read(REQUEST.size)
    if len(head) < REQUEST.size:
        return None
    job, content = REQUEST.unpack(head)
    return requests.read(job), requests.read(content)


def _send(pool: socket.socket, kind: int, reply: bytes, *, last: bool) -> None:
    pool.sendall(REPLY.pack(kind, last, len(reply)))
    pool.sendall(reply)


if __name__ == "__main__":
    main(sys.argv[1:])
