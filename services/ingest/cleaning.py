"""Cleaning text so that equal content has equal characters, whatever its source did to it.

Every rule looks at one line and its nearest characters only: an edit never changes how another part of
the document is cleaned, and so never re-embeds it.
"""

from __future__ import annotations

import re
import unicodedata

import ftfy

_FTFY = ftfy.TextFixerConfig(
    unescape_html=False,
    uncurl_quotes=False,
    fix_character_width=False,
    fix_latin_ligatures=True,
    normalization="NFC",
    explain=False,
)

_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_INVISIBLE = (
    "\u00ad\u034f\u061c\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\ufeff"
)
_FULL_WIDTH = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\f\v"}
_TABLE: dict[int, int | str | None] = {
    **_CONTROLS,
    **_FULL_WIDTH,
    **dict.fromkeys(map(ord, _INVISIBLE)),
    **dict.fromkeys(range(0xE0000, 0xE0080)),  # tag characters: text that a model reads and a person does not see
    **dict.fromkeys(map(ord, _SPACES + "\f\v"), " "),
}
_TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NEEDLESS_JOINER = re.compile("(?<![\u0590-\U0001ffff])[\u200c\u200d]+|[\u200c\u200d]+(?![\u0590-\U0001ffff])")
_CJK = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"
_CJK_LINE_BREAK = re.compile(f"(?<=[{_CJK}])[ \t]*\n[ \t]*(?=[{_CJK}])")


def clean(text: str) -> str:
    """The text with damage mended and invisible characters gone; its lines and their indentation stay.

    Mends mojibake, normalises to NFC (with plain ligatures and full-width letters and digits), turns every
    kind of space into a space and every kind of line break into a newline, and removes control
    characters, soft hyphens, zero-width and bidirectional marks and trailing white space. Joiners stay
    where scripts and emoji need them.
    """
    text = _TERMINAL_ESCAPE.sub("", text)
    if not text.isascii():
        text = "\n".join(line if line.isascii() else ftfy.fix_text(line, _FTFY) for line in text.split("\n"))
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_TABLE)
    if not text.isascii():
        text = unicodedata.normalize("NFC", _NEEDLESS_JOINER.sub("", text))
    return "\n".join(line.rstrip() for line in text.split("\n"))


def unwrap(text: str) -> str:
    """Prose as one line of single spaces, so that wrapping it anew changes nothing.

    Lines that break between two Chinese or Japanese characters are joined without a space.
    """
    return " ".join(_CJK_LINE_BREAK.sub("", text).split())
