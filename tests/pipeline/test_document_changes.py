"""Whatever happens to documents, in whatever order it arrives, the index ends as a simple model says."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ragline.contracts.events import BulkDocumentChanged, DocumentChanged
from ragline.index.engine import VectorEngine
from ragline.index.fingerprint import Fingerprint
from services.ingest import registry as registry_module
from tests.pipeline.document_model import Access, Upstream, VisibleChunk, document_text
from tests.pipeline.documents_under_test import Documents, running_documents

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

EXAMPLES = 40
STEPS = 60
PART_BYTES = 700
"""Documents of more than two sections travel in parts."""
_tenants = (f"tenant-{n}" for n in itertools.count(1))


@dataclass(frozen=True, slots=True)
class Publish:
    """A change of one document; the same source and revision always says the same."""

    op: Literal["upsert", "delete", "access"]
    document_id: str
    source: str
    revision: int
    sections: str
    acl: Access
    acl_revision: int | None
    language: str
    bulk: bool


@dataclass(frozen=True, slots=True)
class Rename:
    """A delete, and an upsert of the same content under another id."""

    old: str
    new: str
    revision: int
    bulk: bool


@dataclass(frozen=True, slots=True)
class Deliver:
    """The next message of some keys, at the same time."""

    consumer: Literal["ingest", "embed"]
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Mishap:
    """A consumer is back where it last committed its offset, or loses an announcement to the DLQ."""

    kind: Literal["rewound", "lost"]
    consumer: Literal["ingest", "embed"]
    key: int
    messages: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Everything that waits is delivered, and the index compared with the model."""


Step = Publish | Rename | Deliver | Mishap | Settle

documents_of = st.sampled_from("abc")
revisions = st.integers(0, 3)  # few, so that sources often meet at the newest one
accesses = st.sampled_from([None, (), ("staff",), ("hr", "staff"), ("hr",)])
consumers = st.sampled_from(["ingest", "embed"])
# Equal neighbours would become one chunk, since they have one heading.
section_names = st.text("ABCDE", min_size=1, max_size=5).filter(lambda s: all(a != b for a, b in itertools.pairwise(s)))
publications = st.builds(
    Publish,
    op=st.sampled_from(["upsert", "upsert", "upsert", "delete", "access"]),
    document_id=documents_of,
    source=st.sampled_from(["wiki", "crm"]),
    revision=revisions,
    sections=section_names,
    acl=accesses,
    acl_revision=st.none() | revisions,
    language=st.sampled_from(["", "en", "de"]),
    bulk=st.booleans(),
)
renames = st.builds(Rename, documents_of, documents_of, revisions, st.booleans()).filter(lambda r: r.old != r.new)
deliveries = st.builds(Deliver, consumers, st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple))
mishaps = st.builds(
    Mishap, st.sampled_from(["rewound", "rewound", "lost"]), consumers, st.integers(0, 9), st.integers(1, 3)
)
steps = st.lists(
    st.one_of(publications, publications, renames, deliveries, deliveries, mishaps, st.just(Settle())),
    min_size=15,
    max_size=STEPS,
)


@pytest.fixture(scope="module")
async def documents(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Documents]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_module, "PART_BYTES", PART_BYTES)
        async with running_documents(database_url, tmp_path_factory.mktemp("documents")) as documents:
            yield documents


