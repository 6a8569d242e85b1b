"""HTML: what a reader of the page sees under its headings, without navigation, scripts and hidden parts.

An own walk over lxml's tree and not a main-content extractor: those lose headings, and since they weigh a
page as a whole, an edit in one place changes what they keep in another.
"""

from __future__ import annotations

import re

from lxml import etree
from lxml.html import defs

from ragline.errors import PermanentError
from services.ingest.cleaning import clean, unwrap
from services.ingest.parsing.decoding import decode
from services.ingest.parsing.document import BlockKind, Outline

_DECLARED = re.compile(rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_NEVER_TEXT = (
    "audio",
    "canvas",
    "iframe",
    "noscript",
    "object",
    "script",
    "style",
    "svg",
    "template",
    "video",
)
_SKIPPED = frozenset({"button", "datalist", "dialog", "head", "input", "option", "progress", "select", "textarea"})
_NAVIGATION = frozenset({"nav", "menu"})
_NAVIGATION_ROLES = frozenset({"navigation", "contentinfo", "search", "banner", "menu", "menubar"})
_INLINE = (
    defs.phrase_tags
    | defs.font_style_tags
    | defs.special_inline_tags
    | {"bdi", "data", "label", "mark", "math", "nobr", "rp", "rt", "ruby", "time", "wbr"}
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_LAYOUT = etree.XPath("boolean(.//table|.//h1|.//h2|.//h3|.//h4|.//h5|.//h6|.//pre) or @role='presentation'")
_MAIN = etree.XPath("//main|//*[@role='main'][not(self::main)]")
_PERMALINK = " \u00b6#"


def read_html(content: bytes | str, charset: str | None) -> Outline:
    """Read a page: its main part where it marks one, else its body."""
    declared = _DECLARED.search(content[:2048]) if isinstance(content, bytes) else None
    text = clean(decode(content, declared=charset or (declared[1].decode("ascii", "replace") if declared else None)))
    outline = Outline()
    root = _tree(text)
    if root is None:
        return outline
    title = root.find(".//head/title")
    outline.fallback_title = None if title is None else title.text
    outline.language = root.get("lang") or root.get("{http://www.w3.org/XML/1998/namespace}lang")
    if not _Walk(outline).page(_main_part(root)):
        _Walk(outline, keep_navigation=True).page(root)
    return outline


def add_html(outline: Outline, fragment: str, *, line: int | None) -> None:
    """Append what a fragment within another format shows; all of it gets that one line."""
    root = _tree(fragment)
    if root is not None:
        _Walk(outline, keep_navigation=True, line=line).page(root)


def _tree(text: str) -> etree._Element | None:
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, huge_tree=True)
    try:
        root = etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError:  # markup without a single element
        root = None
    errors = {entry.type for entry in parser.error_log}
    if etree.ErrorTypes.ERR_NO_MEMORY in errors:
        raise MemoryError
    if etree.ErrorTypes.ERR_RESOURCE_LIMIT in errors:
        raise PermanentError(
            "the markup nests too deeply for all of its text to be read; flatten it or publish its text",
            reason="NESTED_TOO_DEEPLY",
        )
    if root is not None:
        etree.strip_elements(root, *_NEVER_TEXT, with_tail=False)
    return root


def _main_part(root: etree._Element) -> etree._Element:
    for found in (_MAIN(root), root.findall(".//article")):
        if len(found) == 1 and _visible(found[0]):
            return found[0]
    return root


def _visible(element: etree._Element) -> str:
    """All text within, on one line."""
    return unwrap(clean("".join(element.itertext(etree.Element))))


class _Walk:
    """Walks one page without recursion (markup may nest by the thousand) and keeps what encloses it."""

    def __init__(self, outline: Outline, *, keep_navigation: bool = False, line: int | None = None) -> None:
        self._outline = outline
        self._keep_navigation = keep_navigation
        self._line_of_all = line
        self._line = line
        self._text: list[str] = []
        self._items: list[int | None] = []
        """One entry an open list: its next number, None for bullets."""
        self._quotes = 0
        self._marker = ""
        self._added = 0

    def page(self, root: etree._Element) -> int:
        """Walk everything below `root`; returns how many blocks and headings were found."""
        walk = etree.iterwalk(root, events=("start", "end"))
        skipped: etree._Element | None = None
        for event, element in walk:
            if event == "start":
                if self._start(element):
                    self._text.append(element.text or "")
                else:
                    skipped = element
                    walk.skip_subtree()
                continue
            if element is not skipped:
                self._end(element.tag)
            skipped = None
            if element is not root:
                self._text.append(element.tail or "")
        self._flush()
        return self._added

    def _start(self, element: etree._Element) -> bool:
        """Enter an element; False when it is dealt with or not shown."""
        tag = element.tag
        if self._not_shown(element):
            return False
        if tag == "a":
            self._outline.link(element.get("href"))
        if tag == "br":
            self._text.append("\n")
        if tag in _INLINE:
            return True
        self._flush()
        self._line = self._line_of_all or element.sourceline
        if tag in _HEADINGS:
            self._links_within(element)
            self._outline.heading(_HEADINGS[tag], _visible(element).rstrip(_PERMALINK), line=self._line)
            self._added += 1
            return False
        if tag == "pre":
            self._add("code", "".join(element.itertext(etree.Element)))
            return False
        if tag == "table" and not _LAYOUT(element):
            self._links_within(element)
            self._add("table", _rows(element))
            return False
        self._enclose(tag, element)
        return True

    def _not_shown(self, element: etree._Element) -> bool:
        tag = element.tag
        if tag in _SKIPPED or element.get("hidden") is not None or element.get("aria-hidden") == "true":
            return True
        if _HIDDEN_STYLE.search(element.get("style", "")):
            return True
        if self._keep_navigation:
            return False
        if tag == "footer":
            return next(element.iterancestors("article", "main", "blockquote"), None) is None
        return tag in _NAVIGATION or element.get("role") in _NAVIGATION_ROLES

    def _enclose(self, tag: str, element: etree._Element) -> None:
        if tag in ("ul", "dl"):
            self._items.append(None)
        elif tag == "ol":
            start = element.get("start", "")
            self._items.append(int(start) if start.isdecimal() and len(start) < 7 else 1)
        elif tag == "blockquote":
            self._quotes += 1
        elif tag == "dt":
            self._marker = "- "
        elif tag == "li":
            number = self._items[-1] if self._items else None
            self._marker = "- " if number is None else f"{number}. "
            if number is not None:
                self._items[-1] = number + 1

    def _end(self, tag: str) -> None:
        if tag in _INLINE:
            return
        self._flush()
        if tag in ("ul", "ol", "dl") and self._items:
            self._items.pop()
        elif tag == "blockquote":
            self._quotes -= 1

    def _flush(self) -> None:
        """Close the block that inline text has gathered."""
        text = unwrap(clean("".join(self._text)))
        self._text.clear()
        if not text:
            return
        if self._items or self._marker:
            indent = "  " * max(0, len(self._items) - 1)
            self._add("list", f"{indent}{self._marker or '  '}{text}")
            self._marker = ""
        else:
            self._add("quote" if self._quotes else "paragraph", text)

    def _add(self, kind: BlockKind, text: str) -> None:
        self._outline.add(kind, text, line=self._line)
        self._added += bool(text.strip())

    def _links_within(self, element: etree._Element) -> None:
        for link in element.iter("a"):
            self._outline.link(link.get("href"))


def _rows(table: etree._Element) -> str:
    """A table as lines: its caption, then one row a line with its cells between bars."""
    lines = [_visible(caption) for caption in table.findall("caption")]
    lines += [" | ".join(map(_visible, row.iterchildren("td", "th"))) for row in table.iter("tr")]
    return "\n".join(line for line in lines if line.strip(" |"))
