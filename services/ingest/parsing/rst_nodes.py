"""From docutils' tree to an outline."""

from __future__ import annotations

import re
from collections.abc import Callable
from textwrap import dedent

from docutils import nodes

from services.ingest.cleaning import clean, unwrap
from services.ingest.parsing.document import BlockKind, Outline

_UNKNOWN_ROLE = re.compile(r":([\w.+:-]+):`(?:([^`<]*?)\s*<[^`>]*>|([^`]*))`|`([^`]*)`:[\w.+:-]+:")
_DIRECTIVE = re.compile(r"\.\. ([\w.:+-]+?)::(?:[ \t]+(.*))?$")
_OPTION = re.compile(r"[ \t]+:[\w-]+:(?:[ \t]|$)")
_CODE_DIRECTIVES = frozenset(
    {"code", "code-block", "sourcecode", "parsed-literal", "productionlist", "doctest", "testcode", "prompt"}
)
_ERROR_LEVEL = 3
"""From here on docutils drops the text that it complains about; milder complaints keep it in the tree."""
_RECOVERIES = 5

_SILENT = (nodes.comment, nodes.substitution_definition, nodes.pending, nodes.meta, nodes.raw, nodes.colspec)
_CODE = (nodes.literal_block, nodes.doctest_block, nodes.math_block)


