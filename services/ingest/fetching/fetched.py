"""What fetching yields, and the errors that say why it does not, in one line without secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ragline.errors import PermanentError, TransientError

_SHOWN_CHARACTERS = 200
_SAYS_NOTHING = frozenset({"application/octet-stream", "binary/octet-stream", "application/x-unknown"})


@dataclass(frozen=True, slots=True)
class Fetched:
    """Content as it was fetched; `final_url` is where it lay after redirects, without the query (it may be secret).

    `content_type` is None where the place names none, or one that says nothing.
    """

    content: bytes
    content_type: str | None
    etag: str | None
    final_url: str


def shown(ref: str) -> str:
    """A reference as errors show it: no credentials, query, fragment or control characters, and not too long."""
    ref = ref.encode("utf-8", "replace").decode()
    ref = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+", " ", ref)
    ref = re.sub(r"[?#].*", "", ref)
    ref = re.sub(r"^([a-zA-Z][\w+.-]*:/*)[^/]*@", r"\1", ref)
    return ref if len(ref) <= _SHOWN_CHARACTERS else ref[: _SHOWN_CHARACTERS - 1] + "…"


def refused(ref: str, why: str) -> PermanentError:
    """The reference names what must not be reached, or cannot be read as one."""
    return PermanentError(f"content_ref {shown(ref)!r} is refused: {why}", reason="CONTENT_REF_REFUSED")


def not_found(ref: str, why: str = "there is no such file") -> PermanentError:
    """Nothing lies there."""
    return PermanentError(f"content_ref {shown(ref)!r} was not found: {why}", reason="CONTENT_NOT_FOUND")


def too_large(ref: str, most_bytes: int) -> PermanentError:
    """The content exceeds the limit; no more than the limit was read."""
    return PermanentError(
        f"content_ref {shown(ref)!r} holds more than {most_bytes:,} bytes (RAGLINE_INGEST__CONTENT_MAX_MB)",
        reason="CONTENT_TOO_LARGE",
    )


def unavailable(ref: str, why: str) -> TransientError:
    """It may be there later."""
    return TransientError(f"content_ref {shown(ref)!r} cannot be fetched now: {why}")


def telling_type(content_type: str | None) -> str | None:
    """The content type that a place names; None when it says nothing."""
    content_type = storable(content_type)
    name = (content_type or "").partition(";")[0].strip().lower()
    return content_type if name and name not in _SAYS_NOTHING else None


def storable(header: str | None) -> str | None:
    """What a place says, if it is short printable ASCII, as all that is worth keeping is."""
    header = (header or "").strip()
    return header if header and len(header) <= _SHOWN_CHARACTERS and header.isascii() and header.isprintable() else None
