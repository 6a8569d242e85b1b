"""CSV and JSON: every record can be understood by itself, and none is known by its position."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ragline.errors import PermanentError
from ragline.models.tokens import token_counter
from services.ingest.chunking import cut
from services.ingest.parsing import Block, ParsedDocument, parse


def csv(content: str | bytes, content_type: str = "text/csv") -> ParsedDocument:
    return parse(content, content_type=content_type, uri="data", title=None)


def as_json(value: Any) -> ParsedDocument:
    return parse(json.dumps(value), content_type="application/json", uri="data", title=None)


def texts(document: ParsedDocument) -> list[str]:
    return [block.text for block in document.blocks]


def sections(document: ParsedDocument) -> list[tuple[tuple[str, ...], str]]:
    return [(block.heading_path, block.text) for block in document.blocks]


# CSV


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_rows_name_their_columns_whatever_divides_them(delimiter: str) -> None:
    rows = [["city", "note", "price"], ["Oslo", "cold, dark; nice", "1,5"], ["Rome", 'a "warm" one', ""]]
    text = "\r\n".join(delimiter.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in rows)
    assert csv(text).blocks == (
        Block("record", "city: Oslo | note: cold, dark; nice | price: 1,5", (), 2, None),
        Block("record", 'city: Rome | note: a "warm" one', (), 3, None),
    )


def test_the_delimiter_is_the_one_that_gives_regular_rows() -> None:
    assert texts(csv("Ort;Größe\nMünchen, Bayern;0,5\nKöln;1,5\n"))[0] == "Ort: München, Bayern | Größe: 0,5"


def test_a_row_over_several_lines_begins_where_it_begins() -> None:
    assert [block.line for block in csv('a,b\n1,"x\ny"\n2,z\n').blocks] == [2, 4]


@pytest.mark.parametrize("content", ["1,2\n3,4", "x,x\n1,2", ",,a\n1,2,3"])
def test_a_first_row_of_values_is_no_header(content: str) -> None:
    assert len(texts(csv(content))) == 2


def test_captions_above_the_table_and_the_line_that_names_the_separator_are_no_rows() -> None:
    assert [(block.kind, block.text) for block in csv("sep=;\nReport 2024\n\nname;value\nx;1\ny;2\n").blocks] == [
        ("paragraph", "Report 2024"),
        ("record", "name: x | value: 1"),
        ("record", "name: y | value: 2"),
    ]


def test_a_header_alone_is_text() -> None:
    assert texts(csv("name,value\n")) == ["name | value"]


def test_what_is_no_table_is_plain_text() -> None:
    assert texts(csv("Just a letter, and\nnothing else.\n\nYours")) == [
        "Just a letter, and nothing else.",
        "Yours",
    ]


def test_other_encodings_are_recognised() -> None:
    content = ("Straße;Größe\n" + "Königsallee;0,5\n" * 20).encode("cp1252")
    assert texts(csv(content, "text/csv"))[0] == "Straße: Königsallee | Größe: 0,5"


def test_a_quote_that_is_never_closed_loses_no_text() -> None:
    shown = "\n".join(texts(csv('a,b\n1,"x\n' + "2,y\n" * 100)))
    assert shown.count("2,y") == 100


def test_chunks_hold_whole_rows_and_only_those_near_an_insertion_change() -> None:
    rows = [f"{number},station {number * 7919 % 1000},{number % 40} degrees" for number in range(400)]
    counter = token_counter("minilm")

    def chunks(lines: list[str]) -> list[str]:
        return [chunk.text for chunk in cut(csv("\n".join(["id,place,weather", *lines])), counter=counter)]

    before, after = chunks(rows), chunks(["9999,an inserted station,hot", *rows])
    assert len(before) > 20
    assert all(line.startswith("id: ") for text in before for line in text.split("\n"))
    assert len(set(after) - set(before)) <= 2


# JSON


def test_a_small_object_is_one_record_with_dotted_names() -> None:
    document = as_json({"name": "x", "size": {"w": 1, "h": 2.50}, "tags": ["a", "b"], "on": True, "no": None})
    assert [(block.kind, block.text) for block in document.blocks] == [
        ("record", "name: x | size.w: 1 | size.h: 2.5 | tags: a, b | on: true")
    ]


def test_keys_of_large_objects_are_headings_and_long_strings_prose() -> None:
    prose = "A sentence of some words. " * 20
    document = as_json({"title": "API", "about": prose, "paths": {"get": {"help": prose}, "put": {"help": "short"}}})
    assert document.title == "API"
    assert sections(document) == [
        ((), "title: API"),
        (("about",), prose.strip()),
        (("paths",), "put.help: short"),
        (("paths", "get", "help"), prose.strip()),
    ]


def test_an_array_of_objects_is_records() -> None:
    document = as_json([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
    assert texts(document) == ["id: 1 | name: a", "id: 2 | name: b"]


def test_large_objects_in_an_array_are_sections_by_what_they_call_themselves_never_by_position() -> None:
    prose = "A sentence of some words. " * 40
    articles = [{"title": name, "body": prose} for name in ("One", "Two")]
    paths = [block.heading_path for block in as_json(articles).blocks]
    assert paths == [("One",), ("One", "body"), ("Two",), ("Two", "body")]
    longer = as_json([{"title": "Zero", "body": prose}, *articles])
    assert set(sections(as_json(articles))) <= set(sections(longer))


def test_numbers_are_spelled_as_they_were() -> None:
    document = parse(
        '{"price": 1.10, "big": 1' + "0" * 5000 + "}", content_type="application/json", uri="d", title=None
    )
    assert "1.10" in texts(document)[0]


def test_links_in_json_are_kept() -> None:
    assert as_json({"see": "https://x.example/a."}).links == ("https://x.example/a",)


def test_json_lines_are_records_with_their_lines() -> None:
    document = parse('{"a": 1}\n\n{"a": 2}\n', content_type="application/x-ndjson", uri="d", title=None)
    assert [(block.text, block.line) for block in document.blocks] == [("a: 1", 1), ("a: 2", 3)]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson"])
def test_json_lines_are_known_under_either_name_and_what_is_neither_is_plain_text(content_type: str) -> None:
    lines = parse('{"a": 1}\n{"a": 2}', content_type=content_type, uri="d", title=None)
    assert texts(lines) == ["a: 1", "a: 2"]
    broken = parse('{"a": 1,}', content_type=content_type, uri="d", title=None)
    assert texts(broken) == ['{"a": 1,}']


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_json_that_nests_too_deeply_is_refused(content: str) -> None:
    with pytest.raises(PermanentError) as refused:
        parse(content, content_type="application/json", uri="d", title=None)
    assert refused.value.reason == "NESTED_TOO_DEEPLY"


def test_json_that_nests_deeper_than_any_heading_keeps_its_text() -> None:
    value: Any = {"needle": "found " * 100}
    for level in range(150):
        value = {f"level {level}": value, "text": "padding " * 100}
    assert any("found found" in text for text in texts(as_json(value)))


def test_half_a_surrogate_pair_spoils_nothing() -> None:
    document = parse('{"a": "x\\ud83d y"}', content_type="application/json", uri="d", title=None)
    assert texts(document)[0].encode().decode().endswith(" y")