class NodeWalk:
    """Walks a document in reading order and keeps what encloses the present node.

    `parse` makes a tree of text that docutils refused within an unknown directive; `line` is then the line
    of that directive, given to all that is found in it.
    """

    def __init__(
        self,
        outline: Outline,
        parse: Callable[[str], nodes.document | None],
        *,
        line: int | None = None,
        level: int = 0,
        recovered: int = 0,
    ) -> None:
        self._outline = outline
        self._parse = parse
        self._line_of_all = line
        self._line = line
        self._level = level
        self._recovered = recovered
        self._depth = 0
        """How many lists are open."""
        self._quotes = 0
        self._lead = ""
        """What stands before the next paragraph: a list item's marker, a term, a footnote's label."""
        self._document: nodes.document | None = None

    def walk(self, tree: nodes.document) -> None:
        """Add the whole tree to the outline."""
        self._document = tree
        self._children(tree)

    def _children(self, node: nodes.Element) -> None:
        for child in node.children:
            if isinstance(child, nodes.Element):
                self._node(child)

    def _node(self, node: nodes.Element) -> None:
        self._line = self._line_of_all or node.line or self._line
        if isinstance(node, _SILENT):
            return
        if isinstance(node, nodes.system_message):
            self._recover(node)
        elif isinstance(node, nodes.section):
            self._level += 1
            self._children(node)
            self._level -= 1
        elif isinstance(node, _CODE):
            self._code(node)
        elif isinstance(node, nodes.table):
            self._table(node)
        elif isinstance(node, nodes.line_block):
            self._add(self._prose_kind(), self._verse(node))
        elif not self._enclosing(node):
            self._text_node(node)

    def _enclosing(self, node: nodes.Element) -> bool:
        """Walk an element that says something about the paragraphs within it; False for another."""
        if isinstance(
            node,
            (
                nodes.bullet_list,
                nodes.enumerated_list,
                nodes.definition_list,
                nodes.field_list,
                nodes.option_list,
            ),
        ):
            self._depth += 1
            self._items(node)
            self._depth -= 1
        elif isinstance(node, nodes.block_quote):
            self._quotes += 1
            self._children(node)
            self._quotes -= 1
        elif isinstance(node, (nodes.footnote, nodes.citation)):
            label = next((child.astext() for child in node.children if isinstance(child, nodes.label)), "")
            self._item(node, f"[{label}] " if label else "", spoken=True)
        else:
            return False
        return True

    def _items(self, node: nodes.Element) -> None:
        number = int(node.get("start", 1)) if node.get("enumtype") == "arabic" else None
        for item in node.children:
            if not isinstance(item, nodes.Element):
                continue
            if isinstance(node, (nodes.bullet_list, nodes.enumerated_list)):
                self._item(item, "- " if number is None else f"{number}. ", spoken=False)
                number = None if number is None else number + 1
            else:
                named = (nodes.term, nodes.classifier, nodes.field_name, nodes.option_group)
                parts = [self._inline(child) for child in item.children if isinstance(child, named)]
                self._item(item, f"- {unwrap(' : '.join(filter(None, parts)))}: ", spoken=True)

    def _item(self, item: nodes.Element, lead: str, *, spoken: bool) -> None:
        """Walk one item; a spoken lead is text of its own and stays when no paragraph follows it."""
        self._lead = lead
        for child in item.children:
            if isinstance(child, (nodes.label, nodes.term, nodes.classifier, nodes.field_name, nodes.option_group)):
                self._line = self._line_of_all or child.line or self._line
                continue
            if spoken and self._lead == lead and not _begins_with_text(child):
                self._text("")
            if isinstance(child, nodes.Element):
                self._node(child)
        if spoken and self._lead == lead:
            self._text("")
        self._lead = ""

    def _text_node(self, node: nodes.Element) -> None:
        if isinstance(node, nodes.title) and isinstance(node.parent, nodes.section):
            self._outline.heading(self._level, self._inline(node), line=self._line)
        elif isinstance(node, nodes.target):
            self._outline.link(node.get("refuri"))
        elif isinstance(node, nodes.image):
            self._text(str(node.get("alt", "")))
        elif isinstance(node, nodes.TextElement):
            self._text(self._inline(node))
        else:
            self._children(node)

    def _prose_kind(self) -> BlockKind:
        if self._depth:
            return "list"
        return "quote" if self._quotes else "paragraph"

    def _text(self, text: str) -> None:
        """Add a paragraph, indented and marked by the lists that it is in."""
        text = unwrap(clean(text))
        lead = self._lead
        if not text and not lead.strip():
            return
        self._lead = ""
        indented = "  " * (self._depth - 1) + (lead or "  ") if self._depth else lead
        self._add(self._prose_kind(), (indented + text).rstrip())

    def _add(self, kind: BlockKind, text: str) -> None:
        self._outline.add(kind, text, line=self._line)

    def _code(self, node: nodes.Element) -> None:
        text = node.astext()
        if node.line and not self._line_of_all and "code" in node.get("classes", ()):
            self._line = max(1, node.line - text.count("\n") - 1)  # directives note where they end
        self._add("code", text)

    def _verse(self, block: nodes.Element) -> str:
        lines = [
            self._verse(child) if isinstance(child, nodes.line_block) else unwrap(self._inline(child))
            for child in block.children
            if isinstance(child, nodes.Element)
        ]
        return "\n".join(lines)

    def _table(self, table: nodes.Element) -> None:
        lines = [unwrap(self._inline(child)) for child in table.children if isinstance(child, nodes.title)]
        for row in table.findall(nodes.row):
            cells = [child for child in row.children if isinstance(child, nodes.Element)]
            lines.append(" | ".join(unwrap(clean(self._inline(cell))) for cell in cells))
        self._add("table", "\n".join(line for line in lines if line.strip(" |")))

    def _inline(self, node: nodes.Node) -> str:
        """What a reader sees of a node's text; where it points to goes to the outline's links."""
        if isinstance(node, nodes.Text):
            return node.astext()
        if isinstance(node, (nodes.system_message, nodes.raw)) or not isinstance(node, nodes.Element):
            return ""
        if isinstance(node, nodes.image):
            return str(node.get("alt", ""))
        if isinstance(node, nodes.problematic):
            return _UNKNOWN_ROLE.sub(_role_text, node.astext())
        if isinstance(node, nodes.substitution_reference):
            return self._substitution(node)
        if isinstance(node, (nodes.reference, nodes.target)):
            self._outline.link(node.get("refuri"))
        text = "".join(map(self._inline, node.children))
        if isinstance(node, (nodes.footnote_reference, nodes.citation_reference)):
            return f"[{text}]" if text else ""
        return text if isinstance(node, nodes.Inline) else f" {text} "

    def _substitution(self, node: nodes.Element) -> str:
        name = str(node.get("refname", ""))
        tree = self._document
        if tree is None:
            return node.astext()
        definition = tree.substitution_defs.get(tree.substitution_names.get(name.lower(), name))
        return (definition.astext() if definition is not None else "") or node.astext()

    def _recover(self, message: nodes.system_message) -> None:
        """Keep the text that docutils put into a complaint instead of the document."""
        source = next((child.astext() for child in message.children if isinstance(child, nodes.literal_block)), "")
        if not source or int(message.get("level", 0)) < _ERROR_LEVEL:
            return
        self._line = self._line_of_all or message.get("line") or self._line
        first, *rest = source.split("\n")
        match = _DIRECTIVE.match(first)
        if match is None:
            lines = [line for line in (first, *rest) if re.search(r"\w", line)]
            self._add("code" if len(lines) > 2 else "paragraph", "\n".join(lines))
            return
        body = [line for line in rest if not _OPTION.match(line)] if rest and _OPTION.match(rest[0]) else rest
        text = dedent("\n".join(body))
        if match[1].lower() in _CODE_DIRECTIVES:
            self._add("code", text)
            return
        self._text(match[2] or "")
        tree = self._parse(text) if text.strip() and self._recovered < _RECOVERIES else None
        if tree is None:
            self._add("paragraph", text)
            return
        NodeWalk(self._outline, self._parse, line=self._line, level=self._level, recovered=self._recovered + 1).walk(
            tree
        )


def _begins_with_text(node: nodes.Node) -> bool:
    """Whether the first thing in a list item, definition or field body is a paragraph."""
    while isinstance(node, (nodes.definition, nodes.field_body, nodes.description)) and node.children:
        node = node.children[0]
    return isinstance(node, nodes.paragraph)


def _role_text(match: re.Match[str]) -> str:
    """The text of `:role:`text``, `:role:`text <target>`` and `` `text`:role: ``; raw roles have none."""
    if (match[1] or "").startswith("raw"):
        return ""
    return (match[2] or match[3] or match[4] or "").lstrip("~!")
