"""Every format becomes the same thing: cleaned blocks, in order, under their headings, with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragline.errors import PermanentError
from services.ingest.parsing import Block, ParsedDocument, parse


def read(
    content: bytes | str, content_type: str | None = None, uri: str = "notes", title: str | None = None
) -> ParsedDocument:
    return parse(content, content_type=content_type, uri=uri, title=title)


def markdown(text: str, title: str | None = None) -> ParsedDocument:
    return read(text, "text/markdown", title=title)


def rst(text: str, title: str | None = None) -> ParsedDocument:
    return read(text, "text/x-rst", title=title)


def html(text: str, title: str | None = None) -> ParsedDocument:
    return read(text, "text/html", title=title)


def shown(document: ParsedDocument) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in document.blocks]


def texts(document: ParsedDocument) -> list[str]:
    return [block.text for block in document.blocks]


# Markdown


def test_markdown_blocks_carry_kind_heading_path_and_line() -> None:
    document = markdown(
        "# Guide\n\nIntro\nwrapped.\n\n## Use\n\n- one\n- two\n\n```python\ndef f():\n    pass\n```\n\n"
        "### Deep\n\n> quoted\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## Last\n\nend"
    )
    assert document.title == "Guide"
    assert document.blocks == (
        Block("paragraph", "Intro wrapped.", (), 3, None),
        Block("list", "- one", ("Use",), 8, None),
        Block("list", "- two", ("Use",), 9, None),
        Block("code", "def f():\n    pass", ("Use",), 11, None),
        Block("quote", "quoted", ("Use", "Deep"), 18, None),
        Block("table", "a | b\n1 | 2", ("Use", "Deep"), 22, None),
        Block("paragraph", "end", ("Last",), 26, None),
    )


def test_markdown_front_matter_gives_title_and_language_and_keeps_lines_true() -> None:
    document = markdown('---\r\ntitle: "A: b"\r\nlang: de\r\ntags: [x]\r\n---\r\n\r\nText.\r\n')
    assert (document.title, document.language) == ("A: b", "de")
    assert document.blocks == (Block("paragraph", "Text.", (), 7, None),)


def test_markdown_nested_and_numbered_items_keep_markers_and_indentation() -> None:
    document = markdown("3. third\n   more\n\n   para\n4. fourth\n   - inner\n")
    assert texts(document) == ["3. third more", "   para".replace("   ", "  "), "4. fourth", "  - inner"]


def test_markdown_links_are_gathered_once_and_places_within_are_not() -> None:
    document = markdown("[a](https://x.org) ![alt text](pic.png) [b](#here) <https://x.org> [c](other.md)")
    assert document.links == ("https://x.org", "other.md")
    assert texts(document) == ["a alt text b https://x.org c"]


def test_html_within_markdown_is_read_and_its_comments_are_not() -> None:
    document = markdown("<!-- secret -->\n\n<p align='center'>Shown <b>bold</b></p>\n\nTwo<br>lines")
    assert texts(document) == ["Shown bold", "Two lines"]


def test_markdown_nested_beyond_reason_still_yields_its_text() -> None:
    assert "needle" in " ".join(texts(markdown(">" * 2000 + " needle")))


# reStructuredText


def test_rst_sections_lists_code_tables_and_quotes() -> None:
    document = rst(
        "Guide\n=====\n\nIntro with ``code`` and *stress*::\n\n    x = 1\n      y\n\n"
        "Use\n---\n\n* one\n* two\n\n  more\n\n"
        "Term\n  Meaning\n\n    quoted\n\n=== ===\na   b\n=== ===\n1   2\n=== ===\n"
    )
    assert document.title == "Guide"
    assert shown(document) == [
        ("paragraph", "Intro with code and stress:"),
        ("code", "x = 1\n  y"),
        ("list", "- one"),
        ("list", "- two"),
        ("list", "  more"),
        ("list", "- Term: Meaning"),
        ("list", "  quoted"),
        ("table", "a | b\n1 | 2"),
    ]
    assert [block.heading_path for block in document.blocks[:3]] == [(), (), ("Use",)]


def test_a_peps_header_gives_the_title_and_one_block_without_its_history() -> None:
    document = read(
        "PEP: 9\nTitle: Sample: a PEP\nAuthor: A <a@b.org>,\n        C\nStatus: Draft\n"
        "Post-History: 1-Jan-2000\n\n"
        "Abstract\n========\n\nSee :pep:`8` and :pep-reference:`7`.\n",
        uri="peps/pep-0009.txt",
    )
    assert document.title == "Sample: a PEP"
    assert document.blocks == (
        Block("paragraph", "PEP: 9\nTitle: Sample: a PEP\nAuthor: A <a@b.org>, C\nStatus: Draft", (), 1, None),
        Block("paragraph", "See PEP 8 and PEP 7.", ("Abstract",), 11, None),
    )


def test_a_pep_reads_the_same_whatever_its_suffix_is() -> None:
    pep = "PEP: 1\nTitle: T\n\nA\n=\n\n* item\n"
    assert read(pep, uri="pep-0001.txt").blocks == read(pep, uri="peps/pep-0001.rst").blocks


def test_unknown_roles_and_directives_leave_their_text_and_print_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    document = rst(
        "Call :py:func:`~os.path.join` or :term:`this <that>`.\n\n.. versionadded:: 3.9\n   It *came*.\n\n"
        ".. code-block:: python\n   :bogus: yes\n\n   def f():\n       pass\n\n.. toctree::\n\n   a\n   b\n"
    )
    assert shown(document) == [
        ("paragraph", "Call os.path.join or this."),
        ("paragraph", "3.9"),
        ("paragraph", "It came."),
        ("code", "def f():\n    pass"),
    ]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_rst_reads_no_file_and_no_raw_content(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    document = rst(
        f".. include:: {secret}\n\n.. raw:: html\n\n   <script>bad</script>\n\n"
        f".. csv-table::\n   :file: {secret}\n\n.. literalinclude:: {secret}\n\nEnd.\n"
    )
    assert "the secret" not in " ".join(texts(document))
    assert "script" not in " ".join(texts(document))
    assert texts(document)[-1] == "End."


def test_one_rst_document_leaves_nothing_behind_for_the_next() -> None:
    plain = "See :mine:`text` and `default`.\n"
    before = rst(plain)
    rst(".. role:: mine(raw)\n   :format: html\n\n.. default-role:: code\n\nx\n")
    assert rst(plain) == before


def test_rst_gives_the_same_text_on_another_day() -> None:
    assert texts(rst(".. |today| date::\n\nWritten |today|.\n")) == ["Written today."]


def test_rst_substitutions_footnotes_and_targets_are_resolved_as_text_and_links() -> None:
    document = rst(
        ".. |name| replace:: Ragline\n\n|name| is [1]_ at home_.\n\n.. [1] A note.\n.. _home: https://x.org\n"
    )
    assert texts(document) == ["Ragline is [1] at home.", "[1] A note."]
    assert document.links == ("https://x.org",)


@pytest.mark.parametrize(
    "malformed",
    [
        "Title\n===\n\n    unexpected\n  indentation needle\n",
        "A\n=\n\nB\n-\n\nC\n~\n\nD\n=\n\nE\n~\n\nneedle\n",
        "=====\nneedle\n",
        "+---+---+\n| a | needle |\n+---+\n",
        "*never closed needle\n",
        ".. image::\n\nneedle\n",
        "`" * 50 + "needle",
    ],
)
def test_malformed_rst_keeps_its_text(malformed: str) -> None:
    document = rst(malformed)
    words = " ".join(" ".join((*block.heading_path, block.text)) for block in document.blocks)
    assert "needle" in f"{document.title} {words}"


def test_an_endless_rst_paragraph_of_open_marks_is_read_as_text() -> None:
    assert "needle" in texts(rst("*word " * 20_000 + "needle"))[0]


# HTML


def test_html_keeps_headings_lists_code_tables_and_quotes_and_drops_navigation() -> None:
    document = html(
        "<html lang='en'><head><title>Page | Site</title><style>p{}</style></head><body><nav>Menu</nav><main>"
        "<h1>Page<a href='#p'>¶</a></h1><p>Intro <a href='/x'>link</a></p><h2>Use</h2>"
        "<ol start=2><li>two<ul><li>inner</li></ul></li><li>three</li></ol><pre>x = 1\n  y</pre>"
        "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>"
        "<blockquote>said</blockquote><p hidden>gone</p><script>bad()</script></main>"
        "<footer>Imprint</footer></body>"
    )
    assert (document.title, document.language, document.links) == ("Page", "en", ("/x",))
    assert shown(document) == [
        ("paragraph", "Intro link"),
        ("list", "2. two"),
        ("list", "  - inner"),
        ("list", "3. three"),
        ("code", "x = 1\n  y"),
        ("table", "a | b\n1 | 2"),
        ("quote", "said"),
    ]
    assert document.blocks[-1].heading_path == ("Use",)


def test_a_page_that_is_all_navigation_is_still_read() -> None:
    assert texts(html("<body><nav><p>Only this</p></nav></body>")) == ["Only this"]


def test_a_layout_table_is_walked_and_not_flattened() -> None:
    document = html("<table><tr><td><h2>Part</h2><p>Text</p></td></tr></table>", title="T")
    assert document.blocks == (Block("paragraph", "Text", ("Part",), 1, None),)


def test_markup_too_deep_to_be_read_whole_is_refused() -> None:
    with pytest.raises(PermanentError) as refused:
        html("<div>" * 5000 + "bottom")
    assert refused.value.reason == "NESTED_TOO_DEEPLY"


# Plain text


def test_text_has_paragraphs_items_and_laid_out_passages() -> None:
    document = read("First line\nand its second.\n\n- one\n- two\n  wrapped\n\nname    size\nx       1\n", "text/plain")
    assert document.blocks == (
        Block("paragraph", "First line and its second.", (), 1, None),
        Block("list", "- one", (), 4, None),
        Block("list", "- two wrapped", (), 5, None),
        Block("code", "name    size\nx       1", (), 8, None),
    )


def test_lines_that_each_begin_anew_stay_lines() -> None:
    assert texts(read("10:01 Started\n10:02 Listening\n10:03 Stopped", "text/plain")) == [
        "10:01 Started\n10:02 Listening\n10:03 Stopped"
    ]


# Titles and headings


def test_the_publishers_title_wins_and_the_documents_own_heading_then_stays() -> None:
    document = markdown("# Own\n\ntext", title="Given")
    assert (document.title, document.blocks[0].heading_path) == ("Given", ("Own",))
    assert markdown("# Own\n\ntext", title="Own").blocks[0].heading_path == ()


def test_without_any_title_the_last_part_of_the_uri_is_it() -> None:
    assert read("text", "text/plain", uri="https://x.org/docs/my%20file.txt?v=1").title == "my file.txt"


@pytest.mark.parametrize("parser", [markdown, rst, html])
def test_headings_without_text_are_kept_as_text(parser: object) -> None:
    sources = {
        markdown: "# T\n\n## Empty\n\n## Parent\n\n### Child\n\nx\n\n## Last",
        rst: "T\n=\n\nEmpty\n-----\n\nParent\n------\n\nChild\n~~~~~\n\nx\n\nLast\n----\n",
        html: "<h1>T</h1><h2>Empty</h2><h2>Parent</h2><h3>Child</h3><p>x</p><h2>Last</h2>",
    }
    document = parser(sources[parser])  # type: ignore[operator, index]
    assert [(block.text, block.heading_path) for block in document.blocks] == [
        ("Empty", ()),
        ("x", ("Parent", "Child")),
        ("Last", ()),
    ]


def test_a_document_of_a_title_alone_is_that_title() -> None:
    assert texts(markdown("# Only a title")) == ["Only a title"]


def test_a_heading_as_long_as_a_paragraph_is_kept_whole_as_one() -> None:
    long = "word " * 100
    document = markdown(f"# T\n\n## {long}\n\ntext")
    assert texts(document) == [long.strip(), "text"]
    assert len(document.blocks[1].heading_path[0]) <= 200
