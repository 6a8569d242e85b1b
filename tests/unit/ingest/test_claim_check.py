"""What a claim check may reach, and that nothing else is ever opened or connected to."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import example, given
from hypothesis import strategies as st

from ragline.errors import ConfigurationError, PermanentError, TransientError
from services.ingest.claim_check import ClaimCheck
from services.ingest.fetching.addresses import refusal
from services.ingest.fetching.fetched import shown
from services.ingest.fetching.files import read_file
from services.ingest.settings import IngestSettings

PUBLIC = "93.184.215.14"

ROOT_LINK = "root"
"""The link to the root folder that every process has in /proc."""


def claim_check(*addresses: str, **settings: Any) -> ClaimCheck:
    """A claim check for which every name has these addresses."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return ClaimCheck(IngestSettings.load(**{"content_attempts": 1, **settings}), resolve=resolve)


async def refusal_of(ref: str, check: ClaimCheck | None = None) -> str:
    """Why it is refused; fails when it is not."""
    with pytest.raises(PermanentError) as caught:
        await (check or claim_check(PUBLIC, allow_http=True)).fetch(ref)
    assert caught.value.reason == "CONTENT_REF_REFUSED", caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


TRIED: list[str] = []
"""The addresses that a connection was tried to since the test began."""


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No connection is ever made: each try is noted and fails."""

    async def sock_connect(loop: object, opened: socket.socket, address: tuple[str, int]) -> None:
        TRIED.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr("asyncio.selector_events.BaseSelectorEventLoop.sock_connect", sock_connect)
    TRIED.clear()
    return TRIED


# --- what the URL says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ref",
    ["ftp://example.org/x", "gopher://example.org", "data:text/plain,x", "javascript:1", "jar:file:///x!/y", "x.txt"],
)
async def test_other_schemes_are_refused(ref: str) -> None:
    assert "only file:, https:, s3: and gs:" in await refusal_of(ref)


async def test_plain_http_is_refused_unless_it_is_allowed() -> None:
    assert "RAGLINE_INGEST__ALLOW_HTTP" in await refusal_of("http://example.org/", claim_check(PUBLIC))


@pytest.mark.parametrize("userinfo", ["user:secret", "secret", ":secret", "secret%40:"])
async def test_credentials_in_a_url_are_refused_and_not_repeated(userinfo: str) -> None:
    why = await refusal_of(f"https://{userinfo}@example.org/x?token=secret#secret")

    assert "must not carry credentials" in why
    assert "secret" not in why


async def test_the_query_is_not_repeated_in_an_error() -> None:
    assert "secret" not in await refusal_of("https://10.0.0.1/x?signature=secret")
    assert "secret" not in await refusal_of("https://user:secret@[bad/x?signature=secret")
    assert shown("https://u:secret@h/x\n\x1b[0m?secret") == "https://h/x [0m"


@pytest.mark.parametrize("port", [22, 25, 6379, 8080, 0])
async def test_other_ports_are_refused(port: int) -> None:
    assert "CONTENT_PORTS" in await refusal_of(f"https://example.org:{port}/x")


@pytest.mark.parametrize(
    "ref",
    [
        "https://",
        "https:///x",
        "https:example.org",
        "https://exa mple.org/",
        "https://example.org\\@10.0.0.1/",
        "https://example.org/\r\nHost:x",
        "https://[::1/",
        "https://example.org:x/",
        "https://exa%6dple.org%00/",
        "https://" + "a" * 5000,
    ],
)
async def test_what_is_no_url_is_refused(ref: str, connections: list[str]) -> None:
    await refusal_of(ref)
    assert connections == []


async def test_only_the_allowed_hosts_are_fetched_from(connections: list[str]) -> None:
    check = claim_check(PUBLIC, content_hosts=["docs.example.org", "*.example.com"])

    for host in ("example.org", "xdocs.example.org", "docs.example.org.evil.net", "example.com", "xexample.com"):
        assert "CONTENT_HOSTS" in await refusal_of(f"https://{host}/", check)
    assert connections == []
    for host in ("docs.example.org", "DOCS.example.org.", "a.example.com", "a.b.example.com"):
        with pytest.raises(TransientError):
            await check.fetch(f"https://{host}/")
    assert connections == [PUBLIC] * 4


# --- what the host's address is -------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "192.0.0.170", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:93.184.215.14", "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001::1", "2606:4700::5efe:10.0.0.1", "100::1",
    ],
)  # fmt: skip
async def test_a_name_or_number_that_leads_inside_is_refused(address: str, connections: list[str]) -> None:
    assert address in await refusal_of("https://innocent.example.org/", claim_check(PUBLIC, address))
    literal = f"[{address.replace('%', '%25')}]" if ":" in address else address
    await refusal_of(f"https://{literal}/")
    assert connections == []


@pytest.mark.parametrize("address", [PUBLIC, "2606:4700::6810:1", "64:ff9b::5db8:d70e"])
async def test_a_public_address_is_connected_to(address: str, connections: list[str]) -> None:
    with pytest.raises(TransientError):
        await claim_check(address).fetch("https://example.org/")
    with pytest.raises(TransientError):
        await claim_check("127.0.0.1").fetch(f"https://[{address}]/" if ":" in address else f"https://{address}/")

    assert connections == [address, address]


async def test_a_host_that_is_named_may_be_private_but_never_link_local(connections: list[str]) -> None:
    settings = {"content_private_hosts": ["wiki.intranet"], "content_hosts": []}

    with pytest.raises(TransientError):
        await claim_check("10.0.0.7", **settings).fetch("https://wiki.intranet/")
    assert connections == ["10.0.0.7"]
    await refusal_of("https://wiki.intranet/", claim_check("169.254.169.254", **settings))
    await refusal_of("https://other.intranet/", claim_check("10.0.0.7", **settings))
    assert connections == ["10.0.0.7"]


async def test_a_name_is_resolved_once_and_the_checked_address_connected_to(connections: list[str]) -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return [PUBLIC] if len(asked) == 1 else ["127.0.0.1"]

    check = ClaimCheck(IngestSettings.load(content_attempts=1), resolve=rebinding)
    with pytest.raises(TransientError):
        await check.fetch("https://rebind.example.org/")
    assert (asked, connections) == (["rebind.example.org"], [PUBLIC])


async def test_a_host_that_does_not_exist_is_not_found_and_one_that_may_is_tried_again() -> None:
    errors = {"gone.example.org": socket.EAI_NONAME, "later.example.org": socket.EAI_AGAIN}

    async def resolve(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(errors[host], "no")

    check = ClaimCheck(IngestSettings.load(content_attempts=1), resolve=resolve)
    with pytest.raises(PermanentError) as caught:
        await check.fetch("https://gone.example.org/")
    assert caught.value.reason == "CONTENT_NOT_FOUND"
    with pytest.raises(TransientError):
        await check.fetch("https://later.example.org/")


INSIDE_V4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
    )
]  # fmt: skip
INSIDE_V6 = [IPv6Network(n) for n in ("::/96", "fc00::/7", "fe80::/10", "ff00::/8", "2002::/16", "64:ff9b:1::/48")]
inside_v4 = st.sampled_from(INSIDE_V4).flatmap(
    lambda network: st.integers(0, network.num_addresses - 1).map(lambda offset: network[offset])
)
inside_v6 = st.sampled_from(INSIDE_V6).flatmap(
    lambda network: st.integers(0, network.num_addresses - 1).map(lambda offset: network[offset])
)


def spellings(address: IPv4Address) -> list[str]:
    """Ways to write an IPv4 address as a URL's host that some client understands."""
    number, (a, b, c, d) = int(address), address.packed
    dotted = str(address)
    mapped = IPv6Address(0xFFFF << 32 | number)
    hidden = [int(IPv6Address("64:ff9b::")) | number, 0x2002 << 112 | number << 80, number]
    return [
        dotted, f"{dotted}.", str(number), hex(number), f"0{number:o}", f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{number & 0xFFFF}", f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a:#x}.{b:#x}.{c:#x}.{d:#x}",
        f"{a:#X}.{b}.0{c:o}.{d}", f"000{a}.{b}.{c}.{d}", quote(dotted).replace(".", "%2E"),
        "".join(f"%{ord(character):02x}" for character in dotted),
        dotted.translate({ord("0") + digit: chr(0xFF10 + digit) for digit in range(10)}),
        dotted.replace(".", "\u3002"), f"[{mapped}]", f"[{mapped.exploded}]", f"[::ffff:{dotted}]",
        f"[::FFFF:{number >> 16:X}:{number & 0xFFFF:X}]", f"[::{dotted}]", f"[64:ff9b::{dotted}]",
        *(f"[{IPv6Address(each)}]" for each in hidden),
    ]  # fmt: skip


