"""The services, found by their folders: a test that names them would forget the next one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path

import services
from ragline.runtime import Service
from ragline.settings import Settings

SERVICES = tuple(sorted(app.parent.name for app in Path(services.__path__[0]).glob("*/app.py")))


@asynccontextmanager
async def wired_service(name: str, folder: Path) -> AsyncIterator[Service]:
    """A service as its `build` wires it. Nothing is running: every address leads nowhere."""
    settings = Settings.load(
        _env_file=None,
        data_dir=folder,
        bus={"bootstrap": "127.0.0.1:1"},
        database={"url": "postgresql://nobody@127.0.0.1:1/none"},
        engine={"url": f"unix://{folder}/engine.sock"},
        models={"embedder": "wordllama"},
        auth={"service_token": "rgl_none_none"},
    )
    service: Service = import_module(f"services.{name}.app").build(settings)
    try:
        yield service
    finally:
        for close in reversed(service.closers):
            await close()
        service.telemetry.shutdown()