@dataclass
class Run:
    """One run of steps on the real pipeline, beside the model; a tenant of its own."""

    pipeline: Documents
    upstream: Upstream = field(default_factory=lambda: Upstream(next(_tenants)))
    before: Fingerprint = field(default_factory=Fingerprint)
    cached: set[str] = field(default_factory=set)
    embedded: int = 0
    settled: dict[int, Counter[tuple[str, str]]] = field(default_factory=dict)
    """What was visible at each index version that was looked at."""

    async def begin(self) -> None:
        self.pipeline.begin()
        self.before = await self._recorded()
        self.cached, self.embedded = await self.pipeline.cached(), self.pipeline.cache.embedded

    async def do(self, step: Step) -> None:
        match step:
            case Publish():
                self.publish(step)
            case Rename():
                self.rename(step)
            case Deliver():
                waiting = self.pipeline.bus.waiting(step.consumer)
                chosen = {key % len(waiting) for key in step.keys} if waiting else ()
                await self.pipeline.deliver(step.consumer, [waiting[key] for key in sorted(chosen)])
            case Mishap():
                self.befall(step)
            case Settle():
                await self.settle()

    def publish(self, change: Publish) -> None:
        fields: dict[str, Any] = {"acl": change.acl, "acl_revision": change.acl_revision}
        if change.op == "upsert":
            name = (change.document_id, change.source, change.revision)
            sections = self.upstream.sections.setdefault(name, change.sections)
            said = [e for e in self.upstream.events if (e.document_id, e.source, e.revision, e.op) == (*name, "upsert")]
            if said:
                self._send(said[0], bulk=change.bulk)
                return
            fields |= {"content": document_text(self.upstream.title, sections), "content_type": "text/markdown"}
            fields |= {"uri": f"https://example.org/{change.document_id}"}
            fields |= {"metadata": {"language": change.language} if change.language else {}}
        self._send(
            DocumentChanged(
                tenant=self.upstream.tenant, document_id=change.document_id, source=change.source, op=change.op,
                revision=change.revision, **(fields if change.op != "delete" else {}),
            ),
            bulk=change.bulk,
        )  # fmt: skip

    def rename(self, step: Rename) -> None:
        sections = self.upstream.newest_sections(step.old)
        for op, name in (("delete", step.old), ("upsert", step.new)) if sections else ():
            change = Publish(
                cast("Literal['upsert', 'delete']", op),
                name,
                "wiki",
                step.revision,
                sections,
                None,
                None,
                "",
                step.bulk,
            )
            self.publish(change)

    def _send(self, event: DocumentChanged, *, bulk: bool) -> None:
        self.upstream.events.append(event)
        self.pipeline.bus.publish("ingest", BulkDocumentChanged(**event.model_dump()) if bulk else event)

    def befall(self, mishap: Mishap) -> None:
        bus = self.pipeline.bus
        if mishap.kind == "rewound" and (read := bus.read(mishap.consumer)):
            log = read[mishap.key % len(read)]
            log.position = max(0, log.position - mishap.messages)
        if mishap.kind == "lost" and (waiting := bus.waiting("embed")):
            log = waiting[mishap.key % len(waiting)]
            log.position = min(len(log.events), log.position + mishap.messages)

    # --- comparing ----------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Deliver everything, and compare what readers find, the fingerprint, and what was embedded."""
        await self.pipeline.drain()
        assert await self.visible() == self.upstream.visible()
        verified = await self.pipeline.index.history.verify(cast("VectorEngine", self.pipeline.index.engine), None)
        assert verified.matches, verified
        assert (await self._recorded()).minus(self.before) == self.upstream.fingerprint()
        await self._compare_embedded()
        watermark, _ = await self.pipeline.index.state()
        self.settled[watermark] = await self._shown_at(watermark)
        assert await self._left_staged() == []

    async def _left_staged(self) -> list[dict[str, Any]]:
        """Parts of versions that no reader will ever see."""
        return await self.pipeline.index.database.fetch(
            "SELECT p.document_id, p.document_version FROM staged_part p JOIN document d USING (tenant, document_id) "
            "WHERE p.document_version < d.document_version"
        )

    async def _compare_embedded(self) -> None:
        """Each content once, and only contents of versions that were indexed."""
        contents, new = self.pipeline.contents, await self.pipeline.cached() - self.cached
        assert self.pipeline.cache.embedded - self.embedded == len(new)
        assert contents.committed <= new <= contents.committed | contents.perhaps
        assert new <= self.upstream.contents()

    async def visible(self) -> Counter[VisibleChunk]:
        return Counter(
            VisibleChunk(
                p.document_id, p.chunk_id, p.text, p.title, frozenset(p.groups), frozenset(p.metadata.items())
            )
            for p in (point.payload for point in await self.pipeline.index.points())
            if p.tenant == self.upstream.tenant
        )  # fmt: skip

    async def old_versions_are_unchanged(self) -> None:
        for sequence, shown in self.settled.items():
            assert await self._shown_at(sequence) == shown, sequence

    async def every_change_is_accounted_for(self) -> None:
        """Each document's newest change is searchable, and nothing is left on its way."""
        for document_id in {event.document_id for event in self.upstream.events}:
            progress = await self.pipeline.ingest.registry.progress(self.upstream.tenant, document_id)
            newest = self.upstream.newest(document_id)
            assert progress is not None and progress.searchable
            assert progress.document.revision == (newest.revision if newest else -1)

    async def _shown_at(self, sequence: int) -> Counter[tuple[str, str]]:
        points = await self.pipeline.index.points(sequence)
        own = (point.payload for point in points if point.payload.tenant == self.upstream.tenant)
        return Counter((payload.chunk_id, payload.metadata_hash) for payload in own)

    async def _recorded(self) -> Fingerprint:
        generations = (await self.pipeline.index.ledger.state()).generations
        return Fingerprint.parse(generations["g1"].fingerprint)


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # shrinking a failure takes minutes: add Phase.shrink by hand
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(steps=steps)
async def test_the_index_ends_as_the_model_says_whatever_happens_in_whatever_order(
    documents: Documents, steps: list[Step]
) -> None:
    run = Run(documents)
    await run.begin()
    for step in steps:
        await run.do(step)
    await run.settle()
    await run.old_versions_are_unchanged()
    await run.every_change_is_accounted_for()


async def test_a_rename_and_a_change_of_metadata_or_access_embed_nothing(documents: Documents) -> None:
    run = Run(documents)
    await run.begin()
    written = Publish("upsert", "a", "wiki", 1, "ABC", None, None, "en", bulk=False)
    await run.do(written)
    await run.settle()
    embedded = documents.cache.embedded

    for step in (
        Rename("a", "b", 2, bulk=False),
        replace(written, document_id="b", revision=3, language="de"),
        replace(written, document_id="b", op="access", revision=4, acl=("staff",)),
        replace(written, document_id="b", op="delete", revision=5),
        replace(written, document_id="b", revision=6),
    ):
        await run.do(step)
        await run.settle()

    assert documents.cache.embedded == embedded
    assert embedded - run.embedded == 3
    await run.old_versions_are_unchanged()
