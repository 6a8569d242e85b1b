"""Hostile input is read or refused quickly and in one line: nothing here needs isolation to end well."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from ragline.errors import PermanentError
from services.ingest.manifest import CutJob, cut_document
from services.ingest.parsing.document import MAX_TEXT_BYTES

pytestmark = pytest.mark.timeout(30)
"""What must not pass takes minutes."""


def outcome(content: bytes, content_type: str) -> str:
    """The text of all chunks, or the reason of the refusal."""
    job = CutJob("acme", "thing", content_type, "thing", None, "wordllama", 200, is_text=False)
    try:
        manifest: list[dict[str, Any]] = cut_document(asdict(job), content)["manifest"]
    except PermanentError as refused:
        return refused.reason
    return "\n".join(entry["text"] for entry in manifest)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "text/markdown", "text/x-rst", "text/html", "text/csv", "application/json"]
)
def test_too_much_text_is_refused_at_once(content_type: str) -> None:
    assert outcome(b"word " * (MAX_TEXT_BYTES // 5 + 1), content_type) == "PARSE_TOO_LARGE"


def test_text_that_grows_while_it_is_read_is_refused() -> None:
    wide = "a column with a very long name " * 2
    rows = "\n".join("1,2" for _ in range(90_000))
    assert outcome(f"{wide},{wide}2\n{rows}".encode(), "text/csv") == "PARSE_TOO_LARGE"


def test_more_chunks_than_any_document_needs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.ingest.manifest.MAX_CHUNKS", 10)
    sections = "\n".join(f"# Section {number}\n\ntext\n" for number in range(12))
    assert outcome(sections.encode(), "text/markdown") == "PARSE_TOO_LARGE"


@pytest.mark.parametrize("content_type", ["text/plain", "text/markdown", "text/x-rst", "text/html", "text/csv"])
def test_all_on_one_line_is_read_whole(content_type: str) -> None:
    words = " ".join(f"w{number}" for number in range(20_000))
    text = outcome(f"{words} needle".encode(), content_type)
    assert text.split()[-1] == "needle"
    assert len(text.split()) == 20_001


def test_a_word_without_end_is_read_whole() -> None:
    assert len(outcome(b"x" * 300_000, "text/plain").replace("\n", "")) == 300_000


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"<div>" * 20_000 + b"needle", "text/html"),
        (b"<b>" * 50_000 + b"needle", "text/html"),
        (b"<table><tr><td>" * 3_000 + b"needle", "text/html"),
        (b"> " * 20_000 + b"needle", "text/markdown"),
        (b"- " * 5_000 + b"needle", "text/markdown"),
        (b"[" * 20_000 + b"needle", "text/markdown"),
        (b"*a **a " * 5_000 + b"needle", "text/markdown"),
        (b"".join(b" " * n + b"- x\n\n" for n in range(0, 800, 2)) + b"\nneedle", "text/x-rst"),
        (b"[" * 100_000 + b"needle", "application/json"),
        (b'{"a":' * 100_000 + b'"needle"', "application/json"),
        (b"<?xml version='1.0'?>" + b"<a>" * 100_000 + b"needle", "text/plain"),
        (b'"' * 100_001 + b"needle", "text/csv"),
        (b"," * 200_000 + b"needle", "text/csv"),
    ],
)
def test_deep_nesting_is_read_or_refused(content: bytes, content_type: str) -> None:
    text = outcome(content, content_type)
    assert text == "NESTED_TOO_DEEPLY" or "needle" in text


def test_billions_of_laughs_stay_unsaid() -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    page = f'<!DOCTYPE html [<!ENTITY l0 "haha">{laughs}]><p>&l9;</p><p>needle</p>'
    assert "needle" in outcome(page.encode(), "text/html")