async def assert_never_reached(host: str) -> None:
    """Whatever the host is taken for: a number, or a name that leads inside."""
    check = claim_check("127.0.0.1", allow_http=True, content_ports=[80, 443, 8080])
    for ref in (f"http://{host}/", f"https://{host}:8080/x?y"):
        await refusal_of(ref, check)
        assert TRIED == [], ref


@given(inside_v4)
@example(IPv4Address("169.254.169.254"))
@example(IPv4Address("127.0.0.1"))
async def test_no_spelling_of_an_inner_address_is_ever_connected_to(address: IPv4Address) -> None:
    for host in spellings(address):
        await assert_never_reached(host)


@given(inside_v6)
async def test_no_inner_address_of_ipv6_is_ever_connected_to(address: IPv6Address) -> None:
    for host in (f"[{address}]", f"[{address.exploded.upper()}]"):
        await assert_never_reached(host)


@given(st.ip_addresses(v=4))
def test_what_python_holds_for_private_is_refused(address: IPv4Address) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert refusal(str(address)) is not None


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed folder, beside one that is not."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    (tmp_path / "root" / "folder").mkdir(parents=True)
    (tmp_path / "root" / "folder" / "a file.txt").write_text("content")
    return tmp_path / "root"


def of_root(root: Path, **settings: Any) -> ClaimCheck:
    return claim_check(content_roots=[root], **settings)


