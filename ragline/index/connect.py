"""From the setting `RAGLINE_ENGINE__URL` to the engine that it names."""

from __future__ import annotations

from ragline.errors import ConfigurationError
from ragline.index.engine import VectorEngine


def connect_engine(url: str, *, api_key: str | None = None) -> VectorEngine:
    """The engine at `url`; nothing is connected before the first call.

    `unix:///path/engine.sock` (or `unix:path`) is the embedded engine's worker, `http(s)://host:6334` a
    Qdrant server. Raises ConfigurationError for anything else.
    """
    scheme, _, path = url.partition(":")
    if scheme == "unix" and path.removeprefix("//"):
        from ragline.index.edge import EdgeEngine

        return EdgeEngine(f"unix:{path.removeprefix('//')}")
    if scheme in ("http", "https") and path.removeprefix("//"):
        from ragline.index.server import QdrantEngine

        return QdrantEngine.at(url, api_key=api_key)
    raise ConfigurationError(
        f"RAGLINE_ENGINE__URL is {url[:80]!r}: use unix:///path/engine.sock for the embedded engine "
        "or http(s)://host:6334 for a Qdrant server"
    )
