"""`ragline up`: the whole stack in the foreground."""

from __future__ import annotations

import importlib
import time
from typing import Annotated, Any

import typer
from rich.panel import Panel
from rich.table import Table

from ragline.cli.session import DataDirOption, JsonOption, Session
from ragline.local.stack import LocalStack
from ragline.runtime import run_until_signal


def up(
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    processes: Annotated[bool, typer.Option(help="Run each service as a process of its own.")] = False,
) -> None:
    """Start the whole stack in the foreground; Ctrl-C stops it."""
    session = Session(as_json, data_dir)
    started = time.monotonic()

    async def work() -> None:
        async with load_all_in_one().running(session.settings, processes=processes) as running:
            if as_json:
                addresses, key_file = _addresses(running.stack), str(running.stack.data_dir.dev_key)
                session.emit({"ready": True, "addresses": addresses, "key_file": key_file})
            else:
                session.console.print(_welcome(running.stack, time.monotonic() - started))
            await running.wait()

    if not as_json:
        session.console.print("Starting Ragline (Ctrl-C stops it) ...")
    session.run(run_until_signal(work()))
    if not as_json:
        session.console.print("Stopped.")


def load_all_in_one() -> Any:
    """The composition of all five services. By name: `ragline` never imports a service's code."""
    return importlib.import_module("services.all_in_one")


def _addresses(stack: LocalStack) -> dict[str, str]:
    rpc = stack.settings.rpc
    return {
        "gateway": rpc.gateway,
        "ingest": rpc.ingest,
        "indexing": rpc.indexing,
        "retrieve": rpc.retrieve,
        "eval": rpc.eval,
        "bus": stack.settings.bootstrap,
    }


def _welcome(stack: LocalStack, seconds: float) -> Panel:
    table = Table.grid(padding=(0, 2))
    for name, address in _addresses(stack).items():
        table.add_row(f"[bold]{name}[/]", address)
    table.add_row("[bold]data[/]", str(stack.data_dir.path))
    table.add_row("[bold]key[/]", f"{stack.data_dir.dev_key} [dim](sent as `authorization: Bearer ...`)[/]")
    table.add_row()
    table.add_row("[bold]try[/]", "ragline publish examples/peps")
    table.add_row("", 'ragline ask "For how long does a Python release receive bugfix updates?"')
    table.add_row("", "ragline index status")
    table.add_row()
    table.add_row(
        "[dim]note[/]",
        "[dim]The embedded broker keeps nothing over a restart; what was accepted does not depend on it.[/]",
    )
    return Panel(table, title=f"Ragline is ready after {seconds:.0f} s", border_style="green")
