"""Content by reference becomes a version like any other, and every version's original can be shown again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ragline.contracts.events import DocumentChanged
from ragline.database import Database
from ragline.errors import PermanentError, TransientError
from services.ingest.blobs import Blobs
from services.ingest.claim_check import ClaimCheck
from services.ingest.fetching.fetched import Fetched
from services.ingest.originals import DocumentVersion, Kept, Originals
from services.ingest.parsing import parse
from services.ingest.settings import IngestSettings
from tests.integration.ingest_under_test import MIGRATIONS, TENANT, Ingest, change, running_ingest

pytestmark = pytest.mark.stack

MANUAL = "# Manual\n\nOne paragraph.\n\n## Care\n\nNever bend the cable: ½ turn is enough.\n"


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


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The folder that ingest may read."""
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def by_reference(revision: int, path: Path, **fields: Any) -> DocumentChanged:
    return change("upsert", revision, content_ref=path.as_uri(), **{"content_type": "text/markdown", **fields})


async def version(ingest: Ingest, number: int) -> DocumentVersion:
    found = await ingest.registry.original(TENANT, "manual", number)
    assert found is not None
    return found


async def kept(ingest: Ingest, number: int) -> Kept:
    found = (await version(ingest, number)).kept
    assert found is not None
    return found


# --- by reference ---------------------------------------------------------------------------------


async def test_a_file_by_reference_becomes_searchable_and_its_original_is_kept(ingest: Ingest, shared: Path) -> None:
    (shared / "manual.md").write_text(MANUAL)
    await ingest.changes.accept_change(by_reference(7, shared / "manual.md", title="Manual", metadata={"n": 1}))

    (announced,) = await ingest.chunks_ready()
    assert [entry.text for entry in announced.manifest] == ["One paragraph.", "Never bend the cable: ½ turn is enough."]
    await ingest.committed(1)
    assert ("indexed", 7) in await ingest.statuses()

    stored = await version(ingest, 1)
    assert (stored.revision, stored.source, stored.op, stored.title) == (7, "wiki", "upsert", "Manual")
    assert stored.metadata == {"n": 1}
    assert stored.kept is not None
    assert (stored.kept.content_type, stored.kept.etag) == ("text/markdown", None)
    assert stored.kept.fetched_from == (shared / "manual.md").as_uri()
    assert await ingest.blobs.get(stored.kept.original_key) == MANUAL.encode()
    lines = [json.loads(line) for line in (await ingest.blobs.get(stored.kept.text_key)).splitlines()]
    assert [line["text"] for line in lines] == [entry.text for entry in announced.manifest]
    assert lines[1]["heading_path"] == ["Manual", "Care"]
    assert lines[1]["line"] == 7


async def test_the_same_content_by_reference_and_inline_is_unchanged(ingest: Ingest, shared: Path) -> None:
    (shared / "manual.md").write_text(MANUAL)
    outcomes = [
        await ingest.changes.accept_change(event)
        for event in (
            by_reference(1, shared / "manual.md"),
            change("upsert", 2, MANUAL),
            by_reference(3, shared / "manual.md"),
        )
    ]

    assert [(outcome.document_version, outcome.changed) for outcome in outcomes] == [(1, True), (1, False), (1, False)]
    assert await ingest.registry.original(TENANT, "manual", 2) is None


async def test_what_the_file_holds_decides_and_not_its_name(ingest: Ingest, shared: Path) -> None:
    for revision, text in ((1, MANUAL), (2, MANUAL.replace("½", "one"))):
        (shared / "manual.md").write_text(text)
        await ingest.changes.accept_change(by_reference(revision, shared / "manual.md"))

    first, second = await kept(ingest, 1), await kept(ingest, 2)
    assert await ingest.blobs.get(first.original_key) == MANUAL.encode()
    assert b"one turn" in await ingest.blobs.get(second.original_key)


async def test_a_reference_that_must_not_be_followed_rejects_the_change(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "outside.md").write_text(MANUAL)

    refs = [(tmp_path / "outside.md").as_uri(), "https://169.254.169.254/latest", "ftp://example.org/x"]
    for revision, ref in enumerate(refs):
        with pytest.raises(PermanentError) as caught:
            await ingest.changes.accept_change(change("upsert", revision, content_ref=ref))
        assert caught.value.reason == "CONTENT_REF_REFUSED"
    assert await ingest.statuses() == [("rejected", 0), ("rejected", 1), ("rejected", 2)]
    assert await ingest.registry.original(TENANT, "manual", 1) is None
    assert not list((tmp_path / "blobs").rglob("*.gz"))


