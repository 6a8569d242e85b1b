"""A PDF's lines become headings, paragraphs and lists with their pages, without what runs along every page."""

from __future__ import annotations

import pytest

from ragline.errors import PermanentError
from services.ingest.parsing import ParsedDocument, parse
from tests.unit.ingest.pdf_files import Placed, column, pdf

PROSE = (
    "The quick brown fox jumps over the lazy dog while a number of other",
    "animals watch it from a distance. None of them knows why the fox does",
    "so, and the dog does not care.",
)


def read(content: bytes, uri: str = "paper.pdf") -> ParsedDocument:
    return parse(content, content_type="application/pdf", uri=uri, title=None)


def texts(document: ParsedDocument) -> list[str]:
    return [block.text for block in document.blocks]


def running(number: int, count: int) -> list[Placed]:
    return [(72, 800, 8, "ACME Annual Report"), (280, 30, 8, f"Page {number} of {count}")]


def test_lines_become_paragraphs_that_know_their_page() -> None:
    document = read(pdf([], column(*PROSE)))
    assert texts(document) == [" ".join(PROSE)]
    assert [(block.kind, block.page, block.line) for block in document.blocks] == [("paragraph", 2, None)]


def test_a_wider_gap_begins_a_paragraph() -> None:
    assert len(read(pdf(column(*PROSE) + column(*PROSE, top=640))).blocks) == 2


def test_lines_that_end_before_they_must_stay_lines() -> None:
    form = ("Name: Ada", "Address: 12 Square", "Phone: 555-0199", "Policy: POL-2022")
    assert texts(read(pdf(column(*PROSE) + column(*form, top=500))))[1] == "\n".join(form)


def test_two_columns_are_not_mixed() -> None:
    narrow = ("This is the left column of", "the page and goes on to", "its end here.")
    other = ("Here begins the right one,", "which says something else", "in its own words.")
    document = read(pdf(column(*narrow, left=50) + column(*other, left=320)))
    assert texts(document) == [" ".join(narrow), " ".join(other)]


def test_words_divided_at_a_line_end_are_mended_and_hyphens_of_their_own_stay() -> None:
    document = read(
        pdf(
            column(
                "Some well-known people were of the opinion that all of the infor-",
                "mation that they had was of no use, as did other, equally well-",
                "known ones who had none of it.",
            )
        )
    )
    (text,) = texts(document)
    assert "the information that" in text
    assert "equally well-known ones" in text


def test_larger_lines_are_headings_by_their_size() -> None:
    page = [
        *((72, 780, 20, "The Report"), (72, 740, 14, "Results")),
        *column(*PROSE, top=715),
        (72, 640, 14, "Outlook"),
        *column(*PROSE, top=615),
    ]
    document = read(pdf(page))
    assert document.title == "The Report"
    assert [block.heading_path for block in document.blocks] == [("Results",), ("Outlook",)]


def test_bookmarks_name_the_headings_where_there_are_any() -> None:
    page = [(72.0, 720.0, 10.0, "1. Results"), *column(*PROSE)]
    other = [(72.0, 720.0, 10.0, "2. Outlook"), *column(*PROSE)]
    document = read(pdf(page, other, bookmarks=[(1, "Results"), (2, "Outlook")], title="Report"))
    assert [block.heading_path for block in document.blocks] == [("1. Results",), ("2. Outlook",)]


@pytest.mark.parametrize("pages", [2, 5, 9])
def test_running_headers_are_kept_once_and_page_numbers_not_at_all(pages: int) -> None:
    document = read(pdf(*(running(n, pages) + column(*PROSE) for n in range(1, pages + 1))))
    shown = "\n".join(texts(document))
    assert shown.count("ACME Annual Report") == 1
    assert "Page" not in shown
    assert shown.count("The quick brown fox") == pages


def test_numbers_in_the_margin_that_do_not_count_with_the_pages_are_kept() -> None:
    pages = [[(72.0, 30.0, 10.0, f"Total {total}"), *column(*PROSE)] for total in (120, 350, 90, 410)]
    shown = "\n".join(texts(read(pdf(*pages))))
    assert all(f"Total {total}" in shown for total in (120, 350, 90, 410))


def test_a_paragraph_that_goes_on_overleaf_is_one() -> None:
    document = read(pdf(column(*PROSE[:2], top=100), column(*PROSE[2:])))
    assert [(block.text, block.page) for block in document.blocks] == [(" ".join(PROSE), 1)]


def test_bullets_and_numbers_are_list_items() -> None:
    document = read(pdf(column("\u2022 the first one", "\u2022 the second one", "3. and the third one")))
    assert [(block.kind, block.text) for block in document.blocks] == [
        ("list", "- the first one"),
        ("list", "- the second one"),
        ("list", "3. and the third one"),
    ]


def test_title_language_and_links_are_kept() -> None:
    document = read(
        pdf(column("See https://b.example/x."), title="A Title", language="de-AT", link="https://a.example")
    )
    assert (document.title, document.language) == ("A Title", "de-AT")
    assert document.links == ("https://a.example", "https://b.example/x")


@pytest.mark.parametrize("title", ["untitled", "Microsoft Word - draft3.doc", "thesis.dvi", " "])
def test_titles_that_programs_make_up_are_none(title: str) -> None:
    assert read(pdf(column(*PROSE), title=title), uri="files/My%20Thesis.pdf").title == "My Thesis.pdf"


def test_a_pdf_without_text_is_an_empty_document() -> None:
    with pytest.raises(PermanentError) as refused:
        read(pdf([]))
    assert refused.value.reason == "EMPTY_DOCUMENT"
    assert "OCR" in str(refused.value)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_truncated_pdf_is_refused_in_one_line(share: float) -> None:
    whole = pdf(*(column(*PROSE) for _ in range(20)))
    with pytest.raises(PermanentError) as refused:
        read(whole[: int(len(whole) * share)])
    assert refused.value.reason in {"UNREADABLE_DOCUMENT", "EMPTY_DOCUMENT"}
    assert "\n" not in str(refused.value)


def test_an_encrypted_pdf_is_refused_with_what_to_do() -> None:
    encrypted = pdf(column(*PROSE)).replace(
        b"/Info 3 0 R",
        b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<00> <00>]" % (b"00" * 32, b"00" * 32),
    )
    with pytest.raises(PermanentError) as refused:
        read(encrypted)
    assert refused.value.reason == "ENCRYPTED_DOCUMENT"
