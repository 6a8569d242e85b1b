"""Read messy documents as ingest does, isolated, and check what its manifest demands of each.

    python bench/docs_messy.py --data FOLDER [--workers N] [--time-limit-s S] [--memory-mb MB]

FOLDER holds `manifest.jsonl` and `files/`. Per file: what became of it, the phrases found and missing, the
time to read it, the time that a small document behind it took, and the greatest memory of this process and
of its workers meanwhile. Exits 1 when an expectation fails, a document behind was held up by more than the
limit, or all processes together had a GiB or more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from ragline.contracts.events import DocumentChanged
from ragline.errors import PermanentError
from ragline.models.embedding import load_token_counter
from services.ingest.cutting import WORK, CutDocument, Cutter
from services.ingest.isolation import ParserPool
from services.ingest.manifest import CutJob, cut_document

EMBEDDER, CHUNK_TOKENS = "minilm", 200
MOST_MB = 1024
ALLOWED = {
    "text": set(),
    "partial text": set(),
    "empty": {"EMPTY_DOCUMENT"},
    "error": {"UNREADABLE_DOCUMENT", "UNSUPPORTED_CONTENT_TYPE", "NESTED_TOO_DEEPLY", "ENCRYPTED_DOCUMENT"},
    "clean error": {"UNREADABLE_DOCUMENT", "NESTED_TOO_DEEPLY", "EMPTY_DOCUMENT"},
    "unsupported": {"UNSUPPORTED_CONTENT_TYPE"},
    "limit": {"PARSE_TOO_LARGE"},
    "no crash": {"EMPTY_DOCUMENT", "UNREADABLE_DOCUMENT", "UNSUPPORTED_CONTENT_TYPE", "NESTED_TOO_DEEPLY"},
}
"""The reasons of refusal that an expectation allows; text is allowed where one of TEXT is expected."""
TEXT = {"text", "partial text", "no crash"}
SMALL = "# A note\n\nTwo sentences of it. They say little.\n"


class MemoryWatch:
    """Samples the memory of this process and of a pool's workers in a thread of its own, in MiB."""

    def __init__(self, pool: ParserPool) -> None:
        self._pool = pool
        self._own = psutil.Process()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.service_mb = self.worker_mb = self.all_mb = 0.0

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _sample(self) -> None:
        while not self._ended.wait(0.005):
            self._look()

    def _look(self) -> None:
        own = self._own.memory_info().rss / 2**20
        workers = [_resident_mb(pid) for pid in self._pool.pids]
        self.service_mb = max(self.service_mb, own)
        self.worker_mb = max(self.worker_mb, *workers, 0.0)
        self.all_mb = max(self.all_mb, own + sum(workers))


@dataclass(frozen=True)
class Row:
    """What became of one file."""

    file: str
    format: str
    outcome: str
    found: int
    missing: list[str]
    fault: str
    time_s: float
    behind_s: float
    service_mb: float
    worker_mb: float
    all_mb: float
    size: int


async def read(case: dict[str, Any], folder: Path, pool: ParserPool, cutter: Cutter) -> Row:
    """Read one file, and a small document right behind it."""
    content = (folder / case["file"]).read_bytes()
    name = Path(case["file"]).name
    with MemoryWatch(pool) as memory:
        started = time.perf_counter()
        try:
            cut: CutDocument | PermanentError = await cutter.cut(change(name), content)
        except PermanentError as error:
            cut = error
        time_s = time.perf_counter() - started
        started = time.perf_counter()
        await asyncio.gather(*(cutter.cut(change("note.md"), SMALL) for _ in pool.pids))
        behind_s = time.perf_counter() - started
    shown = "" if isinstance(cut, PermanentError) else squeezed(all_text(cut))
    phrases = {phrase: squeezed(phrase) in shown for phrase in case["must_contain"]}
    missing = [phrase for phrase, is_there in phrases.items() if not is_there]
    unwanted = [phrase for phrase in case["must_not_contain"] if squeezed(phrase) in shown]
    return Row(
        name, case["format"], outcome(cut), len(phrases) - len(missing), missing,
        fault(case["expect"], cut, missing, unwanted),
        time_s, behind_s, memory.service_mb, memory.worker_mb, memory.all_mb, len(content),
    )  # fmt: skip


def fault(expect: str, cut: CutDocument | PermanentError, missing: list[str], unwanted: list[str]) -> str:
    """How the outcome differs from what the manifest expects; empty when it does not."""
    expected = expect.split(" or ")
    if isinstance(cut, PermanentError):
        allowed = set().union(*(ALLOWED[one] for one in expected))
        return "" if cut.reason in allowed else f"expected {expect}, got {cut.reason}: {cut}"
    if not TEXT.intersection(expected) or missing or unwanted:
        return f"expected {expect}; missing {missing}, unwanted {unwanted}"
    return ""


