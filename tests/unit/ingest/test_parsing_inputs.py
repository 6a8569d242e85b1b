"""Whatever arrives is recognised and decoded, or refused in one line that names a reason."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragline.errors import PermanentError
from services.ingest.parsing import BINARY_PARSERS, TEXT_PARSERS, ParsedDocument, parse


def read(content: bytes | str, content_type: str | None = None, uri: str = "notes") -> ParsedDocument:
    return parse(content, content_type=content_type, uri=uri, title=None)


def texts(document: ParsedDocument) -> list[str]:
    return [block.text for block in document.blocks]


@pytest.mark.parametrize(
    ("uri", "content", "expected"),
    [
        ("a.md", "# T\n\nx", "T"),
        ("a.rst", "T\n=\n\nx\n", "T"),
        ("a.htm", "<h1>T</h1>x", "T"),
        ("a.txt", "# T\n\nx", "a.txt"),
        ("README", "# T\n\nx", "T"),
        ("page", "<!DOCTYPE html><h1>T</h1>x", "T"),
        ("doc", "T\n=\n\n.. note:: x\n", "T"),
        ("https://x.org/a.md?raw=1", "# T\n\nx", "T"),
    ],
)
def test_the_type_is_guessed_from_the_suffix_then_from_the_content(uri: str, content: str, expected: str) -> None:
    assert read(content, uri=uri).title == expected
    assert read(content.encode(), "application/octet-stream", uri=uri).title == expected


def test_a_named_type_wins_over_the_suffix_and_may_carry_parameters() -> None:
    assert read("# T\n\nx", "text/markdown; charset=utf-8", uri="a.txt").title == "T"
    assert read("# T\n\nx", "Text/Plain", uri="a.md").title == "a.md"


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        ("Größe €".encode("cp1252"), "text/plain; charset=windows-1252"),
        ("Größe €".encode("utf-16"), "text/plain"),
        ("Größe €, all in Latin letters".encode("utf-16-le"), "text/plain"),
        ("\ufeffGröße €".encode(), "text/plain"),
        ("Größe €".encode(), "text/plain; charset=iso-8859-1"),
        ("<meta charset=iso-8859-15><p>Größe €".encode("iso-8859-15"), "text/html"),
        ("<meta charset=iso-8859-1><p>Größe €".encode(), "text/html"),
    ],
)
def test_bytes_are_read_in_their_encoding_even_when_it_is_declared_wrongly(content: bytes, content_type: str) -> None:
    assert texts(read(content, content_type))[0].startswith("Größe €")


def test_undeclared_encodings_are_recognised() -> None:
    text = "Все люди рождаются свободными и равными в своем достоинстве и правах. " * 5  # noqa: RUF001
    assert texts(read(text.encode("cp1251"), "text/plain")) == [text.strip()]


def test_a_few_damaged_bytes_do_not_spoil_the_rest() -> None:
    damaged = "Molière né à Paris, fils de tapissier, écrivit des comédies. ".encode() * 5 + b"\xff caf\xc3\xa9"
    assert texts(read(damaged, "text/plain"))[0].endswith("\ufffd café")


@pytest.mark.parametrize(
    ("content", "content_type", "reason"),
    [
        (b"%PDF-1.7 \x00\x01", None, "UNREADABLE_DOCUMENT"),
        (b"%PDF-1.7 \x00\x01", "text/plain", "UNREADABLE_DOCUMENT"),
        (b"\x00\x01\x02" * 9, "application/pdf", "UNSUPPORTED_CONTENT_TYPE"),
        (b"\x89PNG\r\n\x1a\n", "text/markdown", "UNSUPPORTED_CONTENT_TYPE"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/msword", "UNSUPPORTED_CONTENT_TYPE"),
        (b"PK\x03\x04" + bytes(26) + b"readme.txt", None, "UNSUPPORTED_CONTENT_TYPE"),
        (b"PK\x03\x04" + bytes(26) + b"word/document.xml", None, "UNREADABLE_DOCUMENT"),
        (b"x", "application/x-unheard-of", "UNSUPPORTED_CONTENT_TYPE"),
        (bytes(range(256)) * 4, "text/plain", "UNSUPPORTED_CONTENT_TYPE"),
        (b"", "text/plain", "EMPTY_DOCUMENT"),
        (b" \n\xe2\x80\x8b\n", "text/markdown", "EMPTY_DOCUMENT"),
        (b"<html><body>&nbsp;<!-- x --></body></html>", "text/html", "EMPTY_DOCUMENT"),
        (b"", "text/html", "EMPTY_DOCUMENT"),
        (b".. comment\n", "text/x-rst", "EMPTY_DOCUMENT"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line_with_a_reason(
    content: bytes, content_type: str | None, reason: str
) -> None:
    with pytest.raises(PermanentError) as refused:
        read(content, content_type, uri="folder/thing")
    assert refused.value.reason == reason
    assert str(refused.value).startswith("folder/thing: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "content_type", "content", "expected"),
    [
        ("a.pdf", None, b"<!doctype html><title>T</title><p>x", "x"),
        ("a.pdf", "application/pdf", b"just text", "just text"),
        ("a.json", None, b"<!DOCTYPE html><body>x", "x"),
        ("a.csv", "text/csv", b"<html><p>x</p></html>", "x"),
        ("a.csv", "application/vnd.ms-excel", b"a,b\n1,2", "a: 1 | b: 2"),
        ("a.tsv", None, b"a\tb\n1\t2", "a: 1 | b: 2"),
        ("a.geojson", None, b'{"a": 1}', "a: 1"),
        ("a", "application/ld+json; charset=utf-8", b'{"a": 1}', "a: 1"),
        ("a", None, b'{"a": 1}', "a: 1"),
        ("a.jsonl", None, b'{"a": 1}', "a: 1"),
        ("a.py", "text/x-python", b"x = 1", "x = 1"),
    ],
)
def test_what_the_content_is_counts_for_more_than_what_it_is_called(
    uri: str, content_type: str | None, content: bytes, expected: str
) -> None:
    assert texts(read(content, content_type, uri=uri)) == [expected]


@pytest.mark.parametrize("content_type", sorted(BINARY_PARSERS))
def test_a_format_of_bytes_cannot_come_as_text(content_type: str) -> None:
    with pytest.raises(PermanentError, match="content_ref") as refused:
        read("%PDF-1.7", content_type)
    assert refused.value.reason == "UNSUPPORTED_CONTENT_TYPE"


@pytest.mark.parametrize("content_type", sorted(BINARY_PARSERS))
@given(content=st.binary(max_size=300))
@settings(max_examples=30, deadline=None)
def test_any_bytes_in_a_binary_format_end_in_a_named_refusal(content_type: str, content: bytes) -> None:
    start = b"%PDF-1.4\n" if content_type == "application/pdf" else b"PK\x03\x04" + bytes(26) + b"word/"
    assert read_or_refused(start + content, content_type) in {
        "UNREADABLE_DOCUMENT",
        "EMPTY_DOCUMENT",
        "UNSUPPORTED_CONTENT_TYPE",
    }


MARKS = "# |## |* |- |1. |> |`|``|```|*|_|=====|-----|.. x:: y|<p>|<table>|<td>|<li>|<pre>|:role:`|[a](b"
MARKUP = st.lists(
    st.sampled_from([*MARKS.split("|"), "|", "\n", "\n\n", "    "]) | st.text(max_size=8),
).map("".join)


def read_or_refused(content: bytes | str, content_type: str) -> ParsedDocument | str:
    try:
        return read(content, content_type)
    except PermanentError as error:
        return error.reason


@pytest.mark.parametrize("content_type", sorted(TEXT_PARSERS))
@given(content=MARKUP)
@settings(max_examples=60, deadline=None)
def test_anything_ends_in_blocks_or_in_a_named_refusal(content_type: str, content: str) -> None:
    result = read_or_refused(content, content_type)
    assert result == read_or_refused(content, content_type)
    if isinstance(result, ParsedDocument):
        assert result.title
        assert all(block.text.strip() for block in result.blocks)
    else:
        assert result in {"EMPTY_DOCUMENT", "NESTED_TOO_DEEPLY"}


@pytest.mark.parametrize("content_type", ["text/plain", "text/html", "text/csv", "application/json"])
@given(content=st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_bytes_end_in_text_or_in_a_named_refusal(content_type: str, content: bytes) -> None:
    result = read_or_refused(content, content_type)
    if isinstance(result, ParsedDocument):
        assert all(block.text.strip() for block in result.blocks)
    else:
        assert result in {"EMPTY_DOCUMENT", "UNSUPPORTED_CONTENT_TYPE", "UNREADABLE_DOCUMENT"}
