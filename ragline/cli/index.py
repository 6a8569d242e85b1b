"""`ragline index`: the live version, its history, and the proof that the engine holds it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.table import Table

from ragline.cli.session import DataDirOption, JsonOption, Session
from ragline.client import Ragline
from ragline.indexing.v1 import indexing_pb2 as pb
from ragline.indexing.v1 import indexing_pb2_grpc
from ragline.rpc import Caller, open_channel
from ragline.telemetry import Telemetry

app = typer.Typer(help="Index versions: status, log, verification, reconciliation.", no_args_is_help=True)


@app.command("status")
def status(as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """The live generation, its newest version and its counts."""
    session = Session(as_json, data_dir)

    async def work(index: Any, call: Caller) -> None:
        answer = await call(index.GetStatus, pb.GetStatusRequest(), name="IndexService/GetStatus")
        if as_json:
            session.emit(_json(answer))
            return
        table = Table.grid(padding=(0, 2))
        table.add_row("[bold]version[/]", f"[bold]{answer.generation}@{answer.watermark}[/]")
        table.add_row("fingerprint", answer.fingerprint)
        table.add_row("documents", f"{answer.documents}")
        table.add_row("points", f"{answer.points} visible, {answer.closed_points} closed")
        table.add_row("oldest version", f"{answer.generation}@{answer.horizon}")
        table.add_row("last commit", _when(answer.last_commit_unix_s))
        table.add_row("commits", f"{answer.pending_commits} pending, {answer.aborted_sequences} aborted")
        table.add_row(
            "embedder",
            f"{answer.embedder} ({answer.dimensions} dimensions), {answer.cached_vectors} vectors cached",
        )
        session.console.print(table)

    session.run(_with_index(session, work))


@app.command("log")
def log(
    limit: Annotated[int, typer.Option(help="How many commits, newest first.")] = 20,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """The newest commits: when, how many documents, chunks opened and closed, and their trace."""
    session = Session(as_json, data_dir)

    async def work(index: Any, call: Caller) -> None:
        answer = await call(index.ListCommits, pb.ListCommitsRequest(limit=limit), name="IndexService/ListCommits")
        if as_json:
            session.emit(_json(answer))
            return
        table = Table(box=None)
        for column in ("version", "state", "time (UTC)", "documents", "opened", "closed", "fingerprint", "trace"):
            table.add_column(column)
        for commit in answer.commits:
            table.add_row(
                commit.version, commit.state, _when(commit.created_unix_s, "%m-%d %H:%M:%S"), str(commit.documents),
                str(commit.opened),
                str(commit.closed), commit.fingerprint[:16], commit.trace_id,
            )  # fmt: skip
        session.console.print(table)

    session.run(_with_index(session, work))


@app.command("verify")
def verify(
    at: Annotated[str, typer.Option("--at", help="The version to verify, such as g1@42; default the newest.")] = "",
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Scan the engine and compare it with the ledger; exit code 1 when they differ."""
    session = Session(as_json, data_dir)

    async def work(index: Any, call: Caller) -> None:
        request = pb.VerifyVersionRequest(version=at)
        answer = await call(index.VerifyVersion, request, name="IndexService/VerifyVersion", deadline_s=300)
        if as_json:
            session.emit(_json(answer))
        elif answer.matches:
            session.console.print(
                f"[green]{answer.version} is whole[/]: {answer.points} points, fingerprint {answer.found_fingerprint}"
            )
        else:
            session.console.print(
                f"[red]{answer.version} differs[/]: {answer.missing} missing, {answer.orphans} orphans, "
                f"{answer.altered} altered; fingerprint {answer.found_fingerprint[:16]}…, "
                f"recorded {answer.recorded_fingerprint[:16]}…"
            )
        if not answer.matches:
            raise typer.Exit(1)

    session.run(_with_index(session, work))


@app.command("reconcile")
def reconcile(as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Find documents that were accepted but are not searchable, and drive them again now (ingest does so by itself)."""
    session = Session(as_json, data_dir)

    async def work() -> None:
        rpc = session.settings.rpc
        async with Ragline(rpc.gateway, session.token, ingest=rpc.ingest) as client:
            done = await client.reconcile()
        if as_json:
            session.emit({"found_searchable": done.found_searchable, "announced_again": done.announced_again})
            return
        session.console.print(
            f"{done.found_searchable} documents were searchable already, {done.announced_again} announced again"
        )

    session.run(work())


async def _with_index(session: Session, work: Callable[[Any, Caller], Awaitable[None]]) -> None:
    telemetry = Telemetry("cli")
    channel = open_channel(session.settings.rpc.indexing)
    try:
        await work(indexing_pb2_grpc.IndexServiceStub(channel), Caller(telemetry, token=session.token))
    finally:
        await channel.close()
        telemetry.shutdown()


def _json(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _when(unix_s: float, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime(form) if unix_s else "-"
