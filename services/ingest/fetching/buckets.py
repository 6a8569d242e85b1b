"""Reading objects of S3 and Google Cloud Storage, within allowed buckets and folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from services.ingest.fetching.fetched import (
    Fetched,
    not_found,
    refused,
    storable,
    telling_type,
    too_large,
    unavailable,
)
from services.ingest.fetching.stores import open_store, store_errors

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

BUCKET_SCHEMES = ("s3", "gs")
_CONTENT_TYPES = ("ContentType", "contentType")
_ETAGS = ("ETag", "etag")

OpenStore = Callable[[str], "AbstractFileSystem"]


def read_object(ref: str, allowed: Sequence[str], most_bytes: int, *, open_store: OpenStore = open_store) -> Fetched:
    """The content of `s3://bucket/key` or `gs://bucket/key`; the key is taken as it is written. Blocking.

    `allowed` are such URLs of buckets or of folders within. Raises PermanentError (refused, not found, too
    large) and TransientError for a store that fails.
    """
    protocol = ref.partition(":")[0].lower()
    location = _location(ref)
    if not any(_within(protocol, location, prefix) for prefix in allowed):
        raise refused(ref, "it lies outside of the allowed buckets (RAGLINE_INGEST__CONTENT_BUCKETS)")
    try:
        store = open_store(protocol)
        details = store.info(location)
        if details.get("type") == "directory":
            raise refused(ref, "it is a folder, not an object")
        content = _read(ref, store, location, details.get("size"), most_bytes)
    except FileNotFoundError as error:
        raise not_found(ref, "there is no such object") from error
    except PermissionError as error:
        raise refused(ref, "the store does not let ingest read it") from error
    except store_errors(protocol) as error:
        raise unavailable(ref, f"the store failed ({type(error).__name__})") from error
    return Fetched(content, telling_type(_first(details, _CONTENT_TYPES)), storable(_first(details, _ETAGS)), ref)


def _location(ref: str) -> str:
    """`bucket/key`; keys that some client on the way would rewrite are refused."""
    location = ref.partition(":")[2].removeprefix("//")
    bucket, _, key = location.partition("/")
    if not bucket or not key or not ref.partition(":")[2].startswith("//"):
        raise refused(ref, "write it as s3://bucket/key or gs://bucket/key")
    if "@" in bucket or not location.isprintable() or {".", ".."}.intersection(location.split("/")):
        raise refused(ref, "its bucket or key holds what may not be in one: @, control characters, . or .. as a part")
    return location


def _within(protocol: str, location: str, prefix: str) -> bool:
    allowed_protocol, _, allowed = prefix.partition("://")
    allowed = allowed.rstrip("/")
    return protocol == allowed_protocol.lower() and (location == allowed or location.startswith(f"{allowed}/"))


def _read(ref: str, store: AbstractFileSystem, location: str, size: int | None, most_bytes: int) -> bytes:
    if size == 0:  # a range of nothing is an error to S3
        return b""
    if size is not None and size > most_bytes:
        raise too_large(ref, most_bytes)
    content: bytes = store.cat_file(location, start=0, end=most_bytes + 1)
    if len(content) > most_bytes:
        raise too_large(ref, most_bytes)
    return content


def _first(details: dict[str, Any], names: Sequence[str]) -> str | None:
    return next((str(details[name]) for name in names if details.get(name)), None)
