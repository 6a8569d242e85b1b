"""A source that lists all that it holds: what it forgot to delete is retired, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ragline.contracts.cloudevents import Received
from ragline.contracts.events import BulkChunksReady, SnapshotCompleted
from ragline.database import Database
from ragline.errors import PermanentError, PermissionDenied
from services.ingest import snapshots as snapshots_module
from services.ingest.claim_check import ClaimCheck
from services.ingest.settings import IngestSettings
from services.ingest.snapshots import Snapshots, document_ids
from tests.integration.ingest_under_test import MIGRATIONS, TENANT, Ingest, change, running_ingest

pytestmark = pytest.mark.stack


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


async def publish(ingest: Ingest, *names: str, revision: int = 1, **fields: Any) -> None:
    for name in names:
        await ingest.changes.accept_change(change("upsert", revision, document_id=name, **fields))
    await ingest.events()


async def complete(ingest: Ingest, shared: Path | None = None, /, **fields: Any) -> int:
    """The snapshot of `wiki` at revision 10 arrives; how many documents it retires."""
    event = SnapshotCompleted.model_validate({"tenant": TENANT, "source": "wiki", "revision": 10, **fields})
    claim_check = ClaimCheck(IngestSettings.load(content_roots=[shared] if shared else []))
    snapshots = Snapshots(database=ingest.database, changes=ingest.changes, claim_check=claim_check)
    return await snapshots.on_snapshot_completed(Received(event, "id", "wiki"))


async def living(ingest: Ingest, tenant: str = TENANT) -> list[str]:
    page = await ingest.registry.page(tenant, prefix="", source="", after="", limit=1000)
    return [progress.document.document_id for progress in page if not progress.document.deleted]


async def test_what_the_source_no_longer_lists_is_deleted_in_the_bulk_lane(ingest: Ingest) -> None:
    await publish(ingest, "a", "b", "c")

    assert await complete(ingest, document_ids=["a", "c"]) == 1

    (event,) = await ingest.chunks_ready()
    assert isinstance(event, BulkChunksReady)
    assert (event.document_id, event.op, event.revision) == ("b", "delete", 10)
    assert await living(ingest) == ["a", "c"]


async def test_other_sources_tenants_and_prefixes_are_left_alone(ingest: Ingest) -> None:
    await publish(ingest, "docs/ours", "elsewhere")
    await publish(ingest, "docs/theirs", source="crm")
    await publish(ingest, "docs/foreign", tenant="other")
    await publish(ingest, "docs/taken-over")
    await publish(ingest, "docs/taken-over", revision=2, content="By another system.", source="crm")

    assert await complete(ingest, document_ids=[], prefix="docs/") == 1

    assert await living(ingest) == ["docs/taken-over", "docs/theirs", "elsewhere"]
    assert await living(ingest, "other") == ["docs/foreign"]


async def test_what_was_written_since_the_snapshot_is_kept(ingest: Ingest) -> None:
    await publish(ingest, "same-moment", revision=10)
    await publish(ingest, "later", revision=11)

    assert await complete(ingest, document_ids=[]) == 0

    assert await living(ingest) == ["later", "same-moment"]


async def test_what_another_source_writes_while_the_snapshot_is_handled_is_kept(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(ingest, "a")
    retire = ingest.changes.retire

    async def overtaken(event: Any) -> Any:
        await publish(ingest, "a", revision=2, content="By another system.", source="crm")
        return await retire(event)

    monkeypatch.setattr(ingest.changes, "retire", overtaken)
    assert await complete(ingest, document_ids=[]) == 0

    assert await living(ingest) == ["a"]


async def test_repeating_a_snapshot_is_harmless(ingest: Ingest) -> None:
    await publish(ingest, "a", "b")
    assert await complete(ingest, document_ids=["a"]) == 1
    await ingest.events()

    assert await complete(ingest, document_ids=["a"]) == 0

    assert await ingest.events() == []
    await publish(ingest, "b", revision=12)
    assert await complete(ingest, document_ids=["a"]) == 0
    assert await living(ingest) == ["a", "b"]


async def test_more_documents_than_a_page_are_all_compared(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots_module, "_PAGE", 2)
    await publish(ingest, *"abcdefg")

    assert await complete(ingest, document_ids=["b", "e"]) == 5

    assert await living(ingest) == ["b", "e"]


async def test_a_list_comes_by_reference_too(ingest: Ingest, tmp_path: Path) -> None:
    await publish(ingest, "a", "b", "ü c", '"quoted"')
    listed = tmp_path / "snapshot.txt"
    listed.write_text('a\r\nü c\n\n"\\"quoted\\""\n', "utf-8")

    assert await complete(ingest, tmp_path, content_ref=listed.as_uri()) == 1

    assert await living(ingest) == ['"quoted"', "a", "ü c"]


async def test_a_list_that_cannot_be_read_whole_retires_nothing(ingest: Ingest, tmp_path: Path) -> None:
    await publish(ingest, "a", "b")
    listed = tmp_path / "snapshot.txt"
    for content in (b"", b"\n\n", b"a\n\xff\n", b'a\n{"id": "b"}\n', b"a\n{broken\n", b"a\nb\x01\n", b"[1]\n\n\x00"):
        listed.write_bytes(content)
        with pytest.raises(PermanentError) as refused:
            await complete(ingest, tmp_path, content_ref=listed.as_uri())
        assert refused.value.reason == "INVALID_SNAPSHOT", content

    with pytest.raises(PermanentError):
        await complete(ingest, tmp_path, content_ref="file:///etc/passwd")
    assert await living(ingest) == ["a", "b"]


def test_a_list_may_be_json_lines() -> None:
    assert list(document_ids(b'{"document_id": "a", "etag": 1}\n"b"\nc\n')) == ["a", "b", "c"]


async def test_a_source_cannot_retire_where_it_may_not_write(database: Database, tmp_path: Path) -> None:
    async with running_ingest(database, tmp_path, crm=["acme"]) as ingest:
        await publish(ingest, "a", source="crm")
        with pytest.raises(PermissionDenied) as refused:
            await complete(ingest, document_ids=[])
    assert refused.value.reason == "SOURCE_NOT_ALLOWED"


@pytest.mark.parametrize(
    "fields",
    [{}, {"document_ids": ["a"], "content_ref": "s3://b/c"}, {"document_ids": [str(n) for n in range(10_001)]}],
)
def test_a_snapshot_lists_inline_or_by_reference_and_not_too_much(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="document_ids"):
        SnapshotCompleted.model_validate({"tenant": TENANT, "source": "wiki", "revision": 10, **fields})
