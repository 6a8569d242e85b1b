"""Fetching over HTTP(S) from public hosts, and from private ones only where a setting names them.

Every URL, each redirect's too, is checked and its host resolved once; the connection is made to a checked
address and to no other, so that a name which resolves otherwise a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ragline.errors import RaglineError
from services.ingest.fetching.addresses import refusal
from services.ingest.fetching.fetched import (
    Fetched,
    not_found,
    refused,
    shown,
    storable,
    telling_type,
    too_large,
    unavailable,
)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The numeric addresses of a host; raises socket.gaierror."""

MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_TRY_AGAIN = (408, 425, 429)
_PIECE_BYTES = 1 << 16
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f\\]")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_NUMERIC = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")
"""A name whose last label is a number: browsers and C libraries read it as an IPv4 address."""
_NO_SUCH_HOST = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


@dataclass(frozen=True, slots=True)
class WebPolicy:
    """Which URLs may be fetched.

    `hosts` are names, `*.example.org` for all below one, `*` for any. Those in `private_hosts` may be fetched
    too, and may have private addresses.
    """

    hosts: Sequence[str]
    private_hosts: Sequence[str]
    ports: Sequence[int]
    plain_http: bool
    most_bytes: int
    connect_timeout_s: float


async def system_addresses(host: str, port: int) -> list[str]:
    """The host's addresses as the operating system resolves them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


async def get(ref: str, policy: WebPolicy, *, resolve: Resolve = system_addresses) -> Fetched:
    """The content of an `https:` URL, or an `http:` one where that is allowed; no deadline but for connecting.

    Raises PermanentError (refused, not found, too large) and TransientError (server or network fails).
    """
    url = _parsed(ref, ref)
    for _ in range(MOST_REDIRECTS + 1):
        _check(ref, url, policy)
        addresses = await _checked_addresses(ref, url, policy, resolve)
        answer = await _answer(ref, url, addresses, policy)
        if isinstance(answer, Fetched):
            return answer
        url = _parsed(ref, answer, base=url)
    raise refused(ref, f"it redirects more than {MOST_REDIRECTS} times")


def _parsed(ref: str, target: str, *, base: URL | None = None) -> URL:
    """The URL that a reference, or the redirect of `base` to `target`, names."""
    where = "it" if base is None else f"its redirect to {shown(target)!r}"
    if _NOT_IN_URLS.search(target):
        raise refused(ref, f"{where} holds a space, a control character or a backslash")
    try:
        url = URL(target) if base is None else base.join(URL(target))
        _ = url.port, url.host
    except (ValueError, UnicodeError) as error:
        raise refused(f"{ref.partition(':')[0]}:…", f"{where} is no valid URL") from error
    return url.with_fragment(None)


def _check(ref: str, url: URL, policy: WebPolicy) -> None:
    """Raise unless everything but the host's addresses is allowed."""
    where = f"{shown(str(url))!r}: "
    if url.scheme not in ("http", "https"):
        raise refused(ref, f"{where}only https: may be fetched over the web")
    if url.scheme == "http" and not policy.plain_http:
        raise refused(ref, f"{where}http: is not allowed (RAGLINE_INGEST__ALLOW_HTTP)")
    if url.raw_user is not None or url.raw_password is not None:
        raise refused(ref, "a URL must not carry credentials")
    host = _host(url)
    is_numeric = ":" in host or _NUMERIC.fullmatch(host) is not None
    if not is_numeric and not _NAME.fullmatch(host):
        raise refused(ref, f"{where}it names no host")
    if url.port not in policy.ports:
        raise refused(ref, f"{where}port {url.port} is not allowed (RAGLINE_INGEST__CONTENT_PORTS)")
    if host not in policy.private_hosts and not any(_matches(host, pattern) for pattern in policy.hosts):
        raise refused(ref, f"{where}the host is not allowed (RAGLINE_INGEST__CONTENT_HOSTS)")


