"""The parts of a large document: whole once all are here, whatever the order, and however often."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from ragline.contracts.events import ChunksReady
from ragline.database import Database
from services.embed.parts import StagedParts
from tests.document_versions import upsert
from tests.integration.embed_under_test import MIGRATIONS

pytestmark = pytest.mark.stack

TEXTS = [["one", "two"], ["three"], ["four", "five"]]


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "embed")
    await database.open(MIGRATIONS)
    yield database
    await database.aclose()


@pytest.fixture
async def staged(database: Database) -> StagedParts:
    await database.fetch("DELETE FROM staged_part")
    return StagedParts(database)


def in_parts(number: int, parts: list[list[str]] = TEXTS) -> list[ChunksReady]:
    """A version of a document, divided like this."""
    whole = upsert(number, [text for part in parts for text in part])
    ends = list(itertools.accumulate(len(part) for part in parts))
    return [
        whole.model_copy(update={"manifest": whole.manifest[end - len(part) : end], "part": place, "parts": len(parts)})
        for place, (part, end) in enumerate(zip(parts, ends, strict=True), start=1)
    ]


def texts(event: ChunksReady) -> list[str | None]:
    return [entry.text for entry in event.manifest]


async def rows(database: Database) -> int:
    return len(await database.fetch("SELECT 1 FROM staged_part"))


async def test_an_event_of_one_part_is_whole_at_once(staged: StagedParts, database: Database) -> None:
    event = upsert(1, ["one"])

    assert await staged.assemble(event) is event
    assert await rows(database) == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_parts_in_any_order_make_the_whole_version(staged: StagedParts, order: tuple[int, ...]) -> None:
    parts = in_parts(1)

    assembled = [await staged.assemble(parts[place]) for place in order]

    assert assembled[:2] == [None, None]
    assert assembled[2] == upsert(1, ["one", "two", "three", "four", "five"])


async def test_a_part_that_comes_twice_counts_once(staged: StagedParts) -> None:
    parts = in_parts(1)

    assert await staged.assemble(parts[0]) is None
    assert await staged.assemble(parts[0]) is None
    assert await staged.assemble(parts[1]) is None
    assert await staged.assemble(parts[2]) is not None


async def test_parts_of_two_announcements_fit_together(staged: StagedParts) -> None:
    """A part was lost, and the version was announced again with all its texts."""
    without_texts = [
        part.model_copy(update={"manifest": tuple(e.model_copy(update={"text": None}) for e in part.manifest)})
        for part in in_parts(1)
    ]
    again = in_parts(1)

    assert await staged.assemble(without_texts[0]) is None
    assert await staged.assemble(without_texts[2]) is None
    whole = await staged.assemble(again[1])

    assert whole is not None
    assert [entry.ordinal for entry in whole.manifest] == [0, 1, 2, 3, 4]
    assert texts(whole) == [None, None, "three", None, None]


async def test_another_division_of_a_version_does_not_mix_with_the_first(staged: StagedParts) -> None:
    first, second = in_parts(1, [["one", "two"], ["three"]]), in_parts(1, [["one"], ["two"], ["three"]])

    assert await staged.assemble(first[1]) is None
    assert await staged.assemble(second[0]) is None
    assert await staged.assemble(second[1]) is None
    whole = await staged.assemble(second[2])

    assert whole is not None
    assert texts(whole) == ["one", "two", "three"]


async def test_the_versions_of_a_document_are_staged_apart(staged: StagedParts) -> None:
    older, newer = in_parts(1), in_parts(2, [["uno"], ["due"]])

    assert await staged.assemble(older[0]) is None
    assert await staged.assemble(newer[0]) is None
    whole = await staged.assemble(newer[1])

    assert whole is not None
    assert (whole.document_version, texts(whole)) == (2, ["uno", "due"])


async def test_what_is_resolved_is_forgotten_with_all_that_is_older(staged: StagedParts, database: Database) -> None:
    for part in (in_parts(1)[0], in_parts(2)[0], in_parts(3)[0]):
        await staged.assemble(part)

    await staged.forget(in_parts(2)[0])

    assert await rows(database) == 1
