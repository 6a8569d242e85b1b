"""`ragline dlq`: what no service could handle, and what to do about it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ragline.cli.session import DataDirOption, JsonOption, Session
from ragline.dead_letters import DeadLetter, DeadLetters, selected
from ragline.errors import ConfigurationError

app = typer.Typer(help="Dead letters: list, show, replay, discard.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Dead letters by id, as `dlq list` prints them.")]
AllOption = Annotated[bool, typer.Option("--all", help="All unresolved dead letters.")]


def dead_letters(session: Session) -> DeadLetters:
    """The dead letters on the session's Kafka."""
    bootstrap = session.settings.bus.bootstrap
    if not bootstrap:
        raise ConfigurationError("no Kafka: start the stack with `ragline up`, or set RAGLINE_BUS__BOOTSTRAP")
    return DeadLetters(bootstrap, by="ragline dlq")


@app.command("list")
def list_letters(
    resolved: Annotated[bool, typer.Option("--resolved", help="Also those replayed or discarded.")] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Every dead letter, oldest first."""
    session = Session(as_json, data_dir)

    async def work() -> None:
        letters = await dead_letters(session).read(unresolved_only=not resolved)
        if as_json:
            session.emit({"dead_letters": [_json(letter) for letter in letters]})
            return
        if not letters:
            session.console.print("No dead letters.")
            return
        table = Table(box=None)
        for column in ("id", "time", "key", "service", "reason", "error", ""):
            table.add_column(column, overflow="fold")
        for letter in letters:
            time = letter.died_at.strftime("%m-%d %H:%M:%S")
            table.add_row(letter.id, time, escape(letter.key), letter.service, letter.reason,
                          escape(letter.error[:120]), letter.resolution or "")  # fmt: skip
        session.console.print(table)

    session.run(work())


@app.command("show")
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id.")],
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """One dead letter: its error, origin, trace, headers and body."""
    session = Session(as_json, data_dir)

    async def work() -> None:
        letter = await dead_letters(session).get(letter_id)
        body = letter.body.decode(errors="replace")
        if as_json:
            session.emit({**_json(letter), "headers": dict(letter.headers), "body": body})
            return
        console = session.console
        console.print(f"[bold]{letter.id}[/] {letter.resolution or 'unresolved'}")
        console.print(f"[red]{letter.reason}[/] {escape(letter.error)}")
        time = f"{letter.died_at:%Y-%m-%d %H:%M:%S} UTC"
        console.print(f"given up by {letter.service} at {time}, trace {letter.trace_id}")
        for name, value in sorted(letter.headers.items()):
            console.print(f"  [dim]{escape(name)}: {escape(value)}[/]")
        console.print(escape(_pretty(body)))

    session.run(work())


@app.command("replay")
def replay(
    ids: Ids = None, everything: AllOption = False, as_json: JsonOption = False, data_dir: DataDirOption = None
) -> None:
    """Publish dead letters to their topic again; harmless to repeat."""
    _resolve(Session(as_json, data_dir), ids or [], everything=everything, action="replayed")


@app.command("discard")
def discard(
    ids: Ids = None, everything: AllOption = False, as_json: JsonOption = False, data_dir: DataDirOption = None
) -> None:
    """Note that nothing more will be done about dead letters."""
    _resolve(Session(as_json, data_dir), ids or [], everything=everything, action="discarded")


def _resolve(session: Session, ids: list[str], *, everything: bool, action: str) -> None:
    async def work() -> None:
        letters = dead_letters(session)
        chosen = selected(await letters.read(), ids, everything=everything)
        await (letters.replay(chosen) if action == "replayed" else letters.discard(chosen))
        if session.as_json:
            session.emit({action: [letter.id for letter in chosen]})
        else:
            session.console.print(f"{len(chosen)} dead letters {action}")

    session.run(work())


def _json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "topic": letter.topic,
        "key": letter.key,
        "service": letter.service,
        "reason": letter.reason,
        "error": letter.error,
        "died_at": letter.died_at.isoformat(),
        "trace_id": letter.trace_id,
        "resolution": letter.resolution,
    }


def _pretty(body: str) -> str:
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        return body
