"""Word documents and presentations: what a reader sees, under its headings, with tables and lists as such."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import pptx
import pytest
from docx.oxml import OxmlElement, parse_xml
from docx.oxml.ns import nsdecls, qn
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from ragline.errors import PermanentError
from services.ingest.parsing import Block, ParsedDocument, parse
from services.ingest.parsing.sniffing import DOCX, PPTX


def saved(document: object) -> bytes:
    file = io.BytesIO()
    document.save(file)  # type: ignore[attr-defined]
    return file.getvalue()


def read(document: object, uri: str = "files/My%20Doc.docx") -> ParsedDocument:
    return parse(saved(document), content_type=None, uri=uri, title=None)


def shown(document: ParsedDocument) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in document.blocks]


def paths(document: ParsedDocument) -> list[tuple[str, ...]]:
    return [block.heading_path for block in document.blocks]


# Word


def test_word_headings_lists_quotes_and_tables_are_told_apart_by_style() -> None:
    document = docx.Document()
    document.add_heading("Guide", 0)
    document.add_paragraph("Intro.")
    document.add_heading("Use", 1)
    document.add_paragraph("one", style="List Bullet")
    document.add_paragraph("inner", style="List Number 2")
    document.add_paragraph("Said so.", style="Intense Quote")
    document.add_heading("Deep", 2)
    table = document.add_table(2, 2)
    for cell, text in zip(table._cells, ["a", "b", "1", "2"], strict=True):
        cell.text = text
    read_back = read(document)
    assert read_back.title == "Guide"
    assert read_back.blocks == (
        Block("paragraph", "Intro.", (), None, None),
        Block("list", "- one", ("Use",), None, None),
        Block("list", "- inner", ("Use",), None, None),
        Block("quote", "Said so.", ("Use",), None, None),
        Block("table", "a | b\n1 | 2", ("Use", "Deep"), None, None),
    )


def test_word_properties_give_title_and_language() -> None:
    document = docx.Document()
    document.core_properties.title, document.core_properties.language = "The Title", "de-DE"
    document.add_paragraph("Text.")
    assert (read(document).title, read(document).language) == ("The Title", "de-DE")


@pytest.mark.parametrize("title", ["", "Document1", "Microsoft Word - x.doc", "report.docx"])
def test_a_title_that_a_program_made_up_is_none(title: str) -> None:
    document = docx.Document()
    document.core_properties.title = title
    document.add_paragraph("Text.")
    assert read(document).title == "My Doc.docx"


def test_word_text_includes_links_insertions_and_controls_and_leaves_out_what_is_deleted_or_hidden() -> None:
    document = docx.Document()
    relation = document.part.relate_to("https://x.example", docx.opc.constants.RELATIONSHIP_TYPE.HYPERLINK, True)
    runs = (
        '<w:r><w:t>See </w:t></w:r><w:hyperlink r:id="{}"><w:r><w:t>here</w:t></w:r></w:hyperlink>'
        "<w:ins><w:r><w:t> and new</w:t></w:r></w:ins><w:del><w:r><w:delText> and old</w:delText></w:r></w:del>"
        "<w:moveFrom><w:r><w:t> and moved</w:t></w:r></w:moveFrom>"
        "<w:sdt><w:sdtContent><w:r><w:t> and control</w:t></w:r></w:sdtContent></w:sdt>"
        "<w:r><w:rPr><w:vanish/></w:rPr><w:t> and hidden</w:t></w:r>"
    )
    document.element.body.insert(0, parse_xml(f"<w:p {nsdecls('w', 'r')}>{runs.format(relation)}</w:p>"))
    control = "<w:sdtContent><w:p><w:r><w:t>A field.</w:t></w:r></w:p></w:sdtContent>"
    document.element.body.insert(1, parse_xml(f"<w:sdt {nsdecls('w')}>{control}</w:sdt>"))
    read_back = read(document)
    assert [block.text for block in read_back.blocks] == ["See here and new and control", "A field."]
    assert read_back.links == ("https://x.example",)


def test_a_generated_table_of_contents_is_left_out() -> None:
    document = docx.Document()
    part = '<w:sdtPr><w:docPartObj><w:docPartGallery w:val="Table of Contents"/></w:docPartObj></w:sdtPr>'
    inner = "<w:sdtContent><w:p><w:r><w:t>Use ... 3</w:t></w:r></w:p></w:sdtContent>"
    document.element.body.insert(0, parse_xml(f"<w:sdt {nsdecls('w')}>{part}{inner}</w:sdt>"))
    document.add_heading("Use", 1)
    document.add_paragraph("Text.")
    assert shown(read(document)) == [("paragraph", "Text.")]


def test_text_boxes_are_read_once() -> None:
    document = docx.Document()
    box = "<w:txbxContent><w:p><w:r><w:t>In a box.</w:t></w:r></w:p></w:txbxContent>"
    spaces = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    run = (
        f"<w:p {nsdecls('w')} {spaces}><w:r><w:t>Around.</w:t></w:r><w:r><mc:AlternateContent><mc:Choice>{box}"
        f"</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent></w:r></w:p>"
    )
    document.element.body.insert(0, parse_xml(run))
    assert [block.text for block in read(document).blocks] == ["Around.", "In a box."]


def test_consecutive_paragraphs_in_a_style_of_code_are_one_block() -> None:
    document = docx.Document()
    document.styles.add_style("Source Code", docx.enum.style.WD_STYLE_TYPE.PARAGRAPH)
    document.add_paragraph("def f():", style="Source Code")
    document.add_paragraph("    pass", style="Source Code")
    document.add_paragraph("Prose.")
    assert shown(read(document)) == [("code", "def f():\n    pass"), ("paragraph", "Prose.")]


def test_headings_by_outline_level_of_the_paragraph_or_of_an_inherited_style() -> None:
    document = docx.Document()
    style = document.styles.add_style("My Section", docx.enum.style.WD_STYLE_TYPE.PARAGRAPH)
    style.base_style = document.styles["Heading 2"]
    document.add_paragraph("Inherited", style="My Section")
    document.add_paragraph("Text.")
    direct = document.add_paragraph("Direct")
    level = OxmlElement("w:outlineLvl")
    level.set(qn("w:val"), "2")
    direct._p.get_or_add_pPr().append(level)
    document.add_paragraph("More.")
    assert paths(read(document)) == [("Inherited",), ("Inherited", "Direct")]


def test_a_large_table_becomes_rows_that_name_their_columns() -> None:
    document = docx.Document()
    table = document.add_table(40, 2)
    for number, row in enumerate(table.rows):
        row.cells[0].text = f"part {number}" if number else "Part"
        row.cells[1].text = f"about {number} euros" if number else "Price"
    blocks = read(document).blocks
    assert len(blocks) == 39
    assert blocks[4] == Block("record", "Part: part 5 | Price: about 5 euros", (), None, None)


def test_a_table_that_only_lays_out_is_read_as_the_body_is() -> None:
    document = docx.Document()
    cells = document.add_table(1, 2)._cells
    cells[0].paragraphs[0].text, cells[0].paragraphs[0].style = "Left", document.styles["Heading 1"]
    cells[0].add_paragraph("Text on the left.")
    cells[1].text = "Text on the right."
    assert [block.text for block in read(document).blocks] == ["Text on the left.", "Text on the right."]


# Presentations


def presentation() -> pptx.presentation.Presentation:
    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[0])
    first.shapes.title.text, first.placeholders[1].text = "The Deck", "by Ada"
    second = deck.slides.add_slide(deck.slide_layouts[1])
    second.shapes.title.text = "Plan"
    frame = second.placeholders[1].text_frame
    frame.text = "First"
    frame.add_paragraph().text = "Second"
    frame.paragraphs[1].level = 1
    second.notes_slide.notes_text_frame.text = "Do not forget."
    return deck


def test_a_slide_is_a_section_with_its_number_as_page_and_its_notes_at_the_end() -> None:
    deck = presentation()
    document = read(deck)
    assert document.title == "The Deck"
    assert document.blocks == (
        Block("paragraph", "by Ada", (), None, 1),
        Block("list", "- First", ("Plan",), None, 2),
        Block("list", "  - Second", ("Plan",), None, 2),
        Block("paragraph", "Notes: Do not forget.", ("Plan",), None, 2),
    )


def test_tables_charts_groups_and_links_on_slides_are_read() -> None:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Figures"
    table = slide.shapes.add_table(2, 2, 0, 0, Inches(4), Inches(2)).table
    for row, texts in enumerate((("Year", "Sum"), ("2024", "7"))):
        for column, text in enumerate(texts):
            table.cell(row, column).text = text
    data = CategoryChartData()
    data.categories = ["north", "south"]
    data.add_series("sales", (1.5, 2))
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(4), Inches(2), data)
    box = slide.shapes.add_group_shape().shapes.add_textbox(0, 0, Inches(2), Inches(1))
    box.text_frame.text = "In a group"
    box.text_frame.paragraphs[0].runs[0].hyperlink.address = "https://x.example"
    document = read(deck)
    assert shown(document) == [
        ("table", "Year | Sum\n2024 | 7"),
        ("table", " | sales\nnorth | 1.5\nsouth | 2"),
        ("paragraph", "In a group"),
    ]
    assert document.links == ("https://x.example",)


def test_a_slide_without_a_title_does_not_belong_to_the_one_before() -> None:
    deck = presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    frame = slide.shapes.add_textbox(0, 0, Inches(4), Inches(4)).text_frame
    frame.text = "Summary"
    frame.add_paragraph().text = "All is well."
    assert [block.heading_path for block in read(deck).blocks if block.page == 3] == [("Summary",), ("Summary",)]


# Both


def word() -> bytes:
    document = docx.Document()
    document.add_paragraph("Text.")
    return saved(document)


def slides() -> bytes:
    return saved(presentation())


def repacked(content: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file.getvalue()


def refusal(content: bytes, uri: str) -> PermanentError:
    with pytest.raises(PermanentError) as refused:
        parse(content, content_type=None, uri=uri, title=None)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"{uri}: ")
    return refused.value


@pytest.mark.parametrize(("content", "uri"), [(word(), "a.docx"), (slides(), "a.pptx")])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_a_truncated_package_is_refused(content: bytes, uri: str, kept: float) -> None:
    assert refusal(content[: int(len(content) * kept)], uri).reason == "UNREADABLE_DOCUMENT"


@pytest.mark.parametrize(("content", "uri"), [(word(), "a.docx"), (slides(), "a.pptx")])
def test_a_package_with_broken_xml_is_refused(content: bytes, uri: str) -> None:
    broken = repacked(content, lambda name, part: part[: len(part) // 2] if name.endswith("l.xml") else part)
    broken = repacked(broken, lambda name, part: b"<a" if "/_rels/" not in name and name.count("/") == 1 else part)
    assert refusal(broken, uri).reason == "UNREADABLE_DOCUMENT"


@pytest.mark.parametrize(("content", "uri"), [(word(), "a.docx"), (slides(), "a.pptx")])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(content: bytes, uri: str) -> None:
    bomb = repacked(content, lambda name, part: part + b" " * 50_000_000 if name.endswith("styles.xml") else part)
    bomb = repacked(bomb, lambda name, part: b" " * 50_000_000 if name == "docProps/app.xml" else part)
    refused = refusal(bomb, uri)
    assert refused.reason == "PARSE_TOO_LARGE"
    assert "zip bomb" in str(refused)


def test_entities_are_not_expanded() -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 9))
    head = (
        f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "ha">{laughs}<!ENTITY f SYSTEM "{Path(__file__).as_uri()}">]>'
    )

    def laugh(name: str, part: bytes) -> bytes:
        if name != "word/document.xml":
            return part
        body = part.decode().split("?>", 1)[1].replace("Text.", "Before &l8; &f; after.")
        return (head + body).encode()

    bomb = repacked(word(), laugh)
    try:
        text = "".join(block.text for block in parse(bomb, content_type=None, uri="a.docx", title=None).blocks)
    except PermanentError as refused:
        text = refused.reason
    assert text == "UNREADABLE_DOCUMENT" or ("haha" not in text and "Entities" not in text)


def test_deeply_nested_xml_is_refused() -> None:
    deep = repacked(
        word(),
        lambda name, part: (
            part.replace(b"<w:t>", b"<w:x>" * 5000 + b"<w:t>").replace(b"</w:t>", b"</w:t>" + b"</w:x>" * 5000)
            if name == "word/document.xml"
            else part
        ),
    )
    assert refusal(deep, "a.docx").reason == "UNREADABLE_DOCUMENT"


@pytest.mark.parametrize(("content", "declared"), [(word(), PPTX), (word(), "text/plain"), (slides(), DOCX)])
def test_the_package_itself_says_what_it_is(content: bytes, declared: str) -> None:
    assert parse(content, content_type=declared, uri="thing.txt", title=None).blocks