@pytest.mark.parametrize(
    "form", ["file://{0}/folder/a%20file.txt", "file:{0}/folder/a%20file.txt", "{0}/folder/a file.txt"]
)
async def test_a_file_within_a_root_is_read(root: Path, form: str) -> None:
    fetched = await of_root(root).fetch(form.format(root))

    assert (fetched.content, fetched.content_type) == (b"content", None)
    assert fetched.final_url == f"file://{root}/folder/a%20file.txt"


async def test_no_file_is_read_unless_a_root_is_named(root: Path) -> None:
    assert "CONTENT_ROOTS" in await refusal_of(str(root / "folder/a file.txt"), claim_check())


@pytest.mark.parametrize(
    "form",
    [
        "{0}/../outside/secret.txt",
        "file://{0}/folder/../../outside/secret.txt",
        "file://{0}/%2e%2e/outside/secret.txt",
        "file://{0}/folder/..%2f..%2foutside/secret.txt",
        "file://localhost{0}/../outside/secret.txt",
        "{0}-sibling/x",
        "/etc/passwd",
        "file:///etc/passwd",
        "/proc/self/environ",
        f"/proc/self/{ROOT_LINK}/etc/passwd",
        "file://{0}/../../../../../../proc/self/environ",
    ],
)
async def test_a_path_that_leads_out_of_the_roots_is_refused(root: Path, form: str) -> None:
    assert "outside of the allowed folders" in await refusal_of(form.format(root), of_root(root))


@pytest.mark.parametrize(
    "ref", ["file://server/share/x", "file://server/x", "file:relative", "file:", "file:///x?y", "file:///a%00b"]
)
async def test_a_file_url_that_names_something_else_is_refused(root: Path, ref: str) -> None:
    await refusal_of(ref, of_root(root))


async def test_a_link_out_of_the_root_is_refused_and_one_within_is_followed(root: Path) -> None:
    (root / "out.txt").symlink_to(root.parent / "outside" / "secret.txt")
    (root / "out").symlink_to(root.parent / "outside")
    (root / "cwd").symlink_to("/proc/self/cwd")
    (root / "within.txt").symlink_to("folder/a file.txt")

    for name in ("out.txt", "out/secret.txt", "cwd/pyproject.toml"):
        await refusal_of(str(root / name), of_root(root))
    assert (await of_root(root).fetch(str(root / "within.txt"))).content == b"content"


async def test_a_root_may_itself_be_a_link(root: Path) -> None:
    (root.parent / "link").symlink_to(root)

    assert (
        await of_root(root.parent / "link").fetch(str(root.parent / "link/folder/a file.txt"))
    ).content == b"content"


