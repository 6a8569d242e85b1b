"""`make demo`: the main job of Ragline on real documents, in under three minutes.

Starts the whole stack on a temporary data directory, publishes Python Enhancement Proposals, asks, changes
and deletes documents, goes back in time, runs into a budget, and shows how an answer was evaluated.
Exits with 0 only if every one of these really happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from ragline.cli.ask import answer_tree, footer
from ragline.cli.budget import show_budgets
from ragline.cli.documents import Change, Found, PublishOptions, change_of, deletion_of, find_in_folder
from ragline.cli.publishing import publisher
from ragline.cli.session import Session
from ragline.client import Answer, Ragline
from ragline.errors import RaglineError, ResourceExhausted
from ragline.identity import Identity, KeyFile
from ragline.indexing.v1 import indexing_pb2, indexing_pb2_grpc
from ragline.rpc import Caller, open_channel
from ragline.settings import BusSettings, RpcSettings, Settings
from ragline.telemetry import Telemetry
from services.all_in_one import running

EXAMPLES = Path(__file__).parent
USER = "ann"
THRIFTY_USER = "ben"
PRICE_USD_PER_MILLION_TOKENS = 10.0
BUDGET_USD = 0.05
OPTIONS = PublishOptions(tenant="default", source="demo")

QUESTION_CHANGED = "For how long does a Python release receive bugfix updates?"
QUESTION_DELETED = "How is a catch-all name used in iterable unpacking?"
QUESTIONS = (
    "What is a docstring?",
    "When will deprecated functionality be removed from the typing module?",
    QUESTION_CHANGED,
)


@dataclass
class Demo:
    """The state of one run: what was shown, and whether it was true."""

    console: Console
    session: Session
    user: Ragline
    thrifty: Ragline
    admin: Ragline
    checks: list[tuple[str, bool]] = field(default_factory=list)
    published: str = ""
    """The index version that holds the newest publication."""

    def step(self, title: str) -> None:
        self.console.print()
        self.console.print(Rule(f"[bold]{title}[/]", align="left", style="cyan"))

    def check(self, what: str, happened: bool) -> None:
        self.checks.append((what, happened))
        self.console.print(f"{'[green]✓[/]' if happened else '[red]✗[/]'} {what}")

    async def ask(self, question: str, *, at: str = "") -> Answer:
        self.console.print(f"[bold]? {escape(question)}[/]" + (f" [dim]at {at}[/]" if at else ""))
        # Read your own writes: a reader may be a few milliseconds behind what was just published.
        answer = await self.user.ask(question, at_version=at, min_version="" if at else self.published)
        self.console.print(f"  {escape(answer.text)}", style="yellow" if answer.refused else None)
        self.console.print(footer(answer, None))
        return answer

    async def publish(self, changes: list[Change]) -> str:
        """Publish on Kafka, wait until searchable; returns the index version that holds them."""
        async with publisher(self.session) as out:
            outcome = await out.follow(await out.send(changes, OPTIONS, bulk=False), timeout_s=150)
        self.console.print(f"searchable at [bold]{outcome.index_version}[/] after {outcome.seconds:.1f} s")
        self.published = outcome.index_version
        return outcome.index_version


async def documents_become_answers(demo: Demo) -> Answer:
    demo.step("Publish 26 Python Enhancement Proposals on Kafka")
    events = [change_of(found, OPTIONS) for found in find_in_folder(EXAMPLES / "peps")]
    version = await demo.publish(events)
    demo.check(f"{len(events)} documents are searchable", bool(version))
    demo.step("Ask questions")
    answers = [await demo.ask(question) for question in QUESTIONS]
    cited = all(not a.refused and any(c.cited for c in a.citations) for a in answers)
    demo.check("every answer cites its evidence", cited)
    accounted = all(
        a.index_version and a.trace_id and a.cost_usd > 0 and len(a.index_fingerprint) == 64 for a in answers
    )
    demo.check("every answer names its index version, fingerprint, cost and trace", accounted)
    refused = await demo.ask("Who won the football world cup in 1998?")
    demo.check("what the documents do not cover is refused, not guessed", refused.refused)
    return answers[-1]


async def a_changed_document_changes_the_answer(demo: Demo, before: Answer) -> None:
    demo.step("Publish a real later revision of PEP 602 (October 2023)")
    revision = change_of(Found(EXAMPLES / "peps-later" / "pep-0602.rst", "pep-0602.rst"), OPTIONS)
    version = await demo.publish([revision])
    after = await demo.ask(QUESTION_CHANGED)
    changed = after.text != before.text and "twenty four months" in after.text
    demo.check(f"the answer changed with the document, {before.index_version} -> {after.index_version}", changed)
    demo.check("the answer's version holds the change", version == after.index_version)
    demo.step(f"Ask the same question at the old version {before.index_version}")
    then = await demo.ask(QUESTION_CHANGED, at=before.index_version)
    same = then.text == before.text and then.index_fingerprint == before.index_fingerprint
    demo.check("the old version gives the old answer, with the same fingerprint", same)


async def a_deleted_document_is_not_answered_from(demo: Demo) -> None:
    demo.step("Delete PEP 3132")
    before = await demo.ask(QUESTION_DELETED)
    await demo.publish([deletion_of("pep-3132.rst", OPTIONS)])
    after = await demo.ask(QUESTION_DELETED)
    answered = not before.refused and any(c.cited and c.document_id == "pep-3132.rst" for c in before.citations)
    demo.check("before, PEP 3132 answered the question", answered)
    gone = after.refused and all(c.document_id != "pep-3132.rst" for c in after.citations)
    demo.check("after, the question is refused", gone)


async def a_budget_cannot_be_overspent(demo: Demo) -> None:
    demo.step(f"Give another user, {THRIFTY_USER}, a budget of ${BUDGET_USD} a day, and go on asking")
    await demo.admin.set_budget(user=THRIFTY_USER, period="day", limit_usd=BUDGET_USD)
    refusal: ResourceExhausted | None = None
    asked = 0
    while refusal is None and asked < 50:
        try:
            await demo.thrifty.ask(QUESTIONS[asked % len(QUESTIONS)])
            asked += 1
        except ResourceExhausted as error:
            refusal = error
    demo.console.print(f"{asked} answers, then: [yellow]{escape(str(refusal))}[/]")
    budgets = await demo.thrifty.budgets()
    show_budgets(demo.session, budgets)
    refused = refusal is not None and asked > 0
    demo.check("the call that did not fit was refused before a model was called, with what is left", refused)
    mine = [budget for budget in budgets if budget.level == "user" and budget.period == "day"]
    kept = bool(mine) and all(b.spent_usd + b.held_usd <= b.limit_usd for b in mine)
    demo.check("spent and held together never exceed the limit", kept)


async def every_answer_is_evaluated(demo: Demo, answer: Answer) -> None:
    demo.step("Look at how an answer was evaluated")
    deadline = time.monotonic() + 30
    stored = await demo.user.get_answer(answer.id)
    while not stored.message.HasField("evaluation") and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        stored = await demo.user.get_answer(answer.id)
    demo.console.print(answer_tree(stored, None))
    demo.check("the answer was evaluated on its own", stored.message.HasField("evaluation"))


async def the_index_is_what_the_ledger_says(demo: Demo) -> None:
    demo.step("Verify the index against its ledger")
    channel = open_channel(demo.session.settings.rpc.indexing)
    telemetry = Telemetry("demo")
    try:
        call = Caller(telemetry, token=demo.session.token, deadline_s=60)
        index = indexing_pb2_grpc.IndexServiceStub(channel)
        found = await call(index.VerifyVersion, indexing_pb2.VerifyVersionRequest(), name="IndexService/VerifyVersion")
    finally:
        await channel.close()
        telemetry.shutdown()
    demo.console.print(f"{found.version}: {found.points} points, fingerprint {found.found_fingerprint}")
    demo.check("every point is there, unaltered, and the fingerprint is the recorded one", found.matches)


def _settings(data_dir: Path) -> Settings:
    # The price is nominal, to show a budget at work: the extractive model itself costs nothing.
    os.environ["RAGLINE_GENERATE__PRICES"] = json.dumps(
        {
            "ragline/extractive": {
                "input_usd_per_token": PRICE_USD_PER_MILLION_TOKENS / 1e6,
                "output_usd_per_token": PRICE_USD_PER_MILLION_TOKENS / 1e6,
            }
        }
    )
    free = "127.0.0.1:0"
    rpc = RpcSettings(gateway=free, ingest=free, indexing=free, retrieve=free, eval=free)
    return Settings.load(data_dir=data_dir, bus=BusSettings(port=0), rpc=rpc)


async def run(console: Console, data_dir: Path) -> bool:
    """The whole demo; whether everything that it shows was true."""
    session = Session(data_dir=data_dir, console=console)
    console.print("Starting the broker, the database, the vector engine and five services ...")
    async with running(_settings(data_dir)) as up:
        stack = up.stack
        console.print(f"Ragline runs: gateway at {stack.settings.rpc.gateway}, Kafka at {stack.settings.bootstrap}")
        console.print(
            f"[dim]The extractive model is free; this demo prices it at ${PRICE_USD_PER_MILLION_TOKENS:g} "
            "a million tokens, so that there is something to budget.[/]"
        )
        keys, gateway = KeyFile(stack.settings.keys_path), stack.settings.rpc.gateway
        tokens = [
            keys.create(Identity("default", user, frozenset({"staff"}), frozenset({"ask", "search"})))
            for user in (USER, THRIFTY_USER)
        ]
        async with (
            Ragline(gateway, tokens[0]) as user,
            Ragline(gateway, tokens[1]) as thrifty,
            Ragline(gateway, session.token) as admin,
        ):
            demo = Demo(console, session, user, thrifty, admin)
            answer = await documents_become_answers(demo)
            steps: list[Callable[[Demo], Awaitable[None]]] = [
                lambda d: a_changed_document_changes_the_answer(d, answer),
                a_deleted_document_is_not_answered_from,
                lambda d: every_answer_is_evaluated(d, answer),
                a_budget_cannot_be_overspent,
                the_index_is_what_the_ledger_says,
            ]
            for step in steps:
                await step(demo)
    return all(happened for _, happened in demo.checks)


def main() -> int:
    console = Console(highlight=False, force_terminal=True if os.environ.get("FORCE_COLOR") else None)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ragline-demo-") as folder:
        try:
            true = asyncio.run(run(console, Path(folder)))
        except RaglineError as error:
            console.print(f"[red]ragline: {escape(str(error))}[/]")
            return 1
    console.print()
    seconds = time.monotonic() - started
    if true:
        console.print(f"[bold green]All of that really happened[/], in {seconds:.0f} s.")
        console.print("Next: `make up`, then ask your own question from another terminal (README.md).")
    else:
        console.print(f"[bold red]Something above did not happen[/] (✗), after {seconds:.0f} s.")
    return 0 if true else 1


if __name__ == "__main__":
    sys.exit(main())
