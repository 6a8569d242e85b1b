"""Turning bytes of any encoding into text."""

from __future__ import annotations

import codecs

from charset_normalizer import from_bytes

from ragline.errors import PermanentError

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_REFUSED_CODECS = frozenset({"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape", "utf-7"})
_BINARY_CONTROLS = bytes(code for code in range(0x20) if code not in b"\t\n\v\f\r\x1b")
_BINARY_SHARE = 0.02
_SAMPLE_BYTES = 200_000
_DAMAGED_SHARE = 0.1


def decode(content: bytes | str, *, declared: str | None = None) -> str:
    """The text of `content`; `declared` is the encoding that its sender or its own markup names.

    In order: a byte order mark, strict UTF-8 (which text of another encoding practically never is), the
    declared encoding, UTF-8 with a few damaged bytes, and the likeliest encoding by its characters.
    Raises PermanentError (UNSUPPORTED_CONTENT_TYPE) when the bytes are no text.
    """
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, errors="replace")
    wide = _wide_encoding(content)
    if wide is not None:
        return content.decode(wide, errors="replace")
    if len(content) - len(content.translate(None, _BINARY_CONTROLS)) > _BINARY_SHARE * len(content):
        raise PermanentError(
            "the content is binary, not text: name its content type or publish its text",
            reason="UNSUPPORTED_CONTENT_TYPE",
        )
    return _strictly(content, "utf-8") or _strictly(content, declared) or _damaged_utf8(content) or _likeliest(content)


def _wide_encoding(content: bytes) -> str | None:
    """UTF-16 without a mark: Latin text has a zero in every second byte."""
    sample = content[:4096]
    if len(sample) < 8 or len(sample) % 2:
        return None
    zeros_even, zeros_odd = sample[::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if zeros_odd > 0.7 * half and zeros_even < 0.1 * half:
        return "utf-16-le"
    if zeros_even > 0.7 * half and zeros_odd < 0.1 * half:
        return "utf-16-be"
    return None


def _strictly(content: bytes, encoding: str | None) -> str | None:
    try:
        name = codecs.lookup(encoding or "").name
        return None if name in _REFUSED_CODECS else content.decode(name)
    except (LookupError, UnicodeError, ValueError):
        return None


def _damaged_utf8(content: bytes) -> str | None:
    """UTF-8 in which few of the characters beyond ASCII are broken; None for another encoding."""
    text = content.decode("utf-8", errors="replace")
    broken = text.count("\ufffd")
    whole = len(text) - len(text.encode("ascii", errors="ignore")) - broken
    return text if broken <= _DAMAGED_SHARE * whole else None


def _likeliest(content: bytes) -> str:
    best = from_bytes(content[:_SAMPLE_BYTES]).best()
    return content.decode(best.encoding if best is not None else "utf-8", errors="replace")
