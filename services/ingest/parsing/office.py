"""Office packages (zip files of XML), opened only within bounds, and what their libraries raise."""

from __future__ import annotations

import io
import re
import zipfile
import zlib

from lxml import etree

from ragline.errors import PermanentError

_MOST_ENTRIES = 10_000
_UNPACKED_BYTES = 200_000_000
_XML_BYTES = 32_000_000
"""The tree of XML takes about ten times its bytes."""
_RATIO_FROM_BYTES = 10_000_000
_RATIO = 100
"""Written documents pack to a fifth or a tenth; what packs to less than a hundredth was made to do harm."""
_XML_SUFFIXES = (".xml", ".rels", ".vml")

ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)
"""What reading a damaged, encrypted or strangely packed zip file raises."""
PACKAGE_FAULTS = (*ZIP_FAULTS, etree.LxmlError, KeyError, ValueError, TypeError, AttributeError, IndexError)
"""What python-docx and python-pptx are known to raise on a package that does not hold what it should."""

_NO_TITLE = re.compile(
    r"(?:untitled|unnamed|unbenannt|sans titre|sin título|無題|document ?\d*|(?:powerpoint )?presentation ?\d*"
    r"|(?:microsoft (?:word|powerpoint|excel) - .*)|.*\.(?:docx?|pptx?|xlsx?|pdf|indd|tex|dvi|odt|rtf|pages|qxd))",
    re.IGNORECASE,
)
"""What programs write where the author gave no title."""


def package(content: bytes) -> io.BytesIO:
    """The content as a file for the libraries, once its table of contents promises to stay within bounds.

    zipfile never unpacks more of an entry than that table says, so a lie in it is no way around the bounds.
    Raises PermanentError: PARSE_TOO_LARGE or UNREADABLE_DOCUMENT.
    """
    file = io.BytesIO(content)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except ZIP_FAULTS as error:
        raise unreadable(error) from error
    unpacked = sum(entry.file_size for entry in entries)
    largest = max((e.file_size for e in entries if e.filename.lower().endswith(_XML_SUFFIXES)), default=0)
    if unpacked > _RATIO_FROM_BYTES and unpacked > _RATIO * len(content):
        raise _too_large(f"{len(content):,} bytes unpack to {unpacked:,}, as only a zip bomb's do")
    if unpacked > _UNPACKED_BYTES or largest > _XML_BYTES or len(entries) > _MOST_ENTRIES:
        raise _too_large(
            f"unpacked it has {unpacked:,} bytes in {len(entries):,} files, at most {_UNPACKED_BYTES:,} in "
            f"{_MOST_ENTRIES:,} are read, and at most {_XML_BYTES:,} of one XML file; split it"
        )
    file.seek(0)
    return file


def unreadable(error: Exception) -> PermanentError:
    """The refusal of a file that its library cannot read; raises MemoryError when that was why."""
    if getattr(error, "code", None) == etree.ErrorTypes.ERR_NO_MEMORY:
        raise MemoryError from error
    said = " ".join(str(error).split())[:150] or type(error).__name__
    return PermanentError(f"the file is damaged or not what it claims to be ({said})", reason="UNREADABLE_DOCUMENT")


def given_title(title: str | None) -> str | None:
    """A title of a file's properties, unless a program made it up."""
    title = " ".join((title or "").split())
    return None if not title or _NO_TITLE.fullmatch(title) else title


def _too_large(why: str) -> PermanentError:
    return PermanentError(f"the file is not unpacked: {why}", reason="PARSE_TOO_LARGE")