async def test_late_content_by_reference_is_superseded_although_it_is_gone(ingest: Ingest, shared: Path) -> None:
    await ingest.changes.accept_change(change("upsert", 5, MANUAL))
    outcome = await ingest.changes.accept_change(by_reference(4, shared / "gone.md"))

    assert outcome.reason.startswith("superseded")
    assert ("rejected", 4) not in await ingest.statuses()


async def test_the_type_that_the_place_names_counts_unless_the_publisher_names_one(tmp_path: Path) -> None:
    class Place(ClaimCheck):
        async def fetch(self, content_ref: str) -> Fetched:
            return Fetched(b"x", "text/html", '"e1"', "https://x/manual")

    originals = Originals(Blobs(tmp_path.as_uri()), Place(IngestSettings.load()))
    unnamed = await originals.content_of(change("upsert", 1, content_ref="https://x/manual?token"))
    named = await originals.content_of(change("upsert", 1, content_ref="https://x", content_type="text/markdown"))
    assert (unnamed.content_type, unnamed.etag, unnamed.fetched_from) == ("text/html", '"e1"', "https://x/manual")
    assert named.content_type == "text/markdown"


# --- every version --------------------------------------------------------------------------------


async def test_every_version_keeps_its_own_original(ingest: Ingest) -> None:
    texts = [f"{MANUAL}\n\nEdition {number}.\n" for number in (1, 2, 3)]
    for revision, text in enumerate(texts):
        await ingest.changes.accept_change(change("upsert", revision, text))

    for number, text in enumerate(texts, start=1):
        stored = await kept(ingest, number)
        assert stored.original_key == hashlib.sha256(text.encode()).hexdigest()
        assert stored.fetched_from is None
        assert await ingest.blobs.get(stored.original_key) == text.encode()


async def test_an_original_is_enough_to_cut_its_version_again(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 1, MANUAL))

    stored = await version(ingest, 1)
    assert stored.kept is not None
    again = parse(
        (await ingest.blobs.get(stored.kept.original_key)).decode(),
        content_type=stored.kept.content_type,
        uri=stored.uri,
        title=stored.title,
    )
    lines = [json.loads(line) for line in (await ingest.blobs.get(stored.kept.text_key)).splitlines()]
    assert [block.text for block in again.blocks] == [line["text"] for line in lines]
    assert again.title == lines[0]["heading_path"][0]


async def test_a_change_of_access_has_the_content_before_it_and_a_deletion_none(ingest: Ingest) -> None:
    late = change("upsert", 2, "# Manual\n\nOlder.", acl=["b"], acl_revision=9)
    for event in (
        change("upsert", 3, MANUAL),
        change("access", 4, acl=["a"]),
        late,
        change("delete", 5),
        change("upsert", 6, MANUAL),
    ):
        await ingest.changes.accept_change(event)

    versions = [await version(ingest, number) for number in range(1, 6)]
    assert [each.op for each in versions] == ["upsert", "access", "access", "delete", "upsert"]
    assert [each.kept for each in versions] == [versions[0].kept] * 3 + [None, versions[0].kept]


async def test_a_version_names_the_trace_that_made_it(ingest: Ingest) -> None:
    with ingest.telemetry.tracer.start_as_current_span("publish") as span:
        await ingest.changes.accept_change(change("upsert", 1, MANUAL))

    traceparent = (await version(ingest, 1)).traceparent
    assert traceparent is not None
    assert f"{span.get_span_context().trace_id:032x}" in traceparent


async def test_a_full_blob_store_leaves_nothing_half_done_and_a_redelivery_succeeds(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(TransientError, match="is full"):
            await ingest.changes.accept_change(change("upsert", 1, MANUAL))
    assert await ingest.registry.progress(TENANT, "manual") is None
    assert await ingest.events() == []

    assert (await ingest.changes.accept_change(change("upsert", 1, MANUAL))).changed
    assert (await kept(ingest, 1)).fetched_from is None


async def test_a_version_keeps_its_language_and_where_it_points_to(ingest: Ingest) -> None:
    text = (
        "# Anleitung\n\nDas Gerät wird mit dem Schalter an der Rückseite eingeschaltet; mehr steht in der "
        "[Liste](https://example.org/liste). Vor dem ersten Gebrauch muss der Behälter mit frischem Wasser gefüllt "
        "werden, und danach wird er jede Woche gereinigt. Wer das Gerät länger nicht benutzt, zieht den Stecker."
    )
    await ingest.changes.accept_change(change("upsert", 1, text))

    version = await kept(ingest, 1)

    assert version.language == "de"
    assert version.links == ["https://example.org/liste"]
