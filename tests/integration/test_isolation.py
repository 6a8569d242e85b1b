"""Whatever a document does to its parser costs that document only, within the limit; nothing is left behind."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import docx
import psutil
import pytest

from ragline.contracts.events import DocumentChanged
from ragline.errors import PermanentError, TransientError
from services.ingest.cutting import WORK, Cutter
from services.ingest.isolation import ParserPool

HOSTILE = "tests.integration.hostile_parsers:work"
LIMIT_S = 1.0
MEMORY_MB = 300


def hostile_pool(workers: int = 1, **settings: Any) -> ParserPool:
    limits: dict[str, Any] = {"time_limit_s": LIMIT_S, "memory_limit_mb": MEMORY_MB}
    return ParserPool(HOSTILE, workers=workers, **{**limits, **settings})


@pytest.fixture
async def pool() -> AsyncIterator[ParserPool]:
    async with hostile_pool() as running:
        yield running


async def run(pool: ParserPool, deed: str, content: bytes = b"", **job: Any) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(await pool.run({"do": deed, **job}, content))
    return result


async def refusal(pool: ParserPool, deed: str, **job: Any) -> PermanentError:
    with pytest.raises(PermanentError) as refused:
        await run(pool, deed, **job)
    assert "\n" not in str(refused.value)
    return refused.value


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def gone(*pids: int) -> bool:
    """Whether none of the processes runs; a zombie runs no more."""
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def marked(path: Path) -> list[int]:
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


# One bad document


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("sleep", "PARSE_TIMEOUT"),
        ("compute", "PARSE_TIMEOUT"),
        ("ignore_signals", "PARSE_TIMEOUT"),
        ("fork_and_hang", "PARSE_TIMEOUT"),
        ("leave", "PARSE_CRASHED"),
        ("sys_exit", "PARSE_CRASHED"),
        ("segfault", "PARSE_CRASHED"),
        ("abort", "PARSE_CRASHED"),
        ("fork_and_crash", "PARSE_CRASHED"),
        ("unforeseen", "PARSE_CRASHED"),
        ("hoard", "PARSE_TOO_LARGE"),
        ("hoard_shared", "PARSE_TOO_LARGE"),
    ],
)
async def test_only_that_document_fails_and_the_next_is_read_within_the_limit(
    pool: ParserPool, tmp_path: Path, deed: str, reason: str
) -> None:
    (before,) = pool.pids
    started = time.monotonic()
    bad = asyncio.create_task(refusal(pool, deed, mark=str(tmp_path / "mark")))
    await asyncio.sleep(0)
    after = await run(pool, "nothing")
    took_s = time.monotonic() - started
    assert (await bad).reason == reason
    assert after["pid"] != before
    assert gone(before, *marked(tmp_path / "mark"))
    assert took_s < LIMIT_S + 5, "the limit and the start of a worker, on a busy machine"


async def test_a_refusal_of_the_parser_itself_passes_through_and_the_worker_lives(pool: ParserPool) -> None:
    (before,) = pool.pids
    refused = await refusal(pool, "refuse")
    assert (str(refused), refused.reason) == ("it is not to be read", "UNREADABLE_DOCUMENT")
    assert (await run(pool, "nothing"))["pid"] == before


async def test_a_crash_says_how(pool: ParserPool) -> None:
    assert "SIGSEGV" in str(await refusal(pool, "segfault"))
    assert "exit code 3" in str(await refusal(pool, "leave"))
    assert "KeyError: 'no such part'" in str(await refusal(pool, "unforeseen"))


async def test_a_parsers_child_cannot_speak_for_it(pool: ParserPool) -> None:
    (before,) = pool.pids
    assert (await run(pool, "speak_through_a_child"))["pid"] == before
    assert (await run(pool, "nothing"))["pid"] == before


async def test_what_a_parser_prints_goes_nowhere(pool: ParserPool, capfd: pytest.CaptureFixture[str]) -> None:
    await run(pool, "chatter")
    assert "noise" not in "".join(capfd.readouterr())


async def test_a_parser_cannot_fill_the_disk(pool: ParserPool, tmp_path: Path) -> None:
    assert (await refusal(pool, "write_much", mark=str(tmp_path / "file"))).reason == "PARSE_CRASHED"
    assert (tmp_path / "file").stat().st_size <= 128 << 20


# The pool


async def test_a_worker_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGLINE_AUTH__SERVICE_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with hostile_pool() as pool:
        seen = await run(pool, "nothing")
    assert "secret" not in seen["environment"].values()


async def test_a_worker_inherits_nothing_that_we_hold_open(pool: ParserPool, tmp_path: Path) -> None:
    with (tmp_path / "held").open("w"):
        assert (await run(pool, "nothing"))["descriptors"] <= 3 + 2 + 1, "standard ones, channel and lifeline, /proc"


async def test_workers_are_replaced_after_so_many_documents() -> None:
    async with hostile_pool(documents_per_worker=3) as pool:
        pids = [(await run(pool, "nothing"))["pid"] for _ in range(7)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


async def test_a_hanging_document_does_not_hold_up_another_worker(tmp_path: Path) -> None:
    async with hostile_pool(workers=2, time_limit_s=60) as pool:
        hanging = asyncio.create_task(run(pool, "sleep", mark=str(tmp_path / "mark")))
        await until(lambda: bool(marked(tmp_path / "mark")))
        async with asyncio.timeout(10):
            for _ in range(20):
                await run(pool, "nothing")
        hanging.cancel()


async def test_waiting_for_a_worker_does_not_count_as_reading(pool: ParserPool) -> None:
    slow = [refusal(pool, "compute") for _ in range(2)]
    results = await asyncio.gather(*slow, run(pool, "nothing"))
    assert "pid" in results[-1]


async def test_cancelling_kills_the_work(tmp_path: Path) -> None:
    async with hostile_pool(time_limit_s=60) as pool:
        reading = asyncio.create_task(run(pool, "fork_and_hang", mark=str(tmp_path / "mark")))
        await until(lambda: len(marked(tmp_path / "mark")) == 2)
        reading.cancel()
        await until(lambda: gone(*marked(tmp_path / "mark")))
        assert "pid" in await run(pool, "nothing")


async def test_large_contents_arrive_whole(pool: ParserPool) -> None:
    content = os.urandom(1 << 20) * 20
    assert (await run(pool, "nothing", content))["bytes"] == len(content)


async def test_closing_ends_all_workers_even_busy_ones(tmp_path: Path) -> None:
    pool = hostile_pool(workers=1, time_limit_s=60)
    await pool.start()
    pids = pool.pids
    reading = [asyncio.create_task(run(pool, "sleep", mark=str(tmp_path / "mark"))) for _ in range(3)]
    await until(lambda: bool(marked(tmp_path / "mark")))
    await pool.aclose()
    assert gone(*pids)
    for one in reading:
        with pytest.raises(TransientError):
            await one


async def test_closing_while_a_worker_starts_leaves_none() -> None:
    pool = hostile_pool(workers=1)
    await pool.start()
    crashed, waiting = (asyncio.create_task(run(pool, deed)) for deed in ("leave", "nothing"))
    with pytest.raises(PermanentError):
        await crashed
    await pool.aclose()
    with pytest.raises(TransientError):
        await waiting
    assert pool.pids == []


async def test_a_pool_that_is_not_running_is_no_fault_of_the_document() -> None:
    with pytest.raises(TransientError):
        await run(hostile_pool(), "nothing")


async def test_work_that_cannot_be_imported_fails_the_start_with_the_reason() -> None:
    with pytest.raises(TransientError, match="no_such_module"):
        await ParserPool("no_such_module:work", workers=1, time_limit_s=1, memory_limit_mb=300).start()


PARENT = """
import asyncio, sys
from services.ingest.isolation import ParserPool
async def main():
    pool = ParserPool(sys.argv[1], workers=2, time_limit_s=600, memory_limit_mb=300)
    await pool.start()
    print(*pool.pids, flush=True)
    await asyncio.gather(*(pool.run({"do": sys.argv[2], "mark": sys.argv[3]}, b"") for _ in range(2)))
