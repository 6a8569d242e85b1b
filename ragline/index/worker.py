"""The embedded engine's process: `python -m ragline.index.worker --path DIR --socket SOCKET`.

A process of its own because the engine's updates hold the GIL: they would freeze an event loop.
The server is synchronous, since searches release the GIL and run on a thread pool side by side.

Ends with 0 after SIGTERM or SIGINT (drained and flushed), 2 when the folder or the socket is in use or
cannot be had, 1 when the folder cannot be loaded; each with one line on standard error.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import structlog

from ragline.engine.v1 import engine_pb2_grpc
from ragline.errors import ConfigurationError, RaglineError

if TYPE_CHECKING:
    from ragline.index.edge_store import EdgeStore

MAX_MESSAGE_BYTES: Final = 64 << 20
"""The largest message of the socket; the client splits what is larger."""

_SOCKET_PATH_BYTES: Final = 107
"""What the operating system allows for the path of a Unix socket."""

_DRAIN_S: Final = 3.0
_ENDING: Final = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Where the worker keeps its data and listens, and how it looks after them."""

    path: Path
    socket: Path
    threads: int
    flush_interval_s: float
    vacuum_after_quiet_s: float


def run(options: WorkerOptions, wait_for_end: Callable[[], object]) -> None:
    """Serve until `wait_for_end` returns, then drain and flush.

    Raises ConfigurationError when the folder or the socket cannot be had, TransientError when a
    generation cannot be loaded.
    """
    lock = _locked(options.path)
    _check_socket(options.socket)
    # Imported late: a second worker on the same folder is refused before the engine is loaded.
    from ragline.index.edge_store import EdgeStore

    store = EdgeStore(options.path)
    server = _listening_server(store, options)
    stop = threading.Event()
    intervals_s = {
        "flush_interval_s": options.flush_interval_s,
        "vacuum_after_quiet_s": options.vacuum_after_quiet_s,
    }
    upkeep = threading.Thread(target=store.keep_up, args=(stop,), kwargs=intervals_s, name="upkeep")
    upkeep.start()
    server.start()
    log.info("engine_ready", path=str(options.path), socket=str(options.socket))
    wait_for_end()
    stop.set()
    server.stop(_DRAIN_S).wait()
    upkeep.join()
    store.close()
    lock.close()
    log.info("engine_stopped", path=str(options.path))


def _listening_server(store: EdgeStore, options: WorkerOptions) -> grpc.Server:
    from ragline.index.edge_service import EdgeService

    server = grpc.server(
        ThreadPoolExecutor(options.threads, thread_name_prefix="engine"),
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ],
    )
    engine_pb2_grpc.add_EngineServiceServicer_to_server(EdgeService(store), server)
    try:
        server.add_insecure_port(f"unix:{options.socket}")
    except RuntimeError as error:
        raise ConfigurationError(f"{options.socket}: cannot listen there; choose another --socket") from error
    return server


def _locked(path: Path) -> TextIOWrapper:
    """The folder, for this process alone as long as the returned file is open."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("w")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be used ({error.strerror}); choose another --path") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigurationError(
            f"{path} is in use by another engine worker; stop that one or choose another --path"
        ) from None
    return lock


def _check_socket(path: Path) -> None:
    """Refuse a socket that cannot be had, or that somebody listens on: binding would take it from them."""
    if not path.parent.is_dir():
        raise ConfigurationError(f"{path.parent} is not a folder; choose another --socket")
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"{path}: a socket's path may have {_SOCKET_PATH_BYTES} bytes; choose a shorter --socket"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise ConfigurationError(f"{path} is in use by another process; choose another --socket")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker as a process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ragline.index.worker", description="The embedded engine")
    parser.add_argument("--path", type=Path, required=True, help="the folder of the generations")
    parser.add_argument("--socket", type=Path, required=True, help="the Unix socket to listen on")
    parser.add_argument("--threads", type=int, default=8, help="requests answered side by side")
    parser.add_argument("--flush-interval-s", type=float, default=2.0, help="seconds between flushes")
    parser.add_argument(
        "--vacuum-after-quiet-s",
        type=float,
        default=30.0,
        help="seconds without a request before deleted points are vacuumed (which blocks requests)",
    )
    # The flags are the fields' names, so the two cannot drift apart.
    options = WorkerOptions(**vars(parser.parse_args(arguments)))
    os.umask(0o077)
    # Blocked in all threads and waited for: a handler would run in the main thread alone, and a signal
    # that another thread receives does not wake that from its wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        run(options, lambda: signal.sigwait(_ENDING))
    except RaglineError as error:
        print(f"ragline engine worker: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigurationError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
