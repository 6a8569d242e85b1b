"""The claim check against a real web server: what it answers, how it fails, and where it tries to lead."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ragline.errors import PermanentError, TransientError
from services.ingest.claim_check import ClaimCheck
from services.ingest.settings import IngestSettings

HOST = "docs.intranet"
MEGABYTE = 1 << 20
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Site:
    """A web server whose every path a test answers, and what it was asked."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[web.Request] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=lambda: {HOST: ["127.0.0.1"]})

    def url(self, path: str, host: str = HOST) -> str:
        return f"http://{host}:{self.port}{path}"

    def answer(self, path: str, text: str = "", status: int = 200, **headers: str) -> None:
        async def respond(request: web.Request) -> web.StreamResponse:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return web.Response(body=text.encode(), status=status, headers=named)

        self.answers[path] = respond

    def redirect(self, path: str, target: str, status: int = 302) -> None:
        self.answer(path, status=status, Location=target)

    async def respond(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        return await self.answers[request.path](request)

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return self.names[host]

    def claim_check(self, **settings: Any) -> ClaimCheck:
        fields: dict[str, Any] = {
            "allow_http": True,
            "content_private_hosts": [HOST],
            "content_ports": [self.port],
            "content_max_mb": 1,
            "content_timeout_s": 10,
            "content_attempts": 1,
        }
        return ClaimCheck(IngestSettings.load(**{**fields, **settings}), resolve=self.resolve)

    async def reason(self, path: str, **settings: Any) -> str:
        """Why the path can never be fetched."""
        with pytest.raises(PermanentError) as caught:
            await self.claim_check(**settings).fetch(self.url(path))
        return caught.value.reason


@asynccontextmanager
async def running_site(context: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    site = Site()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", site.respond)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await listener.start()
    site.port = runner.addresses[0][1]
    yield site
    await runner.cleanup()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_site() as site:
        yield site


# --- what comes back ------------------------------------------------------------------------------


async def test_content_comes_with_its_type_and_etag(site: Site) -> None:
    site.answer("/manual", "# Manual", Content_Type="text/markdown; charset=utf-8", ETag='W/"v7"')

    fetched = await site.claim_check().fetch(site.url("/manual?token=secret#part"))
    assert fetched.content == b"# Manual"
    assert (fetched.content_type, fetched.etag) == ("text/markdown; charset=utf-8", 'W/"v7"')
    assert fetched.final_url == site.url("/manual"), "the query may be secret"
    assert site.requests[0].query == {"token": "secret"}


async def test_a_type_that_says_nothing_is_none(site: Site) -> None:
    site.answer("/x", "x", Content_Type="application/octet-stream")

    fetched = await site.claim_check().fetch(site.url("/x"))
    assert (fetched.content_type, fetched.etag) == (None, None)


async def test_compressed_content_is_decompressed(site: Site) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"# Manual"), headers={"Content-Encoding": "gzip"})

    site.answers["/x"] = respond
    assert (await site.claim_check().fetch(site.url("/x"))).content == b"# Manual"


