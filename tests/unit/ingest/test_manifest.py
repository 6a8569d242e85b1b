"""What a worker makes of a document: its chunks named, its language and links told."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from ragline.contracts.events import DocumentChanged
from ragline.errors import PermanentError
from ragline.index.identity import chunk_id, content_hash, embedder_input
from services.ingest.manifest import CutJob, cut_document
from tests.document_cutting import in_process_cutter

JOB = CutJob("acme", "manual", "text/markdown", "docs/manual.md", None, "wordllama", 200, is_text=True)
ENGLISH = "The committee met on Tuesday and agreed that nothing of what had been said was to be written down. " * 3
GERMAN = "Der Ausschuss trat am Dienstag zusammen und beschloss, dass nichts davon aufgeschrieben werden solle. " * 3


def made(content: str | bytes, **fields: Any) -> dict[str, Any]:
    data = content.encode() if isinstance(content, str) else content
    return cut_document(asdict(replace(JOB, **fields)), data)


def change(**fields: Any) -> DocumentChanged:
    body = {"tenant": "acme", "document_id": "manual", "source": "wiki", "op": "upsert", "revision": 1, "content": ""}
    return DocumentChanged.model_validate({**body, **fields})


def test_every_chunk_is_named_by_what_the_embedder_reads_of_it() -> None:
    result = made("# Manual\n\n## Use\n\nSame.\n\n## Not\n\nx\n\n## Use\n\nSame.\n")
    first, _, second = result["manifest"]
    hashed = content_hash(embedder_input(("Manual", "Use"), "Same."))
    assert first["content_hash"] == second["content_hash"] == hashed
    assert [first["chunk_id"], second["chunk_id"]] == [chunk_id("acme", "manual", hashed, n) for n in (0, 1)]
    assert [(entry["ordinal"], entry["line"]) for entry in result["manifest"]] == [(0, 5), (1, 9), (2, 13)]


def test_the_language_is_what_the_document_declares_or_else_what_its_prose_looks_like() -> None:
    assert made(ENGLISH)["language"] == "en"
    assert made(GERMAN)["language"] == "de"
    assert made(f"---\nlang: fr\n---\n{ENGLISH}")["language"] == "fr"


@pytest.mark.parametrize("content", ["Too short.", "```\n" + ENGLISH + "\n```", "1 2 3 4 5 " * 50])
def test_too_little_prose_has_no_language(content: str) -> None:
    assert made(content)["language"] is None


def test_links_are_told() -> None:
    assert made("[a](https://x.example)")["links"] == ("https://x.example",)


def test_text_stays_text_whatever_it_begins_with() -> None:
    assert made("%PDF- is how a PDF begins", content_type="text/plain")["manifest"][0]["text"].startswith("%PDF-")


async def test_a_cutter_gives_the_event_its_chunks() -> None:
    cutter = in_process_cutter()
    cut = await cutter.cut(change(content_type="text/markdown", uri="a.md"), "# T\n\n[x](https://y.example)")
    assert (cut.title, cut.links, [entry.text for entry in cut.manifest]) == ("T", ("https://y.example",), ["x"])
    assert await cutter.cut(change(content_type="text/markdown", uri="a.md"), b"# T\n\n[x](https://y.example)") == cut


async def test_what_is_too_large_to_look_at_is_refused_with_the_setting_to_change() -> None:
    with pytest.raises(PermanentError, match=r"^docs/x: .*RAGLINE_INGEST__MAX_DOCUMENT_MB") as refused:
        await in_process_cutter().cut(change(uri="docs/x"), bytes(100_000_001))
    assert refused.value.reason == "PARSE_TOO_LARGE"


async def test_a_refusal_names_the_document_once() -> None:
    with pytest.raises(PermanentError) as refused:
        await in_process_cutter().cut(change(uri="docs/x"), b"")
    assert str(refused.value).count("docs/x") == 1


def test_other_ways_to_cut_are_other_pipelines() -> None:
    cutters = [in_process_cutter(), in_process_cutter(chunk_tokens=50), in_process_cutter(embedder="minilm")]
    assert len({cutter.pipeline for cutter in cutters}) == 3