def _host(url: URL) -> str:
    return (url.raw_host or "").lower().removesuffix(".")


def _matches(host: str, pattern: str) -> bool:
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


async def _checked_addresses(ref: str, url: URL, policy: WebPolicy, resolve: Resolve) -> Sequence[str]:
    """The host's addresses, all of them fit to connect to; a number as host is its own address."""
    host = _host(url)
    if ":" in host or _NUMERIC.fullmatch(host):
        addresses: Sequence[str] = [host]
    else:
        addresses = await _resolved(ref, host, url.port or 0, policy, resolve)
    for address in addresses:
        why = refusal(address, private_allowed=host in policy.private_hosts)
        if why is not None:
            told = "" if address == host else f" has the address {address}, which"
            raise refused(ref, f"host {host!r}{told} is {why}; only public addresses may be fetched from")
    return addresses


async def _resolved(ref: str, host: str, port: int, policy: WebPolicy, resolve: Resolve) -> Sequence[str]:
    try:
        async with asyncio.timeout(policy.connect_timeout_s):
            addresses = await resolve(host, port)
    except TimeoutError as error:
        raise unavailable(ref, f"host {host!r} is not resolved in {policy.connect_timeout_s:g} s") from error
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_HOST:
            raise not_found(ref, f"host {host!r} does not exist") from error
        raise unavailable(ref, f"host {host!r} cannot be resolved ({error.strerror})") from error
    except UnicodeError as error:
        raise refused(ref, "it names no host") from error
    if not addresses:
        raise not_found(ref, f"host {host!r} has no address")
    return addresses


class _Fixed(AbstractResolver):
    """Answers with the checked addresses, whatever it is asked."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""


async def _answer(ref: str, url: URL, addresses: Sequence[str], policy: WebPolicy) -> Fetched | str:
    """The content, or where the server redirects to. One connection, to one of the addresses."""

    def open_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, sockaddr = info
        if sockaddr[0] not in addresses:  # the last gate: whatever the client does on its way here
            raise refused(ref, f"address {sockaddr[0]!r} was not checked")
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        resolver=_Fixed(addresses), use_dns_cache=False, socket_factory=open_socket, force_close=True
    )
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=policy.connect_timeout_s),
                headers={"User-Agent": "ragline", "Accept-Encoding": "gzip"},
            ) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status in _REDIRECTS and "Location" in response.headers:
                return response.headers["Location"]
            if response.status != 200:
                raise _status_error(ref, response.status)
            content = await _read(ref, response, policy.most_bytes)
            content_type = telling_type(response.headers.get("Content-Type"))
            final_url = str(url.with_query(None))
            return Fetched(content, content_type, storable(response.headers.get("ETag")), final_url)
    except aiohttp.ClientConnectorCertificateError as error:
        raise refused(ref, f"the certificate of {_host(url)!r} is not valid for it") from error
    except (aiohttp.InvalidURL, aiohttp.ClientResponseError) as error:
        raise unavailable(ref, f"{_host(url)!r} answers with broken HTTP ({type(error).__name__})") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise unavailable(ref, f"{_host(url)!r} does not answer ({type(error).__name__})") from error


def _status_error(ref: str, status: int) -> RaglineError:
    if status in (404, 410):
        return not_found(ref, f"the server answers {status}")
    if status >= 500 or status in _TRY_AGAIN:
        return unavailable(ref, f"the server answers {status}")
    return refused(ref, f"the server answers {status}")


async def _read(ref: str, response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body, decompressed; reading stops at the limit, whatever length the server declares."""
    if response.content_length is not None and response.content_length > most_bytes:
        raise too_large(ref, most_bytes)
    content = bytearray()
    async for piece in response.content.iter_chunked(_PIECE_BYTES):
        content += piece
        if len(content) > most_bytes:
            raise too_large(ref, most_bytes)
    return bytes(content)
