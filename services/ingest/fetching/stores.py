"""fsspec's file systems: which one a URL names, whether its package is there, and what it raises."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Final

from ragline.errors import ConfigurationError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_ERRORS: Final = {
    "s3": (("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError")),
    "gs": (
        ("gcsfs.retry", "HttpError"),
        ("google.auth.exceptions", "GoogleAuthError"),
        ("aiohttp", "ClientError"),
    ),
}
"""What the packages raise beside OSError: module and class, imported only once the store is in use."""


def require_package(protocol: str, *, setting: str) -> None:
    """Raise ConfigurationError unless fsspec knows the protocol and its package is installed."""
    from fsspec.registry import known_implementations, registry

    if protocol in registry:
        return
    known = known_implementations.get(protocol)
    if known is None:
        raise ConfigurationError(f"{setting}: fsspec knows no store {protocol}://; use file:, s3:, gs: or another")
    package = known["class"].partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ConfigurationError(f"{setting}: {protocol}:// needs the package {package}: run `pip install {package}`")


def open_store(protocol: str) -> AbstractFileSystem:
    """The file system of a protocol, with the credentials that its package finds by itself. Blocking."""
    import fsspec

    return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True)


def store_errors(protocol: str) -> tuple[type[BaseException], ...]:
    """What a file system of this protocol raises when the store fails or refuses."""
    found: list[Any] = [OSError]
    for module, name in _ERRORS.get({"gcs": "gs", "s3a": "s3"}.get(protocol, protocol), ()):
        if importlib.util.find_spec(module.partition(".")[0]) is not None:
            found.append(getattr(importlib.import_module(module), name))
    return tuple(found)
