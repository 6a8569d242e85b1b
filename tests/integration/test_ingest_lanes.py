"""Lanes, windows and turns: bulk loads never delay live changes, tenants share, and nothing piles up on the bus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragline.contracts.events import BulkChunksReady, BulkDocumentChanged, ChunksReady
from ragline.database import Database
from ragline.ingest.v1 import ingest_pb2 as pb
from tests.integration.ingest_under_test import MIGRATIONS, TENANT, Ingest, change, running_ingest

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "ingest")
    await database.open(MIGRATIONS)
    yield database
    await database.aclose()


async def load(ingest: Ingest, count: int, *, tenant: str = TENANT, bulk: bool = True) -> None:
    """Accept so many new documents."""
    for number in range(count):
        event = change("upsert", 1, f"Text {number} of {tenant}.", tenant=tenant, document_id=f"{tenant}-{number}")
        await ingest.changes.accept_change(BulkDocumentChanged(**event.model_dump()) if bulk else event)


async def sent(ingest: Ingest) -> list[tuple[str, str]]:
    """(kind, document id) of the announcements that leave at the next relay."""
    await ingest.outbox.relay_once()
    kinds = {BulkChunksReady.topic: "bulk", ChunksReady.topic: "live"}
    taken = [
        (kinds[message.topic], ChunksReady.model_validate_json(message.body).document_id)
        for message in ingest.published
        if message.topic in kinds
    ]
    ingest.published.clear()
    return taken


async def test_a_live_change_leaves_before_a_bulk_load_that_came_first(database: Database, short_dir: Path) -> None:
    async with running_ingest(database, short_dir) as ingest:
        await load(ingest, 5)
        await ingest.changes.accept_change(change("upsert", 1))
        assert await sent(ingest) == [("live", "manual"), *(("bulk", f"{TENANT}-{n}") for n in range(5))]


async def test_tenants_take_turns_within_a_lane(database: Database, short_dir: Path) -> None:
    async with running_ingest(database, short_dir) as ingest:
        await load(ingest, 6, tenant="flood")
        await load(ingest, 2, tenant="small")
        order = [name for _, name in await sent(ingest)]
        assert order[:4] in (
            ["flood-0", "small-0", "flood-1", "small-1"],
            ["small-0", "flood-0", "small-1", "flood-1"],
        )


async def test_no_more_than_a_window_is_on_its_way_and_what_becomes_searchable_makes_room(
    database: Database, short_dir: Path
) -> None:
    async with running_ingest(database, short_dir, window=3) as ingest:
        await load(ingest, 8)
        assert [name for _, name in await sent(ingest)] == [f"{TENANT}-{n}" for n in range(3)]
        assert await sent(ingest) == [], "the window is full"
        await load(ingest, 1, tenant="live", bulk=False)
        assert await sent(ingest) == [("live", "live-0")], "the other lane has a window of its own"
        await ingest.committed(1, document_id=f"{TENANT}-0")
        await ingest.committed(1, document_id=f"{TENANT}-1")
        assert [name for _, name in await sent(ingest)] == [f"{TENANT}-3", f"{TENANT}-4"]


async def test_what_waits_its_turn_is_not_announced_twice(database: Database, short_dir: Path) -> None:
    async with running_ingest(database, short_dir, window=1) as ingest:
        await load(ingest, 3)
        await sent(ingest)
        await ingest.committed(1, document_id=f"{TENANT}-0")
        await database.fetch(
            "UPDATE document SET sent_at = clock_timestamp() - interval '1 hour' WHERE sent_at IS NOT NULL"
        )
        assert await ingest.searchability.reconcile() == 0


async def test_what_waits_long_for_a_stopped_embedder_keeps_its_room_until_it_was_announced_in_vain(
    database: Database, short_dir: Path
) -> None:
    """Otherwise the bus would fill up, a window at a time, for as long as embed is stopped."""
    async with running_ingest(database, short_dir, window=1) as ingest:
        await load(ingest, 2)
        assert await sent(ingest) == [("bulk", f"{TENANT}-0")]
        await database.fetch("UPDATE document SET sent_at = sent_at - interval '1 day' WHERE sent_at IS NOT NULL")
        assert await sent(ingest) == []
        await database.fetch("UPDATE document SET announcements = 9 WHERE sent_at IS NOT NULL")
        assert await sent(ingest) == [("bulk", f"{TENANT}-1")], "it must not hold up the others forever"


async def test_a_bulk_load_over_grpc_reports_what_it_refuses_and_goes_on(database: Database, short_dir: Path) -> None:
    async def requests() -> AsyncIterator[pb.PublishDocumentRequest]:
        for name, content in (("a", "First."), ("b", ""), ("c", "Third."), ("a", "First.")):
            yield pb.PublishDocumentRequest(
                document_id=name, operation=pb.OPERATION_UPSERT, revision=1, content=content, content_type="text/plain"
            )

    async with running_ingest(database, short_dir) as ingest:
        caller = ingest.caller("publish")
        answer = await caller(ingest.stub.PublishDocuments, requests(), name="PublishDocuments")
        assert (answer.accepted, answer.unchanged) == (2, 1)
        assert [rejected.document_id for rejected in answer.rejected] == ["b"]
        assert [kind for kind, _ in await sent(ingest)] == ["bulk", "bulk"]


async def test_bytes_that_came_with_the_call_are_read_and_kept(database: Database, short_dir: Path) -> None:
    request = pb.PublishDocumentRequest(
        document_id="latin.txt", operation=pb.OPERATION_UPSERT, revision=1, uri="latin.txt",
        content_bytes="Grüße aus Köln, schöne Straße über der Brücke.".encode("latin-1"),
    )  # fmt: skip
    async with running_ingest(database, short_dir) as ingest:
        await ingest.caller("publish")(ingest.stub.PublishDocument, request, name="PublishDocument")
        (event,) = await ingest.chunks_ready()
        assert "Grüße aus Köln" in (event.manifest[0].text or "")
        version = await ingest.registry.original(TENANT, "latin.txt", 1)
        assert version is not None and version.kept is not None
        assert await ingest.blobs.get(version.kept.original_key) == request.content_bytes


async def test_documents_are_listed_a_page_at_a_time_by_prefix_and_source(database: Database, short_dir: Path) -> None:
    async with running_ingest(database, short_dir) as ingest:
        await load(ingest, 3)
        await ingest.changes.accept_change(change("upsert", 1, document_id="other", source="crawler"))
        await ingest.changes.accept_change(change("upsert", 1, document_id="secret", acl=("board",)))

        async def ids(*scopes: str, **fields: object) -> list[str]:
            caller, found, token = ingest.caller(*scopes), [], ""
            while True:
                request = pb.ListDocumentsRequest(page_size=2, page_token=token, **fields)  # type: ignore[arg-type]
                page = await caller(ingest.stub.ListDocuments, request, name="ListDocuments")
                found += [document.document_id for document in page.documents]
                token = page.next_page_token
                if not token:
                    return found

        mine = [f"{TENANT}-{n}" for n in range(3)]
        assert await ids("publish") == [*mine, "other", "secret"]
        assert await ids("publish", prefix=TENANT) == mine
        assert await ids("publish", source="crawler") == ["other"]
        assert await ids("search") == [*mine, "other"], "a searcher does not learn of what they may not read"


async def test_a_preview_names_what_opens_closes_and_who_loses_evidence_and_changes_nothing(
    database: Database, short_dir: Path
) -> None:
    async with running_ingest(database, short_dir) as ingest:
        await ingest.changes.accept_change(change("upsert", 1, "# Manual\n\n## One\n\nAlpha.\n\n## Two\n\nBeta."))
        (event,) = await ingest.chunks_ready()
        ingest.index.visible = [entry.content_hash for entry in event.manifest]
        beta = next(entry for entry in event.manifest if "Beta" in (entry.text or ""))
        ingest.gateway.cited = {beta.content_hash}
        request = pb.PublishDocumentRequest(
            document_id="manual", operation=pb.OPERATION_UPSERT, revision=2, source="wiki",
            content_type="text/markdown", content="# Manual\n\n## One\n\nAlpha.\n\n## Two\n\nGamma.",
        )  # fmt: skip
        caller = ingest.caller("publish")
        found = await caller(ingest.stub.PreviewDocument, request, name="PreviewDocument")
        assert [chunk.text for chunk in found.opened] == ["Gamma."]
        assert [chunk.text for chunk in found.closed] == ["Beta."]
        assert (found.kept, found.to_embed, found.index_version) == (1, 1, "g1@7")
        assert found.embed_tokens > 0
        assert [answer.answer_id for answer in found.affected_answers] == ["a1"]
        assert await ingest.events() == []

        request.revision, request.content = 0, "# Manual\n\n## One\n\nAlpha.\n\n## Two\n\nBeta."
        unchanged = await caller(ingest.stub.PreviewDocument, request, name="PreviewDocument")
        assert unchanged.ignored
        assert "unchanged" in unchanged.reason
