"""Work for `ParserPool` that misbehaves in the way that its job names; what a worker runs in tests of isolation."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ragline.errors import PermanentError


def work(job: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Do what `job["do"]` says, then tell which process did it."""
    getattr(Deeds, job["do"])(job, content)
    return {"pid": os.getpid(), "bytes": len(content), "environment": dict(os.environ), "descriptors": _descriptors()}


class Deeds:
    """What may happen in a parser."""

    @staticmethod
    def nothing(job: dict[str, Any], content: bytes) -> None:
        """Behave."""

    @staticmethod
    def sleep(job: dict[str, Any], content: bytes) -> None:
        Path(job["mark"]).write_text(str(os.getpid()))
        time.sleep(600)

    @staticmethod
    def compute(job: dict[str, Any], content: bytes) -> None:
        """Hang within C code that holds the interpreter's lock."""
        re.match(r"(a+)+b", "a" * 64)

    @staticmethod
    def ignore_signals(job: dict[str, Any], content: bytes) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(600)

    @staticmethod
    def leave(job: dict[str, Any], content: bytes) -> None:
        os._exit(3)

    @staticmethod
    def sys_exit(job: dict[str, Any], content: bytes) -> None:
        sys.exit("enough")

    @staticmethod
    def segfault(job: dict[str, Any], content: bytes) -> None:
        ctypes.string_at(0)

    @staticmethod
    def abort(job: dict[str, Any], content: bytes) -> None:
        os.abort()

    @staticmethod
    def unforeseen(job: dict[str, Any], content: bytes) -> None:
        raise KeyError("no such part")

    @staticmethod
    def refuse(job: dict[str, Any], content: bytes) -> None:
        raise PermanentError("it is not to be read", reason="UNREADABLE_DOCUMENT")

    @staticmethod
    def hoard(job: dict[str, Any], content: bytes) -> None:
        """Allocate without bound, in Python."""
        kept = []
        while True:
            kept.append(bytearray(1 << 20))

    @staticmethod
    def hoard_beside_python(job: dict[str, Any], content: bytes) -> None:
        """Allocate without bound in C, and die of it as C libraries do."""
        allocate = ctypes.CDLL(None).malloc
        allocate.restype, allocate.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        while block := allocate(1 << 20):
            ctypes.memset(block, 1, 1 << 20)
        os.abort()

    @staticmethod
    def hoard_shared(job: dict[str, Any], content: bytes) -> None:
        kept = []
        try:
            while True:
                kept.append(mmap.mmap(-1, 1 << 26))
                kept[-1].write(b"x")
        except OSError as error:
            raise MemoryError from error

    @staticmethod
    def fork_and_hang(job: dict[str, Any], content: bytes) -> None:
        """Leave a child that would outlive everything, and hang with it."""
        child = os.fork()
        if child == 0:
            time.sleep(600)
        Path(job["mark"]).write_text(f"{os.getpid()} {child}")
        time.sleep(600)

    @staticmethod
    def fork_and_crash(job: dict[str, Any], content: bytes) -> None:
        """Crash while a child still holds what it inherited."""
        child = os.fork()
        if child == 0:
            time.sleep(600)
        Path(job["mark"]).write_text(f"{os.getpid()} {child}")
        os.abort()

    @staticmethod
    def speak_through_a_child(job: dict[str, Any], content: bytes) -> None:
        """Have a child return to the worker's loop, as if it were the worker."""
        if os.fork():
            time.sleep(0.2)

    @staticmethod
    def chatter(job: dict[str, Any], content: bytes) -> None:
        sys.stdout.write("noise" * 100_000)
        sys.stderr.write("noise" * 100_000)
        subprocess.run(["/bin/sh", "-c", "echo noise"], check=True)

    @staticmethod
    def write_much(job: dict[str, Any], content: bytes) -> None:
        with Path(job["mark"]).open("wb") as file:
            while True:
                file.write(bytes(1 << 24))


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