asyncio.run(main())
"""


REASON = """
import asyncio, sys
from ragline.errors import PermanentError
from services.ingest.isolation import ParserPool
async def main():
    async with ParserPool(sys.argv[1], workers=1, time_limit_s=30, memory_limit_mb=300) as pool:
        try:
            await pool.run({"do": sys.argv[2]}, b"")
        except PermanentError as error:
            sys.stderr.write(error.reason)
asyncio.run(main())
"""


def test_a_library_that_dies_for_want_of_memory_is_told_from_one_that_crashes() -> None:
    """In a process of its own: how much a worker had is only known where this process has less itself."""
    command = [sys.executable, "-c", REASON, HOSTILE, "hoard_beside_python"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr.endswith("PARSE_TOO_LARGE")


@pytest.mark.parametrize("deed", ["fork_and_hang", "compute"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_killed_parent_leaves_no_worker(tmp_path: Path, deed: str, number: signal.Signals) -> None:
    mark = tmp_path / "mark"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, HOSTILE, deed, mark], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in (await asyncio.to_thread(parent.stdout.readline)).split()]
    assert len(pids) == 2
    if deed == "fork_and_hang":
        await until(lambda: len(marked(mark)) == 2)
    parent.send_signal(number)
    await asyncio.to_thread(parent.wait)
    parent.stdout.close()
    await until(lambda: gone(*pids, *marked(mark)))


# Real documents


def tiny_sections() -> tuple[str, bytes]:
    return "page.html", b"<h1>a</h1>b" * 800_000


def swollen_document() -> tuple[str, bytes]:
    file = io.BytesIO()
    document = docx.Document()
    for number in range(100):
        document.add_paragraph(f"Paragraph {number}")
    document.save(file)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as package:
        part = package.read("word/document.xml")
        paragraphs = b"".join(b"<w:p><w:r><w:t>x%d</w:t></w:r></w:p>" % number for number in range(700_000))
        package.writestr("word/document.xml", part.replace(b"<w:body>", b"<w:body>" + paragraphs))
    return "a.docx", file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("made", [tiny_sections, swollen_document])
async def test_markup_that_the_memory_cannot_hold_is_too_large_and_not_damaged(
    made: Callable[[], tuple[str, bytes]],
) -> None:
    uri, content = made()
    async with ParserPool(WORK, workers=1, time_limit_s=30, memory_limit_mb=256) as pool:
        cutter = Cutter(pool, chunk_tokens=200, embedder="wordllama", window_tokens=512, max_document_mb=100)
        with pytest.raises(PermanentError) as refused:
            await cutter.cut(change(uri), content)
        assert refused.value.reason == "PARSE_TOO_LARGE", refused.value
        assert (await cutter.cut(change("a.md"), "Fine.")).manifest[0].text == "Fine."


@pytest.fixture
async def cutter() -> AsyncIterator[Cutter]:
    async with ParserPool(WORK, workers=2, time_limit_s=30, memory_limit_mb=512) as running:
        yield Cutter(running, chunk_tokens=200, embedder="wordllama", window_tokens=512, max_document_mb=100)


def change(uri: str) -> DocumentChanged:
    return DocumentChanged(
        tenant="acme", document_id="d", source="wiki", op="upsert", revision=1, uri=uri, content="", title=None
    )


async def test_documents_are_cut_in_workers_at_once(cutter: Cutter) -> None:
    documents = await asyncio.gather(*(cutter.cut(change("a.md"), f"# T{n}\n\nText {n}.") for n in range(8)))
    assert [(cut.title, cut.manifest[0].text) for cut in documents] == [(f"T{n}", f"Text {n}.") for n in range(8)]


async def test_five_megabytes_on_one_line_are_read_whole(cutter: Cutter) -> None:
    words = b" ".join(b"%s of the words" % name for name in (b"one", b"another", b"the last") * 85_000)
    cut = await cutter.cut(change("line.txt"), words + b" needle")
    assert len(words) > 5_000_000
    assert cut.manifest[-1].text is not None and cut.manifest[-1].text.endswith("needle")


@pytest.mark.parametrize("text", ["word ", "слово ", "\U0001f600 "])
async def test_a_hundred_megabytes_of_text_are_refused_in_one_line(cutter: Cutter, text: str) -> None:
    size = len(text.encode())
    with pytest.raises(PermanentError) as refused:
        await cutter.cut(change("huge.txt"), text.encode() * (100_000_000 // size))
    assert refused.value.reason == "PARSE_TOO_LARGE"
    assert str(refused.value).startswith("huge.txt: ")
    assert "\n" not in str(refused.value)