def test_a_folder_that_becomes_a_link_between_check_and_opening_is_not_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race itself: the path was resolved, and is exchanged before it is opened."""
    real_path = os.path.realpath

    def resolve_then_exchange(path: Any) -> str:
        resolved = real_path(path)
        if str(path).endswith("secret.txt"):
            (root / "folder").rename(root / "moved")
            (root / "folder").symlink_to(root.parent / "outside")
        return resolved

    (root / "folder" / "secret.txt").write_text("harmless")
    monkeypatch.setattr(os.path, "realpath", resolve_then_exchange)
    with pytest.raises(PermanentError) as caught:
        read_file(str(root / "folder/secret.txt"), [root], 1000)
    assert caught.value.reason in ("CONTENT_REF_REFUSED", "CONTENT_NOT_FOUND")


@pytest.mark.parametrize(
    "path", ["/proc/self/environ", "/proc/self/mem", f"/proc/self/{ROOT_LINK}/proc/version", "/sys/kernel", "/dev/zero"]
)
async def test_processes_and_devices_are_no_documents_even_when_all_is_allowed(path: str) -> None:
    await refusal_of(path, of_root(Path("/")))


async def test_what_is_no_regular_file_is_refused_without_waiting(root: Path) -> None:
    os.mkfifo(root / "fifo")

    for name in ("fifo", "folder", ""):
        assert "no regular file" in await refusal_of(str(root / name), of_root(root))


async def test_a_missing_file_is_not_found(root: Path) -> None:
    for name in ("missing", "folder/a file.txt/below"):
        with pytest.raises(PermanentError) as caught:
            await of_root(root).fetch(str(root / name))
        assert caught.value.reason == "CONTENT_NOT_FOUND"


async def test_a_file_larger_than_the_limit_is_refused(root: Path) -> None:
    (root / "fits").write_bytes(b"x" * (1 << 20))
    (root / "large").write_bytes(b"x" * ((1 << 20) + 1))

    assert len((await of_root(root, content_max_mb=1).fetch(str(root / "fits"))).content) == 1 << 20
    with pytest.raises(PermanentError) as caught:
        await of_root(root, content_max_mb=1).fetch(str(root / "large"))
    assert caught.value.reason == "CONTENT_TOO_LARGE"


# --- buckets --------------------------------------------------------------------------------------


class Objects(MemoryFileSystem):
    """A bucket's stand-in, with the details that object stores tell."""

    store: dict[str, Any] = {}
    pseudo_dirs: list[str] = [""]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {**super().info(path, **options), "ETag": '"e1"', "ContentType": "text/markdown"}


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    monkeypatch.setattr("services.ingest.claim_check.require_package", lambda *_, **__: None)
    store = Objects(skip_instance_cache=True)
    store.pipe_file("/bucket/docs/a b?c.md", b"# Object")
    store.pipe_file("/bucket/docs/empty", b"")
    store.pipe_file("/bucket/private/x", b"secret")
    yield store
    Objects.store.clear()


def of_buckets(store: Objects, *buckets: str, **settings: Any) -> ClaimCheck:
    loaded = IngestSettings.load(content_buckets=list(buckets), content_attempts=1, **settings)
    return ClaimCheck(loaded, open_store=lambda protocol: store)


async def test_an_object_within_an_allowed_bucket_is_read(objects: Objects) -> None:
    check = of_buckets(objects, "s3://bucket/docs")
    fetched = await check.fetch("s3://bucket/docs/a b?c.md")

    assert (fetched.content, fetched.content_type, fetched.etag) == (b"# Object", "text/markdown", '"e1"')
    assert (await check.fetch("s3://bucket/docs/empty")).content == b""


@pytest.mark.parametrize(
    "ref",
    [
        "s3://bucket/private/x", "s3://bucket/docs2/x", "s3://bucket2/docs/x", "gs://bucket/docs/x", "s3://bucket",
        "s3://bucket/docs/../private/x", "s3://key:secret@bucket/docs/x", "s3:bucket/docs/x", "s3:///bucket/docs/x",
    ],
)  # fmt: skip
async def test_other_buckets_and_folders_are_refused(objects: Objects, ref: str) -> None:
    await refusal_of(ref, of_buckets(objects, "s3://bucket/docs/"))


async def test_no_bucket_is_read_unless_it_is_named() -> None:
    assert "CONTENT_BUCKETS" in await refusal_of("s3://bucket/x", claim_check())


async def test_objects_that_are_missing_or_too_large_are_told_apart(objects: Objects) -> None:
    objects.pipe_file("/bucket/docs/large", b"x" * ((1 << 20) + 1))
    check = of_buckets(objects, "s3://bucket", content_max_mb=1)

    for name, reason in (("missing", "CONTENT_NOT_FOUND"), ("large", "CONTENT_TOO_LARGE")):
        with pytest.raises(PermanentError) as caught:
            await check.fetch(f"s3://bucket/docs/{name}")
        assert caught.value.reason == reason


async def test_a_store_that_fails_is_tried_again(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([ConnectionError("down"), b"# Object"])

    def cat_file(path: str, **options: Any) -> bytes:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(objects, "cat_file", cat_file)
    check = ClaimCheck(
        IngestSettings.load(content_buckets=["s3://bucket"], content_attempts=2), open_store=lambda protocol: objects
    )
    assert (await check.fetch("s3://bucket/docs/a b?c.md")).content == b"# Object"


def test_a_missing_package_is_named_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="pip install s3fs"):
        ClaimCheck(IngestSettings.load(content_buckets=["s3://bucket"]))
    with pytest.raises(ConfigurationError, match="CONTENT_BUCKETS"):
        ClaimCheck(IngestSettings.load(content_buckets=["bucket"]))
