"""ingest accepts changes durably, announces only what is new, and follows what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ragline.contracts.events import ChunksReady, DocumentStatus
from ragline.database import Database
from ragline.errors import PermanentError, PermissionDenied, TransientError
from ragline.ingest.v1 import ingest_pb2 as pb
from services.embed.versions import Unchanged, plan_change
from services.ingest import registry as registry_module
from tests.document_versions import after
from tests.integration.embed_under_test import eventually, running
from tests.integration.ingest_under_test import MIGRATIONS, TENANT, Ingest, change, running_ingest

pytestmark = pytest.mark.stack

LONG = "\n\n".join(f"## Section {n}\n\nParagraph number {n} is about topic {n * 7} and nothing else." for n in range(9))


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "ingest")
    await database.open(MIGRATIONS)
    yield database
    await database.aclose()


@pytest.fixture
async def ingest(database: Database, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with running_ingest(database, tmp_path) as ingest:
        yield ingest


def texts(event: ChunksReady) -> list[str]:
    return [entry.text for entry in event.manifest if entry.text is not None]


# --- accepting ------------------------------------------------------------------------------------


async def test_an_accepted_change_is_announced_with_its_chunks(ingest: Ingest) -> None:
    outcome = await ingest.changes.accept_change(change("upsert", 7, LONG, title="Manual", acl=["b", "a"]))

    (event,) = await ingest.chunks_ready()
    assert (outcome.document_version, outcome.changed) == (1, True)
    assert (event.document_version, event.revision, event.acl, event.title) == (1, 7, ("a", "b"), "Manual")
    assert len(event.manifest) == 9
    assert len(texts(event)) == 9
    assert event.manifest[3].heading_path == ("Manual", "Section 3")


async def test_a_redelivery_is_no_second_version(ingest: Ingest) -> None:
    for _ in range(2):
        outcome = await ingest.changes.accept_change(change("upsert", 1))

    assert (outcome.document_version, outcome.changed) == (1, False)
    events = await ingest.events()
    assert len([event for event in events if isinstance(event, ChunksReady)]) == 1
    assert [event.status for event in events if isinstance(event, DocumentStatus)] == ["unchanged"]


async def test_redeliveries_at_the_same_time_make_one_version(ingest: Ingest) -> None:
    outcomes = await asyncio.gather(*(ingest.changes.accept_change(change("upsert", 1)) for _ in range(5)))

    assert sum(outcome.changed for outcome in outcomes) == 1
    assert len(await ingest.chunks_ready()) == 1


async def test_only_the_texts_that_are_new_travel(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 1, LONG))
    await ingest.changes.accept_change(change("upsert", 2, LONG.replace("number 4", "no. four")))

    first, second = await ingest.chunks_ready()
    assert [entry.ordinal for entry in second.manifest] == list(range(9))
    assert texts(second) == ["Paragraph no. four is about topic 28 and nothing else."]
    assert {e.chunk_id for e in first.manifest[:4]} == {e.chunk_id for e in second.manifest[:4]}


async def test_an_access_change_names_every_chunk_and_sends_no_text(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 1, LONG))
    await ingest.changes.accept_change(change("access", 2, acl=["staff"]))

    event = (await ingest.chunks_ready())[-1]
    assert (event.op, event.acl, event.document_version, len(event.manifest), texts(event)) == (
        "access", ("staff",), 2, 9, [],
    )  # fmt: skip


async def test_late_content_with_newer_access_keeps_the_newer_content(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 5, "# Manual\n\nNewer."))
    late = change("upsert", 4, "# Manual\n\nOlder.", acl=["staff"], acl_revision=9)
    await ingest.changes.accept_change(late)

    event = (await ingest.chunks_ready())[-1]
    assert (event.op, event.acl, event.revision) == ("access", ("staff",), 5)
    chunks = await _chunks(ingest, [entry.content_hash for entry in event.manifest])
    assert [chunk.text for chunk in chunks] == ["Newer."]


async def test_a_deletion_and_what_comes_back_are_versions(ingest: Ingest) -> None:
    for event in (change("upsert", 1, LONG), change("delete", 2), change("upsert", 3, LONG)):
        await ingest.changes.accept_change(event)

    announced = await ingest.chunks_ready()
    assert [(event.op, event.document_version, len(texts(event))) for event in announced] == [
        ("upsert", 1, 9), ("delete", 2, 0), ("upsert", 3, 9),
    ]  # fmt: skip


async def test_a_large_document_travels_in_parts_that_fit_whatever_is_left_out(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a repeated announcement fill the gaps of the first, although they carry other texts."""
    monkeypatch.setattr(registry_module, "PART_BYTES", 1000)
    await ingest.changes.accept_change(change("upsert", 1, LONG))
    await ingest.changes.accept_change(change("upsert", 2, LONG.replace("number 4", "no. four")))
    first = [event for event in await ingest.chunks_ready() if event.document_version == 2]
    await ingest.registry.announce_again(TENANT, "manual", pipeline="p")
    again = await ingest.chunks_ready()

    assert len(first) > 1
    assert [event.part for event in first] == list(range(1, len(first) + 1))
    assert {event.parts for event in [*first, *again]} == {len(first)}
    assert [[e.ordinal for e in event.manifest] for event in first] == [
        [e.ordinal for e in event.manifest] for event in again
    ]
    assert sum(len(texts(event)) for event in first) == 1
    assert sum(len(texts(event)) for event in again) == 9


