"""`ragline ask`, `ragline search` and `ragline answer show`: questions and what is known of their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ragline.cli.session import DataDirOption, JsonOption, Session
from ragline.client import Answer, Ragline
from ragline.errors import RaglineError
from ragline.gateway.v1 import gateway_pb2

AtOption = Annotated[str, typer.Option("--at", help="An earlier index version, such as g1@42.")]
MinVersionOption = Annotated[str, typer.Option("--min-version", help="Wait until this index version is reached.")]

answer_app = typer.Typer(help="Stored answers and their provenance.", no_args_is_help=True)


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    at: AtOption = "",
    min_version: MinVersionOption = "",
    model: Annotated[str, typer.Option(help="Another model that the gateway allows.")] = "",
    timeout_s: Annotated[float, typer.Option(help="The deadline, in seconds.")] = 60.0,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Ask a question; the answer cites its evidence and names its index version, cost and trace."""
    session = Session(as_json, data_dir)

    async def work() -> None:
        async with Ragline(session.settings.rpc.gateway, session.token, deadline_s=timeout_s) as client:
            if as_json:
                session.emit(
                    answer_json(await client.ask(question, at_version=at, min_version=min_version, model=model))
                )
            else:
                await stream_answer(session, client, question, at=at, min_version=min_version, model=model)

    session.run(work())


async def stream_answer(
    session: Session, client: Ragline, question: str, *, at: str = "", min_version: str = "", model: str = ""
) -> Answer:
    """Print the answer while it is written, then its sources and what it cost."""
    console = session.console
    async for step in client.ask_stream(question, at_version=at, min_version=min_version, model=model):
        if step.HasField("token"):
            console.print(Text(step.token.text), end="", soft_wrap=True)
        elif step.HasField("final"):
            answer = Answer.of(step.final.answer)
            console.print()
            console.print(footer(answer, session.settings.telemetry.trace_url))
            return answer
    raise RaglineError("the gateway ended the stream without an answer", reason="STREAM_ENDED")


def footer(answer: Answer, trace_url: str | None) -> Group:
    """The cited sources, and in one dim line the version, tokens, cost and trace."""
    lines: list[Any] = []
    for citation in answer.citations:
        if citation.cited:
            place = " > ".join(citation.heading_path) or citation.title
            lines.append(Text.assemble((f" [{citation.number}] ", "cyan"), citation.document_id, ("  " + place, "dim")))
    trace = trace_url.format(trace_id=answer.trace_id) if trace_url else answer.trace_id
    lines.append(
        Text(
            f" {answer.index_version} · {answer.model} · {answer.prompt_tokens}+{answer.completion_tokens} tokens · "
            f"${answer.cost_usd:.6f} · answer {answer.id} · trace {trace}",
            style="dim",
        )
    )
    return Group(*lines)


def answer_json(answer: Answer) -> dict[str, Any]:
    """An answer for machines."""
    return MessageToDict(answer.message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


@answer_app.command("show")
def show(
    answer_id: Annotated[str, typer.Argument(metavar="ID", help="The answer's id, as `ragline ask` prints it.")],
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show a stored answer with its whole provenance and its evaluation."""
    session = Session(as_json, data_dir)

    async def work() -> None:
        async with Ragline(session.settings.rpc.gateway, session.token) as client:
            answer = await client.get_answer(answer_id)
        if as_json:
            session.emit(answer_json(answer))
        else:
            session.console.print(answer_tree(answer, session.settings.telemetry.trace_url))

    session.run(work())


def answer_tree(answer: Answer, trace_url: str | None) -> Tree:
    """Question, answer, each piece of evidence, provenance, latency by stage and evaluation."""
    message = answer.message
    tree = Tree(f"[bold]{escape(answer.question)}[/]")
    text = Text(answer.text, style="yellow" if answer.refused else "")
    tree.add(Panel(text, title="refusal" if answer.refused else "answer", border_style="dim"))
    evidence = tree.add(f"evidence at [bold]{answer.index_version}[/] [dim]{answer.index_fingerprint[:16]}…[/]")
    for citation in answer.citations:
        mark = "[green]cited[/]" if citation.cited else "[dim]not cited[/]"
        place = " > ".join(citation.heading_path) or citation.title
        evidence.add(f"[cyan][{citation.number}][/] {escape(citation.document_id)} [dim]{escape(place)}[/] "
                     f"score {citation.score:.4f} {mark}")  # fmt: skip
    usage = message.usage
    tree.add(
        f"model {escape(answer.model)} · prompt {escape(message.prompt_version)} · {message.outcome} · "
        f"{usage.prompt_tokens}+{usage.completion_tokens} tokens · ${usage.cost_usd:.6f} "
        f"[dim]({usage.price_version})[/]"
    )
    tree.add(_latency(message.latency_ms))
    tree.add(_evaluation(message))
    link = trace_url.format(trace_id=answer.trace_id) if trace_url else answer.trace_id
    tree.add(f"trace {link}")
    return tree


def _latency(latency_ms: Mapping[str, float]) -> Table:
    table = Table.grid(padding=(0, 1))
    longest = max((value for name, value in latency_ms.items() if name != "total"), default=1.0)
    for name, value in sorted(latency_ms.items(), key=lambda item: (item[0] == "total", item[0])):
        bar = "" if name == "total" else "█" * max(1, round(24 * value / max(longest, 1e-9)))
        table.add_row(name, f"{value:.1f} ms", f"[cyan]{bar}[/]")
    return table


def _evaluation(message: gateway_pb2.Answer) -> str | Group:
    if not message.HasField("evaluation"):
        return "[dim]not evaluated yet[/]"
    colour = {"good": "green", "doubtful": "yellow", "bad": "red"}.get(message.evaluation.verdict, "")
    lines = [f"evaluation [{colour}]{message.evaluation.verdict}[/] {', '.join(message.evaluation.flags)}"]
    for score in message.evaluation.scores:
        value = f"{score.value:.2f}" if score.HasField("value") else "n/a"
        lines.append(f"  {score.name} [bold]{value}[/] [dim]{escape(score.reason)} ({score.method} {score.version})[/]")
    return Group(*lines)


def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    limit: Annotated[int, typer.Option(help="How many hits, 1 to 100.")] = 10,
    at: AtOption = "",
    min_version: MinVersionOption = "",
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Search without asking a model."""
    session = Session(as_json, data_dir)

    async def work() -> None:
        async with Ragline(session.settings.rpc.gateway, session.token) as client:
            response = await client.search(query, limit=limit, at_version=at, min_version=min_version)
        if as_json:
            session.emit(MessageToDict(response, preserving_proto_field_name=True))
            return
        table = Table(
            title=f"{response.index_version.version} · {len(response.hits)} hits", box=None, title_style="dim"
        )
        for column in ("#", "document", "section", "dense", "sparse", "score"):
            table.add_column(column)
        for hit in response.hits:
            dense = f"{hit.dense.score:.3f} (#{hit.dense.rank})" if hit.HasField("dense") else "-"
            sparse = f"{hit.sparse.score:.2f} (#{hit.sparse.rank})" if hit.HasField("sparse") else "-"
            section = " > ".join(hit.heading_path[1:])
            table.add_row(str(hit.rank), escape(hit.document_id), escape(section), dense, sparse, f"{hit.score:.4f}")
        session.console.print(table)

    session.run(work())
