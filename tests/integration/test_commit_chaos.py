"""The commit protocol under random faults: writers that stall, die, err and come back, all on one index."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from ragline.contracts.events import ChunksReady
from ragline.errors import TransientError
from ragline.index.edge import EdgeEngine
from ragline.index.engine import VectorEngine
from services.embed.committer import Committer
from services.embed.ledger import Ledger
from services.embed.versions import Unchanged, plan_change
from tests.document_versions import access, delete, upsert
from tests.engine_process import engine_worker
from tests.integration.embed_under_test import GENERATION, Index, empty_index, prepared, running

pytestmark = pytest.mark.stack

DOCUMENTS = "abc"
VERSIONS = 7
WRITERS = 3


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[EdgeEngine]:
    with tempfile.TemporaryDirectory(prefix="ragline-", dir="/tmp") as folder:
        async with engine_worker(Path(folder)) as address:
            engine = EdgeEngine(address)
            yield engine
            await engine.aclose()


class Fate:
    """What befalls one writer: once it is dead, nothing that it does reaches anything any more."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.dead = False

    async def strike(self) -> None:
        """Before a call: go on, pause, err, or be dead."""
        if self.dead:
            raise TransientError("the process is gone")
        await asyncio.sleep(self.chance.choice([0, 0, 0, 0.002, 0.03]))
        if self.dead or self.chance.random() < 0.06:
            raise TransientError("the call did not get through")

    def lose(self) -> None:
        """After a call: its answer may be lost although it had its effect."""
        if self.dead or self.chance.random() < 0.04:
            raise TransientError("the answer was lost")


class Fated:
    """Passes calls on to the ledger or the engine as fate allows."""

    def __init__(self, target: Any, fate: Fate) -> None:
        self._target = target
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            await self._fate.strike()
            outcome = await method(*arguments, **named)
            self._fate.lose()
            return outcome

        return call


class DeafLedger(Fated):
    """A ledger whose leases are not renewed, so that a pause is a pause."""

    async def renew(self, commit: Any) -> bool:
        return True


def history(chance: random.Random, document: str) -> list[ChunksReady]:
    """The versions of a document: each is told apart by its texts, most share some with their neighbours."""
    events, texts = [], [f"{document}:1"]
    for number in range(1, VERSIONS + 1):
        acl = chance.choice([None, ["staff"], ["board"], []])
        kind = "upsert" if number == VERSIONS else chance.choice(["upsert", "upsert", "upsert", "access", "delete"])
        if kind == "delete":
            events.append(delete(number, document_id=document, acl=acl))
            texts = []
            continue
        if kind == "upsert":
            texts = [f"{document}:{number}", *(f"{document}.{n}" for n in range(4) if chance.random() < 0.6)]
            chance.shuffle(texts)
        events.append((access if kind == "access" else upsert)(number, list(texts), document_id=document, acl=acl))
    return events


async def write(index: Index, fate: Fate, events: list[ChunksReady]) -> None:
    """A process of embed: works through its events as the bus delivers them, until it is dead."""
    ledger = cast("Ledger", DeafLedger(index.ledger, fate))
    engine = cast("VectorEngine", Fated(index.engine, fate))
    committer = Committer(ledger, engine, index.telemetry, write_timeout_s=0.5)
    async with running(committer.run()), running(committer.run_reaper(every_s=0.02)):
        for event in events:
            while not fate.dead:
                try:
                    current = await ledger.current_document(GENERATION, event.tenant, event.document_id)
                    plan = plan_change(current, event)
                    if isinstance(plan, Unchanged):
                        break
                    await committer.commit(prepared(plan))
                except TransientError:
                    await asyncio.sleep(0.005)


async def keep_writing(index: Index, chance: random.Random, histories: dict[str, list[ChunksReady]]) -> None:
    """A replica: whenever its process dies, another one gets all of its events again."""
    documents = list(DOCUMENTS)
    chance.shuffle(documents)
    events = [event for number in range(VERSIONS) for event in (histories[name][number] for name in documents)]
    while True:
        fate = Fate(chance)
        process = asyncio.create_task(write(index, fate, events))
        done, _ = await asyncio.wait([process], timeout=chance.uniform(0.1, 0.8))
        if done:
            return await process
        fate.dead = True  # what is under way just stops having effects: nothing is cleaned up
        await process


async def end_leases(index: Index, chance: random.Random) -> None:
    """Time passes: now and then a writer has been silent for too long."""
    while True:
        await asyncio.sleep(chance.uniform(0.01, 0.06))
        await index.database.fetch(
            "UPDATE index_commit SET lease_until = clock_timestamp() WHERE state IN ('pending', 'aborting')"
        )


async def read(index: Index, histories: dict[str, list[ChunksReady]], seen: dict[int, Counter[str]]) -> None:
    """A reader: at every moment each document is exactly one of its versions, whole, and never an older one."""
    allowed = {name: [Counter(e.text for e in event.manifest) for event in histories[name]] for name in DOCUMENTS}
    newest = dict.fromkeys(DOCUMENTS, 0)
    while True:
        view = await index.view()
        shown = Counter([point.payload.text async for point in index.engine.scan(view)])
        for name in DOCUMENTS:
            own = Counter({text: count for text, count in shown.items() if text.startswith(name)})
            matching = [n for n, version in enumerate([Counter(), *allowed[name]]) if version == own]
            assert matching, f"at {view.sequence} document {name} shows {own}, which no version is"
            assert max(matching) >= newest[name], f"document {name} went back"
            newest[name] = max(newest[name], min(matching))
        assert seen.setdefault(view.sequence, shown) == shown, f"version {view.sequence} changed"


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_befalls_the_writers_the_index_stays_whole(
    database_url: str, engine: EdgeEngine, seed: int
) -> None:
    chance = random.Random(seed)
    histories = {name: history(chance, name) for name in DOCUMENTS}
    seen: dict[int, Counter[str]] = {}
    async with empty_index(database_url, engine) as index:
        async with running(end_leases(index, random.Random(seed))), running(read(index, histories, seen)):
            async with asyncio.timeout(60):
                await asyncio.gather(
                    *(keep_writing(index, random.Random(seed * 10 + n), histories) for n in range(WRITERS))
                )
        async with index.reaper():
            while await index.unresolved():
                await index.database.fetch("UPDATE index_commit SET lease_until = clock_timestamp()")
                await asyncio.sleep(0.02)

        newest = [event for name in DOCUMENTS for event in histories[name][-1:]]
        assert await index.texts() == sorted(str(entry.text) for event in newest for entry in event.manifest)
        await index.verify_every_version()
        for sequence, shown in seen.items():
            assert Counter(await index.texts(sequence)) == shown, f"version {sequence} is not what it was"
        await index.commit(
            *(event.model_copy(update={"document_version": 99, "acl_revision": 99, "acl": ("x",)}) for event in newest)
        )
        assert {point.payload.groups async for point in index.engine.scan_all(GENERATION)} == {("x",)}
        aborted = (await index.state())[1]
        assert len(seen) > 5 and len(aborted) > 5, "the test did not test much"
