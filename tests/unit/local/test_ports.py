"""Ports: a free one is free, a taken one is named with the setting that moves it."""

from __future__ import annotations

import os
import socket

import pytest

from ragline.errors import ConfigurationError
from ragline.local.ports import free_port, require_free


def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()
    require_free("127.0.0.1", port, "RAGLINE_RPC__GATEWAY")
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))


def test_a_port_in_use_is_named_with_its_setting() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(ConfigurationError) as caught:
            require_free("127.0.0.1", port, "RAGLINE_RPC__GATEWAY")
    assert str(caught.value) == (
        f"port {port} (RAGLINE_RPC__GATEWAY) is in use; stop what uses it or set RAGLINE_RPC__GATEWAY to another port"
    )


def test_port_zero_is_always_free() -> None:
    require_free("127.0.0.1", 0, "RAGLINE_BUS__PORT")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1.*RAGLINE_RPC__GATEWAY"):
        require_free("192.0.2.1", 50050, "RAGLINE_RPC__GATEWAY")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every port")
def test_a_port_of_roots_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="above 1023"):
        require_free("127.0.0.1", 81, "RAGLINE_RPC__GATEWAY")
