"""Ports of this machine: a free one, and a clear word when the wanted one is taken."""

from __future__ import annotations

import errno
import random
import socket
from contextlib import suppress

from ragline.errors import ConfigurationError

_BELOW_EPHEMERAL = range(20_000, 32_768)
"""Where the kernel takes no ports for outgoing connections from: one that is free stays so for a while."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port of `host` that nothing listens on at this moment."""
    for port in random.sample(_BELOW_EPHEMERAL, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((host, port))
            return port
    with socket.socket() as probe:
        probe.bind((host, 0))
        any_port: int = probe.getsockname()[1]
        return any_port


def require_free(host: str, port: int, setting: str) -> None:
    """Check that `port` can be listened on; 0 (any free port) always can.

    Raises ConfigurationError that names `setting`, the variable that chooses the port.
    """
    if port == 0:
        return
    with socket.socket() as probe:
        # What a server of ours does too: a connection that lingers in TIME_WAIT is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(_obstacle(error, host, port, setting)) from error


def _obstacle(error: OSError, host: str, port: int, setting: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} ({setting}) is in use; stop what uses it or set {setting} to another port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} ({setting}) is reserved for root; set {setting} to a port above 1023"
    return f"cannot listen on {host}:{port} ({setting}): {error.strerror}; set an address of this machine"