async def test_nothing_of_this_machine_travels_with_the_request(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy or netrc of the environment, no cookie of an earlier answer."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    site.answer("/second", "content")
    site.answer("/first", status=302, Location="/second", Set_Cookie="session=1; Path=/")

    check = site.claim_check()
    for _ in range(2):
        assert (await check.fetch(site.url("/first"))).content == b"content"
    for request in site.requests:
        assert not request.cookies
        assert "Authorization" not in request.headers


# --- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(site: Site, status: int) -> None:
    site.redirect("/a", "b/../b?x=1", status)
    site.redirect("/b", site.url("/c"), status)
    site.redirect("/c", f"//{HOST}:{site.port}/d", status)
    site.answer("/d", "there")

    fetched = await site.claim_check().fetch(site.url("/a"))
    assert (fetched.content, fetched.final_url) == (b"there", site.url("/d"))


async def test_a_fourth_redirect_and_a_loop_are_refused(site: Site) -> None:
    for here, there in (("/a", "/b"), ("/b", "/c"), ("/c", "/d"), ("/d", "/e")):
        site.redirect(here, there)
    site.redirect("/loop", "/loop")

    assert await site.reason("/a") == "CONTENT_REF_REFUSED"
    assert site.paths() == ["/a", "/b", "/c", "/d"]
    assert await site.reason("/loop") == "CONTENT_REF_REFUSED"
    assert site.paths()[4:] == ["/loop"] * 4


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/secret",
        "http://localhost:{port}/secret",
        "http://2130706433:{port}/secret",
        "http://0x7f.1:{port}/secret",
        "http://0177.0.0.1:{port}/secret",
        "http://[::1]:{port}/secret",
        "http://[::ffff:127.0.0.1]:{port}/secret",
        "http://169.254.169.254/latest/meta-data",
        "http://inside.example.org:{port}/secret",
        "http://docs.intranet:1/secret",
        "http://user:password@docs.intranet:{port}/secret",
        "ftp://docs.intranet/secret",
        "file:///etc/passwd",
        "//127.0.0.1:{port}/secret",
        "http:\\\\127.0.0.1:{port}\\secret",
        "http://[/",
    ],
)
async def test_a_redirect_to_what_must_not_be_reached_is_refused(site: Site, target: str) -> None:
    site.names |= {"localhost": ["127.0.0.1"], "inside.example.org": ["127.0.0.1"]}
    site.answer("/secret", "secret")
    site.redirect("/start", target.format(port=site.port))

    assert await site.reason("/start", content_ports=[site.port, 80]) == "CONTENT_REF_REFUSED"
    assert site.paths() == ["/start"]


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f000001", "127.1", "[::ffff:7f00:1]", "localhost"])
async def test_a_server_on_this_machine_is_out_of_reach_without_a_setting(site: Site, host: str) -> None:
    site.names |= {"localhost": ["127.0.0.1", "::1"]}
    site.answer("/secret", "secret")

    with pytest.raises(PermanentError):
        await site.claim_check().fetch(site.url("/secret", host))
    assert site.requests == []


# --- size -----------------------------------------------------------------------------------------


def stream(piece: bytes, most_pieces: int, sent: list[int], **headers: str) -> Answer:
    """An answer without a length, that goes on until the client has enough."""

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={name.replace("_", "-"): value for name, value in headers.items()})
        await response.prepare(request)
        for _ in range(most_pieces):
            await response.write(piece)
            sent.append(len(piece))
        return response

    return respond


async def test_a_declared_length_over_the_limit_is_refused_unread(site: Site) -> None:
    sent: list[int] = []
    site.answers["/large"] = stream(b"x" * 1000, 10, sent, Content_Length=str(MEGABYTE + 1))
    site.answer("/fits", "x" * MEGABYTE)

    assert await site.reason("/large") == "CONTENT_TOO_LARGE"
    assert len((await site.claim_check().fetch(site.url("/fits"))).content) == MEGABYTE


async def test_reading_stops_at_the_limit_when_no_length_is_declared(site: Site) -> None:
    sent: list[int] = []
    site.answers["/endless"] = stream(b"x" * 65536, 2000, sent)

    assert await site.reason("/endless") == "CONTENT_TOO_LARGE"
    assert sum(sent) < 50 * MEGABYTE, "the server was cut off"


async def test_a_compression_bomb_stops_at_the_limit(site: Site) -> None:
    bomb = gzip.compress(bytes(200 * MEGABYTE), 9)

    async def respond(request: web.Request) -> web.Response:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    site.answers["/bomb"] = respond
    assert len(bomb) < MEGABYTE
    assert await site.reason("/bomb") == "CONTENT_TOO_LARGE"


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, "CONTENT_NOT_FOUND"), (410, "CONTENT_NOT_FOUND"), (401, "CONTENT_REF_REFUSED"),
        (403, "CONTENT_REF_REFUSED"), (204, "CONTENT_REF_REFUSED"), (304, "CONTENT_REF_REFUSED"),
        (302, "CONTENT_REF_REFUSED"),
    ],
)  # fmt: skip
async def test_what_will_not_change_is_not_tried_again(site: Site, status: int, reason: str) -> None:
    site.answer("/x", status=status)

    assert await site.reason("/x", content_attempts=3) == reason
    assert len(site.requests) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_what_may_pass_is_tried_again(site: Site, status: int) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(text="content", status=status if len(site.requests) < 2 else 200)

    site.answers["/x"] = respond
    assert (await site.claim_check(content_attempts=2).fetch(site.url("/x"))).content == b"content"
    assert len(site.requests) == 2