@pytest.mark.parametrize("value", [1e16, 1e22, 0.1, 1.0, -0.0, 2**53 + 1, True, "é"])
async def test_a_repeated_announcement_says_the_same_as_the_first(ingest: Ingest, value: object) -> None:
    """PostgreSQL spells some numbers anew: embed must not take that for a contradiction."""
    await ingest.changes.accept_change(change("upsert", 1, metadata={"value": value}))
    (first,) = await ingest.chunks_ready()
    await ingest.registry.announce_again(TENANT, "manual", pipeline="p")
    (again,) = await ingest.chunks_ready()

    assert plan_change(after(first), again) == Unchanged("already committed")


# --- refusing -------------------------------------------------------------------------------------


async def test_a_rejection_is_recorded_reported_and_told_to_who_waits(ingest: Ingest) -> None:
    caller = ingest.caller("publish")
    waiting = asyncio.create_task(ingest.wait(caller, 3))
    with pytest.raises(PermanentError, match="content_ref"):
        await ingest.changes.accept_change(change("upsert", 3, content_ref="s3://x"))

    document = await waiting
    assert document.state == pb.DOCUMENT_STATE_REJECTED
    assert "content_ref" in document.reason
    assert await ingest.statuses() == [("rejected", 3)]


async def test_a_rejection_does_not_disturb_what_was_accepted(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 5))
    await ingest.committed(1)
    caller = ingest.caller("publish")

    await ingest.registry.reject(TENANT, "manual", 4, "unreadable")
    assert (await ingest.get(caller)).state == pb.DOCUMENT_STATE_INDEXED
    await ingest.registry.reject(TENANT, "manual", 9, "unreadable")
    await ingest.registry.reject(TENANT, "manual", 8, "late and unreadable")

    document = await ingest.wait(caller, 9)
    assert (document.state, document.reason) == (pb.DOCUMENT_STATE_REJECTED, "unreadable")
    assert (await ingest.wait(caller, 5)).index_version == "g1@1"


async def test_a_newer_revision_ends_the_rejection_and_an_older_one_does_not(ingest: Ingest) -> None:
    caller = ingest.caller("publish")
    await ingest.registry.reject(TENANT, "manual", 5, "unreadable")

    await ingest.changes.accept_change(change("upsert", 4))
    assert (await ingest.get(caller)).state == pb.DOCUMENT_STATE_REJECTED
    await ingest.changes.accept_change(change("upsert", 6))
    assert (await ingest.get(caller)).state == pb.DOCUMENT_STATE_PENDING


async def test_a_source_leaves_no_trace_in_a_tenant_that_it_may_not_write(database: Database, tmp_path: Path) -> None:
    async with running_ingest(database, tmp_path, wiki=["other"], crm=[TENANT]) as ingest:
        with pytest.raises(PermissionDenied, match="wiki") as refused:
            await ingest.changes.accept_change(change("upsert", 2**62))
        assert refused.value.reason == "SOURCE_NOT_ALLOWED"

        assert await ingest.registry.progress(TENANT, "manual") is None
        assert await ingest.events() == []
        await ingest.changes.accept_change(change("upsert", 1, source="crm"))
        with pytest.raises(PermissionDenied):
            await ingest.changes.accept_change(change("upsert", 2, source="unknown"))


