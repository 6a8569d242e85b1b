"""The claim check: fetching content that is too large to travel inline, from where it may be fetched."""

from __future__ import annotations

import asyncio
import re
import time

import stamina

from ragline.errors import ConfigurationError, PermanentError, TransientError
from services.ingest.blocking import BlockingCalls
from services.ingest.fetching import web
from services.ingest.fetching.buckets import BUCKET_SCHEMES, OpenStore, read_object
from services.ingest.fetching.fetched import Fetched, refused, unavailable
from services.ingest.fetching.files import read_file
from services.ingest.fetching.stores import open_store, require_package
from services.ingest.settings import IngestSettings

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_MEGABYTE = 1 << 20
_LONGEST_REF = 4096
_MOST_REMEMBERED = 10_000


class ClaimCheck:
    """Fetches by reference: `file:` and paths, `https:`, `http:`, `s3:` and `gs:`, each as the settings allow.

    Nothing else can be reached: no private or link-local address, no folder or bucket that is not named.
    Raises ConfigurationError for a bucket whose package is missing.
    """

    def __init__(
        self,
        settings: IngestSettings,
        *,
        resolve: web.Resolve = web.system_addresses,
        open_store: OpenStore = open_store,
    ) -> None:
        for bucket in settings.content_buckets:
            scheme, separator, _ = bucket.partition("://")
            if scheme not in BUCKET_SCHEMES or not separator:
                raise ConfigurationError(
                    f"RAGLINE_INGEST__CONTENT_BUCKETS: {bucket!r} is no s3://bucket/folder or gs://bucket/folder"
                )
            require_package(scheme, setting="RAGLINE_INGEST__CONTENT_BUCKETS")
        self._roots = tuple(root.expanduser().absolute() for root in settings.content_roots)
        self._buckets = tuple(settings.content_buckets)
        self._most_bytes = settings.content_max_mb * _MEGABYTE
        self._policy = web.WebPolicy(
            hosts=tuple(host.lower() for host in settings.content_hosts),
            private_hosts=tuple(host.lower() for host in settings.content_private_hosts),
            ports=tuple(settings.content_ports),
            plain_http=settings.allow_http,
            most_bytes=self._most_bytes,
            connect_timeout_s=settings.content_connect_timeout_s,
        )
        self._timeout_s = settings.content_timeout_s
        self._attempts = settings.content_attempts
        self._patience = _Patience(settings.content_retry_for_s)
        self._resolve = resolve
        self._open_store = open_store
        self._calls = BlockingCalls("fetching content", most=8, timeout_s=self._timeout_s)

    async def fetch(self, content_ref: str) -> Fetched:
        """The content; within the deadline, what may succeed a moment later is tried again.

        Raises PermanentError with the reason CONTENT_REF_REFUSED, CONTENT_TOO_LARGE or CONTENT_NOT_FOUND, and
        TransientError when a server, store or disk fails or is too slow; when that goes on for longer than the
        settings allow, CONTENT_UNAVAILABLE, so that one dead server does not hold up everybody's documents.
        """
        try:
            fetched = await self._fetch_in_time(content_ref)
        except TransientError as error:
            self._patience.judge(content_ref, error)
            raise
        except PermanentError:
            self._patience.forget(content_ref)
            raise
        self._patience.forget(content_ref)
        return fetched

    async def _fetch_in_time(self, content_ref: str) -> Fetched:
        try:
            async with asyncio.timeout(self._timeout_s):
                async for attempt in stamina.retry_context(
                    on=TransientError, attempts=self._attempts, timeout=None, wait_initial=0.2, wait_jitter=0.2
                ):
                    with attempt:
                        return await self._fetch_once(content_ref)
        except TimeoutError as error:
            raise unavailable(content_ref, f"it takes longer than {self._timeout_s:g} s") from error
        raise AssertionError("stamina always returns or raises")

    async def _fetch_once(self, ref: str) -> Fetched:
        if len(ref) > _LONGEST_REF:
            raise refused(ref, f"it is longer than {_LONGEST_REF} characters")
        match = _SCHEME.match(ref)
        scheme = match[1].lower() if match else "file" if ref.startswith("/") else ""
        if scheme == "file":
            return await self._calls.run(lambda: read_file(ref, self._roots, self._most_bytes))
        if scheme in BUCKET_SCHEMES:
            return await self._calls.run(
                lambda: read_object(ref, self._buckets, self._most_bytes, open_store=self._open_store)
            )
        if scheme in ("http", "https"):
            return await web.get(ref, self._policy, resolve=self._resolve)
        raise refused(ref, "only file:, https:, s3: and gs: can be fetched, and http: where it is allowed")


class _Patience:
    """Since when each reference fails, in this process: the bus delivers a change again until it is settled."""

    def __init__(self, retry_for_s: float) -> None:
        self._retry_for_s = retry_for_s
        self._since: dict[str, float] = {}

    def judge(self, ref: str, error: TransientError) -> None:
        """Note a failure; raises PermanentError when the reference has failed for too long."""
        failing_s = time.monotonic() - self._since.setdefault(ref, time.monotonic())
        if failing_s < self._retry_for_s:
            if len(self._since) > _MOST_REMEMBERED:
                del self._since[next(iter(self._since))]
            return
        self.forget(ref)
        raise PermanentError(
            f"{error}; given up after {failing_s:.0f} s, replay it once it can be fetched", reason="CONTENT_UNAVAILABLE"
        ) from error

    def forget(self, ref: str) -> None:
        """The reference is settled."""
        self._since.pop(ref, None)