async def test_attempts_are_bounded(site: Site) -> None:
    site.answer("/x", status=503)

    with pytest.raises(TransientError, match="the server answers 503"):
        await site.claim_check(content_attempts=2).fetch(site.url("/x"))
    assert len(site.requests) == 2


async def test_a_server_that_stays_away_is_given_up_in_the_end(site: Site) -> None:
    """Otherwise one dead server would hold up the documents of everybody else for ever."""
    site.answer("/x", status=503)
    check = site.claim_check(content_retry_for_s=0.2)

    async def given_up() -> str:
        while True:
            try:
                await check.fetch(site.url("/x"))
            except TransientError:
                continue
            except PermanentError as error:
                return error.reason

    async with asyncio.timeout(5):
        assert await given_up() == "CONTENT_UNAVAILABLE"
    with pytest.raises(TransientError):
        await check.fetch(site.url("/x"))
    site.answer("/x", "back")
    assert (await check.fetch(site.url("/x"))).content == b"back"


async def test_a_server_that_is_not_there_may_come_back(site: Site, unused_tcp_port: int) -> None:
    check = site.claim_check(content_ports=[unused_tcp_port])

    with pytest.raises(TransientError, match="does not answer"):
        await check.fetch(f"http://{HOST}:{unused_tcp_port}/x")


async def test_an_answer_that_breaks_off_is_not_taken_for_the_content(site: Site) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    site.answers["/x"] = respond
    with pytest.raises(TransientError):
        await site.claim_check().fetch(site.url("/x"))


async def test_a_server_that_is_too_slow_is_given_up(site: Site) -> None:
    released = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    async def trickling(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not released.is_set():
            await response.write(b"x")
            await asyncio.sleep(0.02)
        return response

    site.answers |= {"/silent": silent, "/trickling": trickling}
    for path in site.answers:
        with pytest.raises(TransientError, match=r"takes longer than 0\.3 s"):
            await site.claim_check(content_timeout_s=0.3).fetch(site.url(path))
    released.set()


async def test_a_resolver_that_hangs_is_given_up(site: Site) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    settings = IngestSettings.load(content_connect_timeout_s=0.1, content_attempts=1)
    with pytest.raises(TransientError, match=r"not resolved in 0\.1 s"):
        await ClaimCheck(settings, resolve=resolve).fetch("https://example.org/")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for HOST that it signed itself, with its key beside it."""
    path = tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(path.with_suffix(".key")), "-out", str(path), "-days", "1", "-subj", f"/CN={HOST}"]
    subprocess.run([*command, "-addext", f"subjectAltName=DNS:{HOST}"], check=True, capture_output=True)
    return path


@pytest.fixture
async def secure_site(certificate: Path) -> AsyncIterator[Site]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    async with running_site(context) as site:
        yield site


@needs_openssl
async def test_https_needs_a_certificate_that_is_vouched_for(
    secure_site: Site, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = secure_site
    site.names["other.intranet"] = ["127.0.0.1"]
    site.answer("/x", "content")
    check = site.claim_check(content_private_hosts=[HOST, "other.intranet"])

    async def reason(host: str) -> str:
        with pytest.raises(PermanentError, match="certificate") as caught:
            await check.fetch(site.url("/x", host).replace("http:", "https:"))
        return caught.value.reason

    assert await reason(HOST) == "CONTENT_REF_REFUSED"
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    assert await reason("other.intranet") == "CONTENT_REF_REFUSED"
    assert site.requests == []
    assert (await check.fetch(site.url("/x").replace("http:", "https:"))).content == b"content"


async def test_the_system_resolves_names_when_no_resolver_is_given(site: Site) -> None:
    site.answer("/x", "content")
    settings = {"content_private_hosts": ["localhost"], "content_ports": [site.port], "allow_http": True}

    check = ClaimCheck(IngestSettings.load(**settings))
    assert (await check.fetch(site.url("/x", "localhost"))).content == b"content"