def outcome(cut: CutDocument | PermanentError) -> str:
    """In a word or two."""
    if isinstance(cut, PermanentError):
        return cut.reason
    return f"{len(cut.manifest)} chunks {cut.language or '-'}"


def all_text(cut: CutDocument) -> str:
    """Whatever is indexed: titles and headings are part of every chunk."""
    return "\n".join("\n".join((*entry.heading_path, entry.text or "")) for entry in cut.manifest)


def squeezed(text: str) -> str:
    """Without white space."""
    return "".join(text.split())


def change(uri: str) -> DocumentChanged:
    """A new document that declares nothing of itself but its name."""
    return DocumentChanged(
        tenant="bench", document_id=uri, source="bench", op="upsert", revision=1, uri=uri, content=""
    )


def _resident_mb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def table(rows: list[Row]) -> Iterator[str]:
    """One line a file."""
    names = ("phrases", "ms", "next ms", "service", "worker", "all MiB")
    yield f"{'file':38} {'outcome':26} " + " ".join(f"{name:>8}" for name in names)
    for row in rows:
        phrases = f"{row.found}/{row.found + len(row.missing)}"
        yield (
            f"{row.file[:38]:38} {row.outcome:26} {phrases:>8} {row.time_s * 1e3:8.1f} {row.behind_s * 1e3:8.1f} "
            f"{row.service_mb:8.0f} {row.worker_mb:8.0f} {row.all_mb:8.0f}  {row.fault and 'FAULT: ' + row.fault}"
        )


def by_format(rows: list[Row]) -> Iterator[str]:
    """Time and throughput of what was read, a format a line."""
    formats: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if "chunks" in row.outcome:
            formats[row.format].append(row)
    yield f"\n{'format':10} {'files':>5} {'median ms':>10} {'most ms':>9} {'KB/s':>8}"
    for name, group in sorted(formats.items()):
        times = [row.time_s for row in group]
        rate = sum(row.size for row in group) / sum(times) / 1e3
        yield f"{name:10} {len(group):5} {statistics.median(times) * 1e3:10.1f} {max(times) * 1e3:9.1f} {rate:8.0f}"


async def overhead(cutter: Cutter) -> str:
    """What isolation costs a small document, against the same work in this process."""
    job = CutJob("bench", "note", None, "note.md", None, EMBEDDER, CHUNK_TOKENS, is_text=True)
    isolated, plain = [], []
    for _ in range(300):
        started = time.perf_counter()
        await cutter.cut(change("note.md"), SMALL)
        isolated.append(time.perf_counter() - started)
        started = time.perf_counter()
        cut_document(asdict(job), SMALL.encode())
        plain.append(time.perf_counter() - started)
    both = [statistics.median(times) * 1e3 for times in (isolated, plain)]
    p99 = sorted(isolated)[int(0.99 * len(isolated))] * 1e3
    return (
        f"\na small document: {both[0]:.2f} ms isolated (p99 {p99:.2f}), {both[1]:.2f} ms in process: "
        f"isolation costs {both[0] - both[1]:.2f} ms"
    )


async def measure(arguments: argparse.Namespace) -> int:
    """Read all files; returns the exit code."""
    cases = [json.loads(line) for line in (arguments.data / "manifest.jsonl").read_text().splitlines()]
    started = time.perf_counter()
    async with ParserPool(
        WORK, workers=arguments.workers, time_limit_s=arguments.time_limit_s, memory_limit_mb=arguments.memory_mb
    ) as pool:
        started_s = time.perf_counter() - started
        cutter = Cutter(
            pool,
            chunk_tokens=CHUNK_TOKENS,
            embedder=EMBEDDER,
            window_tokens=load_token_counter(EMBEDDER).window_tokens,
            max_document_mb=100,
        )
        rows = [await read(case, arguments.data, pool, cutter) for case in cases]
        lines = [*table(rows), *by_format(rows), await overhead(cutter)]
    faults = sum(bool(row.fault) for row in rows)
    held_up_s, most_mb = max(row.behind_s for row in rows), max(row.all_mb for row in rows)
    lines.append(f"starting {arguments.workers} workers: {started_s * 1e3:.0f} ms")
    lines.append(
        f"{len(rows)} files, {faults} faults; the next document waited {held_up_s:.2f} s at most; "
        f"{most_mb:.0f} MiB at most in all processes together"
    )
    sys.stdout.write("\n".join(lines) + "\n")
    return int(faults > 0 or held_up_s > arguments.time_limit_s or most_mb >= MOST_MB)


def main() -> int:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the documents and their manifest")
    parser.add_argument("--workers", type=int, default=2, help="how many worker processes")
    parser.add_argument("--time-limit-s", type=float, default=20.0, help="the longest for one document, in seconds")
    parser.add_argument("--memory-mb", type=int, default=400, help="the most private memory of a worker, in MiB")
    return asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
