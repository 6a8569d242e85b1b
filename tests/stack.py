"""The whole stack for tests, on free ports and in a temporary folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ragline.client import Ragline
from ragline.settings import BusSettings, ModelSettings, RpcSettings, Settings

FREE = "127.0.0.1:0"


def stack_settings(folder: Path, *, embedder: str = "wordllama") -> Settings:
    """Settings for a stack of its own: free ports, all state in `folder`, groups that form quickly."""
    return Settings.load(
        data_dir=folder,
        bus=BusSettings(port=0, partitions=4, session_timeout_s=3),
        rpc=RpcSettings(gateway=FREE, ingest=FREE, indexing=FREE, retrieve=FREE, eval=FREE),
        models=ModelSettings(embedder=embedder),
    )


def developer_token(folder: Path) -> str:
    """The key that the stack made for its developer."""
    return (folder / "dev.key").read_text()


@asynccontextmanager
async def client_of(settings: Settings, token: str) -> AsyncIterator[Ragline]:
    """A client of the gateway and of ingest."""
    async with Ragline(settings.rpc.gateway, token, ingest=settings.rpc.ingest, deadline_s=30) as client:
        yield client
