"""Parsing: from bytes of any supported format to ordered blocks under their headings.

One module a format (`text`, `markdown`, `rst`, `html`); `registry` maps content types to them.
"""

from services.ingest.parsing.document import Block, BlockKind, ParsedDocument
from services.ingest.parsing.registry import PARSERS, parse

__all__ = ["PARSERS", "Block", "BlockKind", "ParsedDocument", "parse"]
