"""ingest accepts changes durably, announces only what is new, and follows what became of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ragline.contracts.events import ChunksReady
from ragline.database import Database
from ragline.errors import InvalidArgument, NotFound, PermissionDenied, TransientError
from ragline.ingest.v1 import ingest_pb2 as pb
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


# --- over gRPC ------------------------------------------------------------------------------------


async def publish(ingest: Ingest, scope: str = "publish", **fields: Any) -> pb.PublishDocumentResponse:
    request = pb.PublishDocumentRequest(document_id="manual", operation=pb.OPERATION_UPSERT, content="text")
    for name, value in fields.items():
        if name == "metadata":
            request.metadata.update(value)
        else:
            setattr(request, name, value)
    response: pb.PublishDocumentResponse = await ingest.caller(scope)(
        ingest.stub.PublishDocument, request, name="PublishDocument"
    )
    return response


async def test_the_tenant_of_a_document_is_that_of_the_key(ingest: Ingest) -> None:
    assert (await publish(ingest)).document_version == 1

    (event,) = await ingest.chunks_ready()
    assert event.tenant == TENANT
    with pytest.raises(PermissionDenied):
        await publish(ingest, "search")


async def test_numbers_in_metadata_arrive_as_they_were_meant(ingest: Ingest) -> None:
    await publish(ingest, metadata={"year": 2024, "share": 0.5, "draft": True})

    (event,) = await ingest.chunks_ready()
    assert {name: (type(value), value) for name, value in event.metadata.items()} == {
        "year": (int, 2024), "share": (float, 0.5), "draft": (bool, True),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"document_id": ""}, "document_id"),
        ({"document_id": "a\nb"}, "document_id"),
        ({"operation": 0}, "operation"),
        ({"revision": -1}, "revision"),
        ({"content": "x" * 600_000}, "content"),
        ({"metadata": {"n": float("nan")}}, "metadata"),
        ({"metadata": {"n": [1]}}, "metadata"),
    ],
)
async def test_a_bad_request_names_its_field(ingest: Ingest, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await publish(ingest, **fields)

    assert refused.value.field.split(".")[0] == field


async def test_a_searcher_learns_nothing_of_what_they_may_not_read(ingest: Ingest) -> None:
    await ingest.changes.accept_change(change("upsert", 1, title="Secret plan", acl=["board"]))
    await ingest.committed(1)

    assert (await ingest.get(ingest.caller("search", groups=["board"]))).title == "Secret plan"
    assert (await ingest.get(ingest.caller("publish"))).title == "Secret plan"
    for stranger in (ingest.caller("search", groups=["staff"]), ingest.caller("publish", tenant="other")):
        with pytest.raises(NotFound):
            await ingest.get(stranger)
        with pytest.raises(TransientError):
            await ingest.wait(stranger, 1, deadline_s=0.2)


# --- reconciling on demand ------------------------------------------------------------------------


async def reconcile(ingest: Ingest, *scopes: str) -> tuple[int, int]:
    response = await ingest.caller(*scopes)(ingest.stub.Reconcile, pb.ReconcileRequest(), name="Reconcile")
    return response.found_searchable, response.announced_again


async def test_an_operator_reconciles_without_waiting(ingest: Ingest) -> None:
    for name in ("heard", "unheard", "outdated", "lost"):
        await ingest.changes.accept_change(change("upsert", 1, document_id=name))
    await ingest.changes.accept_change(change("upsert", 2, "Newer.", document_id="outdated"))
    await ingest.events()
    await ingest.committed(1, document_id="heard")
    ingest.index.holds |= {"unheard": (1, "g1@3"), "outdated": (1, "g1@3")}
    for name in ("lost", "outdated"):  # however often it was announced before
        await ingest.registry.announce_again(TENANT, name, pipeline="p")
    await ingest.events()

    assert await reconcile(ingest, "admin") == (1, 2)

    assert sorted(event.document_id for event in await ingest.chunks_ready()) == ["lost", "outdated"]
    assert (await ingest.get(ingest.caller("publish"), "unheard")).index_version == "g1@3"


async def test_reconciling_goes_through_more_documents_than_a_page_and_then_ends(ingest: Ingest) -> None:
    for number in range(120):
        await ingest.changes.accept_change(change("upsert", 1, "Text.", document_id=f"{number}"))
    await ingest.events()

    assert await reconcile(ingest, "admin") == (0, 120)
    assert await reconcile(ingest, "admin") == (0, 0)


async def test_only_an_operator_may_reconcile(ingest: Ingest) -> None:
    with pytest.raises(PermissionDenied):
        await reconcile(ingest, "publish", "search")