@pytest.mark.parametrize("fields", [{"uri": "a\x00b"}, {"metadata": {"a": "\x00"}}, {"metadata": {"\x00": 1}}])
async def test_what_the_database_cannot_hold_is_rejected_not_retried(ingest: Ingest, fields: dict[str, Any]) -> None:
    with pytest.raises(PermanentError) as refused:
        await ingest.changes.accept_change(change("upsert", 3, **fields))

    assert refused.value.reason == "INVALID_VALUE"
    assert (await ingest.get(ingest.caller("publish"))).state == pb.DOCUMENT_STATE_REJECTED


# --- what became of it ----------------------------------------------------------------------------


async def test_waiting_ends_when_the_version_is_searchable(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 5))
    waiting = asyncio.create_task(ingest.wait(ingest.caller("publish"), 5))
    await asyncio.sleep(0.05)
    assert not waiting.done()

    await ingest.committed(1, sequence=42)

    document = await waiting
    assert (document.state, document.index_version) == (pb.DOCUMENT_STATE_INDEXED, "g1@42")
    assert await ingest.statuses() == [("indexed", 5)]


async def test_waiting_for_a_superseded_revision_ends_with_the_newer_one(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 5))
    await ingest.committed(1)

    assert (await ingest.wait(ingest.caller("publish"), 3)).revision == 5


async def test_waiting_for_what_never_comes_ends_at_the_deadline(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 5))
    await ingest.committed(1)

    with pytest.raises(TransientError) as late:
        await ingest.wait(ingest.caller("publish"), 6, deadline_s=0.3)
    assert late.value.reason == "DEADLINE_EXCEEDED"


async def test_an_older_commit_makes_nothing_newer_searchable(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 1))
    await ingest.changes.accept_change(change("upsert", 2, "# Manual\n\nTwo."))
    await ingest.committed(2, sequence=8)
    await ingest.committed(1, sequence=7)

    document = await ingest.get(ingest.caller("publish"))
    assert (document.state, document.index_version) == (pb.DOCUMENT_STATE_INDEXED, "g1@8")


async def test_the_texts_of_chunks_are_served_to_services_alone(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 1, LONG))
    (event,) = await ingest.chunks_ready()
    wanted = [event.manifest[2].content_hash, "unknown"]

    chunks = await _chunks(ingest, wanted)

    assert [(chunk.content_hash, chunk.text) for chunk in chunks] == [(wanted[0], event.manifest[2].text)]
    assert tuple(chunks[0].heading_path) == event.manifest[2].heading_path
    with pytest.raises(PermissionDenied):
        await _chunks(ingest, wanted, scope="publish")


async def _chunks(ingest: Ingest, hashes: list[str], *, scope: str = "internal") -> list[pb.ChunkText]:
    request = pb.GetChunksRequest(tenant=TENANT, document_id="manual", document_version=1, content_hashes=hashes)
    response = await ingest.caller(scope, tenant="ragline")(ingest.stub.GetChunks, request, name="GetChunks")
    return list(response.chunks)


# --- making up for what got lost ------------------------------------------------------------------


async def test_what_is_not_searchable_in_time_is_announced_again_whole(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 1, LONG))
    await ingest.changes.accept_change(change("upsert", 2, LONG.replace("number 4", "no. four")))
    await ingest.events()

    async with running(ingest.searchability.run_reconciler()):
        await eventually(lambda: _announced_again(ingest))


async def _announced_again(ingest: Ingest) -> bool:
    again = await ingest.chunks_ready()
    return bool(again) and (again[0].document_version, len(texts(again[0]))) == (2, 9)


async def test_a_commit_that_was_not_heard_of_is_found_in_the_index(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 1))
    await ingest.events()
    ingest.index.holds["manual"] = (1, "g1@3")
    await asyncio.sleep(0.06)

    assert await ingest.searchability.reconcile() == 0

    assert (await ingest.get(ingest.caller("publish"))).index_version == "g1@3"
    assert await ingest.statuses() == [("indexed", 1)]


async def test_what_is_searchable_is_not_announced_again(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 1))
    await ingest.committed(1)
    await ingest.events()

    await ingest.registry.announce_again(TENANT, "manual", pipeline="p")

    assert await ingest.chunks_ready() == []
