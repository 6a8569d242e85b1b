"""Blobs: the same bytes are one blob, whole or not there, in a folder and in an fsspec store alike."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ragline.errors import ConfigurationError, PermanentError, TransientError
from ragline.settings import Settings
from services.ingest.blobs import Blobs
from services.ingest.stored_files import Folder

TEXT = b"The same bytes are one blob. " * 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a folder"


@pytest.fixture(params=["file", "memory"])
def blobs(request: pytest.FixtureRequest, folder: Path) -> Iterator[Blobs]:
    yield Blobs(folder.as_uri() if request.param == "file" else "memory://bucket/blobs")
    MemoryFileSystem.store.clear()


@pytest.fixture
def local(folder: Path) -> Blobs:
    return Blobs(folder.as_uri())


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def path_of(folder: Path, key: str) -> Path:
    return folder / key[:2] / key[2:4] / f"{key}.gz"


# --- both kinds of store --------------------------------------------------------------------------


@pytest.mark.parametrize("data", [TEXT, b"", b"\x00", os.urandom(300_000), bytes(300_000)], ids=lambda data: len(data))
async def test_what_was_put_comes_back_by_its_hash(blobs: Blobs, data: bytes) -> None:
    key = await blobs.put(data)

    assert key == hashlib.sha256(data).hexdigest()
    assert await blobs.get(key) == data
    assert await blobs.exists(key)


async def test_a_blob_that_is_deleted_is_gone_and_may_come_back(blobs: Blobs) -> None:
    key = await blobs.put(TEXT)
    for _ in range(2):
        await blobs.delete(key)

    assert not await blobs.exists(key)
    with pytest.raises(PermanentError) as caught:
        await blobs.get(key)
    assert caught.value.reason == "BLOB_MISSING"
    assert await blobs.put(TEXT) == key
    assert await blobs.get(key) == TEXT


@pytest.mark.parametrize("key", ["", "x", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
async def test_what_is_no_hash_is_no_key(blobs: Blobs, key: str) -> None:
    for call in (blobs.get, blobs.exists, blobs.delete):
        with pytest.raises(PermanentError) as caught:
            await call(key)
        assert caught.value.reason == "INVALID_BLOB_KEY"


async def test_puts_at_the_same_time_leave_one_whole_blob(blobs: Blobs) -> None:
    keys = await asyncio.gather(*(blobs.put(TEXT) for _ in range(30)))

    assert len(set(keys)) == 1
    assert await blobs.get(keys[0]) == TEXT


# --- files ----------------------------------------------------------------------------------------


async def test_a_blob_is_written_once(local: Blobs, folder: Path) -> None:
    key = await local.put(TEXT)
    (path,) = files(folder)
    before = path.stat()
    await local.put(TEXT)

    assert path == path_of(folder, key)
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_only_its_owner_can_read_a_blob(local: Blobs, folder: Path) -> None:
    await local.put(TEXT)

    assert all(path.stat().st_mode & 0o077 == 0 for path in [folder, *folder.rglob("*")])


async def test_nothing_but_the_blobs_is_left_in_the_folder(local: Blobs, folder: Path) -> None:
    keys = await asyncio.gather(*(local.put(bytes([number % 7]) * 5000) for number in range(40)))

    assert sorted(files(folder)) == sorted(path_of(folder, key) for key in set(keys))


@pytest.mark.parametrize("fails", ["fsync", "replace"])
async def test_a_write_that_fails_leaves_neither_a_blob_nor_a_rest(
    local: Blobs, folder: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A crash looks the same to readers: the blob's name appears by the rename alone."""

    def failing(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, fails, failing)
        with pytest.raises(TransientError, match="Input/output error"):
            await local.put(TEXT)
    assert files(folder) == []
    await local.put(TEXT)


async def test_text_is_compressed_and_what_does_not_shrink_is_not(local: Blobs, folder: Path) -> None:
    noise = os.urandom(200_000)
    text, other = await local.put(TEXT), await local.put(noise)

    assert path_of(folder, text).stat().st_size < len(TEXT) / 5
    assert path_of(folder, other).stat().st_size < len(noise) * 1.001 + 100
    assert gzip.decompress(path_of(folder, text).read_bytes()) == TEXT, "any tool can read it"


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: stored[: len(stored) // 2],
        lambda stored: b"",
        lambda stored: stored[:40] + bytes([stored[40] ^ 1]) + stored[41:],
        lambda stored: gzip.compress(b"another text"),
        lambda stored: b"no gzip at all",
    ],
    ids=["cut short", "empty", "a bit flipped", "another blob", "no gzip"],
)
async def test_a_damaged_blob_is_found_and_mended_when_it_is_put_again(local: Blobs, folder: Path, damage: Any) -> None:
    key = await local.put(TEXT)
    path = path_of(folder, key)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(PermanentError) as caught:
        await local.get(key)
    assert caught.value.reason == "BLOB_DAMAGED"
    assert key in str(caught.value)
    await local.put(TEXT)
    assert await local.get(key) == TEXT


async def test_a_full_disk_is_one_clear_line_and_may_pass(local: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TransientError, match="is full: free space") as caught:
        await local.put(TEXT)
    assert "\n" not in str(caught.value)


async def test_a_store_that_hangs_is_given_up_and_does_not_block_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    released = threading.Event()
    read = Folder.read

    def hanging(self: Folder, name: str) -> bytes:
        if name.startswith("00/"):
            released.wait(10)
        return read(self, name)

    monkeypatch.setattr(Folder, "read", hanging)
    blobs = Blobs(folder.as_uri(), timeout_s=0.2)
    key = await blobs.put(TEXT)
    with pytest.raises(TransientError, match=r"took longer than 0\.2 s"):
        await blobs.get("0" * 64)
    assert await blobs.get(key) == TEXT
    released.set()


# --- which store ----------------------------------------------------------------------------------


def test_blobs_lie_in_the_data_directory_unless_a_store_is_named(tmp_path: Path) -> None:
    assert Settings.load(data_dir=tmp_path / "my data").blobs_url == f"file://{tmp_path}/my%20data/blobs"
    named = Settings.load(data_dir=tmp_path, blobs={"url": "s3://bucket/blobs"})
    assert named.blobs_url == "s3://bucket/blobs"


async def test_nothing_is_made_before_the_first_blob(local: Blobs, folder: Path) -> None:
    assert not folder.exists()
    assert not await local.exists("0" * 64)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("/a/path", "RAGLINE_BLOBS__URL"),
        ("file://server/share", "names no folder"),
        ("file:relative", "is no URL"),
        ("s3://", "is no URL"),
        ("s3://bucket/blobs", "pip install s3fs"),
        ("nosuch://bucket", "fsspec knows no store"),
    ],
)
def test_a_url_that_cannot_work_is_told_at_the_start(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Blobs(url)
