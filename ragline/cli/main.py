"""The `ragline` command: one app, a module for each family of commands."""

from __future__ import annotations

import sys

import typer

from ragline.cli import ask, budget, contracts, dlq, doctor, index, publish, up
from ragline.cli.session import Session
from ragline.errors import RaglineError

app = typer.Typer(
    name="ragline",
    help="Retrieval-augmented generation that stays true to changing documents and accounts for every answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("up")(up.up)
app.command("publish")(publish.publish)
app.command("ask")(ask.ask)
app.command("search")(ask.search)
app.command("doctor")(doctor.doctor)
app.add_typer(ask.answer_app, name="answer")
app.add_typer(index.app, name="index")
app.add_typer(dlq.app, name="dlq")
app.add_typer(budget.app, name="budget")
app.add_typer(budget.key_app, name="key")
app.add_typer(contracts.app, name="contracts")


def run() -> None:
    """The entry point: what no command caught of Ragline's errors is still one line."""
    try:
        app()
    except RaglineError as error:
        raise SystemExit(Session("--json" in sys.argv).failure(error).exit_code) from error
