"""Parsing: from the bytes of any supported format to ordered blocks under their headings.

One module a format; `sniffing` finds out which it is, `registry` calls the parser.
"""

from services.ingest.parsing.document import Block, BlockKind, ParsedDocument
from services.ingest.parsing.registry import BINARY_PARSERS, TEXT_PARSERS, parse

__all__ = ["BINARY_PARSERS", "TEXT_PARSERS", "Block", "BlockKind", "ParsedDocument", "parse"]
