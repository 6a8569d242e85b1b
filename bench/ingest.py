"""`make bench-ingest`: documents a second from publish to visible, against a bare loop; reuse; freshness.

    python -m bench.ingest --data ../shared/data --embedder wordllama

The bare loop parses, cuts, embeds (each content once) and writes the same documents into the same engine,
with no bus, registry, ledger or versions: the limit. The change stream is the PEP feed (its README names the
fields); "exact" compares the chunks that Ragline embedded with the contents that are new in the feed.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from bench.results_file import write
from ragline.cli.documents import FeedLine, PublishOptions, read_feed
from ragline.cli.publishing import Publisher, publisher
from ragline.cli.session import Session
from ragline.contracts.events import DocumentChanged
from ragline.index.connect import connect_engine
from ragline.index.engine import WHOLE_TENANT, NewPoint, Payload
from ragline.index.identity import chunk_id, content_hash, embedder_input, metadata_hash, point_id
from ragline.local.stack import local_stack
from ragline.models.embedding import load_embedder, load_token_counter
from ragline.models.sparse import Bm25Encoder
from ragline.settings import BusSettings, ModelSettings, RpcSettings, Settings
from services.all_in_one import running
from services.ingest.chunking import cut
from services.ingest.parsing import parse

FREE = "127.0.0.1:0"
OPTIONS = PublishOptions(tenant="default", source="bench")


@dataclass
class Bare:
    """What the bare loop did."""

    seconds: float = 0.0
    documents: int = 0
    chunks_written: int = 0
    new_contents: set[str] = field(default_factory=set)
    whole_chunks: int = 0
    """Chunks of every changed document, as if each were embedded whole."""
    new_in_changes: int = 0


def settings(folder: Path, embedder: str) -> Settings:
    """A stack of its own on free ports."""
    rpc = RpcSettings(gateway=FREE, ingest=FREE, indexing=FREE, retrieve=FREE, eval=FREE)
    return Settings.load(data_dir=folder, bus=BusSettings(port=0), rpc=rpc, models=ModelSettings(embedder=embedder))


def feed_lines(data: Path) -> list[dict[str, Any]]:
    """The PEP feed, in order."""
    with gzip.open(data / "change-stream-peps" / "feed.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


async def bare_loop(lines: Sequence[dict[str, Any]], folder: Path, embedder_name: str) -> Bare:
    """Parse, cut, embed what is new, write; one document after the other."""
    embedder = load_embedder(embedder_name, cache_dir=folder / "models")
    counter, sparse, bare = load_token_counter(embedder_name), Bm25Encoder(), Bare()
    async with local_stack(settings(folder, embedder_name)) as stack:
        engine = connect_engine(stack.settings.engine_url)
        await engine.create_generation("g1", embedder.dimensions)
        vectors: dict[str, np.ndarray[Any, Any]] = {}
        visible: dict[str, dict[str, Any]] = {}
        started = time.perf_counter()
        for line in lines:
            uri, sequence = line["uri"], line["seq"]
            wanted: dict[str, tuple[str, tuple[str, ...], str]] = {}
            if line["op"] == "upsert":
                parsed = parse(line["content"], content_type=None, uri=uri, title=line.get("title"))
                for chunk in cut(parsed, counter=counter, chunk_tokens=200):
                    hashed = content_hash(embedder_input(chunk.heading_path, chunk.text))
                    wanted[chunk_id("default", uri, hashed, 0)] = (hashed, chunk.heading_path, chunk.text)
            new = {hashed: (path, text) for hashed, path, text in wanted.values() if hashed not in vectors}
            if new:
                inputs = [embedder_input(path, text) for path, text in new.values()]
                vectors.update(zip(new, embedder.embed(inputs), strict=True))
            held = visible.get(uri, {})
            points = [
                _point(uri, chunk, *wanted[chunk], sequence, vectors, sparse) for chunk in wanted if chunk not in held
            ]
            await engine.insert("g1", sequence, points)
            closed = [held[chunk] for chunk in held if chunk not in wanted]
            await engine.close("g1", sequence, closed, frozenset())
            visible[uri] = {c: held.get(c) or point_id("g1", c, sequence) for c in wanted}
            bare.documents += 1
            bare.chunks_written += len(points)
            bare.new_contents.update(new)
            if line.get("phase") != "initial" and line["op"] == "upsert":
                bare.whole_chunks += len(wanted)
                bare.new_in_changes += len(new)
        bare.seconds = time.perf_counter() - started
        await engine.aclose()
    return bare


def _point(
    uri: str,
    chunk: str,
    hashed: str,
    path: tuple[str, ...],
    text: str,
    sequence: int,
    vectors: Any,
    sparse: Bm25Encoder,
) -> NewPoint:
    payload = Payload(
        tenant="default", document_id=uri, chunk_id=chunk, content_hash=hashed, metadata_hash=metadata_hash({}),
        text=text, heading_path=path, title=path[0] if path else "", uri=uri, groups=(WHOLE_TENANT,),
    )  # fmt: skip
    return NewPoint(
        point_id("g1", chunk, sequence), vectors[hashed], sparse.document(embedder_input(path, text)), payload
    )


async def ragline_run(feed: Path, folder: Path, embedder: str) -> dict[str, Any]:
    """Replay the feed through the whole pipeline, services as processes; from publish to all visible."""
    async with running(settings(folder, embedder), processes=True) as up:
        session = Session(as_json=True, data_dir=folder)
        async with publisher(session) as out:
            started = time.perf_counter()
            newest = await out.send(read_feed(feed, OPTIONS), OPTIONS, bulk=True)
            outcome = await out.follow(newest, timeout_s=3600)
            seconds = time.perf_counter() - started
            embedded = await _embedded(up.stack.settings.database_url)
            freshness = await _freshness(out, feed, seconds)
    return {"seconds": seconds, "rejected": len(outcome.rejected), "embedded": embedded, "freshness": freshness}


async def _embedded(url: str) -> int:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute("SELECT count(*) FROM embed.embedding")
        row = await cursor.fetchone()
        return int(row[0]) if row else 0


async def _freshness(out: Publisher, feed: Path, seconds: float) -> dict[str, Any]:
    """Publish modifications again, each changed by a word, at half of the rate that was sustained."""
    events = [event for event in read_feed(feed, OPTIONS) if event.op == "upsert"][-200:]
    interval_s = 2 * seconds / 1093
    latencies: list[float] = []

    async def publish(number: int, event: DocumentChanged) -> None:
        await asyncio.sleep(number * interval_s)
        changed = event.model_copy(
            update={"revision": 10_000 + number, "content": f"{event.content}\n\nEdition {number}.\n"}
        )
        started = time.perf_counter()
        await out.send([changed], OPTIONS, bulk=False)
        await out.client.wait_for_document(event.document_id, revision=changed.revision, deadline_s=120)
        latencies.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        for number, event in enumerate(events):
            group.create_task(publish(number, event))
    quantiles = statistics.quantiles(latencies, n=100)
    return {
        "documents": len(latencies),
        "interval_s": round(interval_s, 4),
        "p50_s": round(quantiles[49], 3),
        "p90_s": round(quantiles[89], 3),
        "p99_s": round(quantiles[98], 3),
        "histogram_s": _histogram(latencies),
    }


def _histogram(latencies: Iterable[float]) -> dict[str, int]:
    limits = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
    counts = {f"<={limit}": 0 for limit in limits} | {">8": 0}
    for latency in latencies:
        counts[next((f"<={limit}" for limit in limits if latency <= limit), ">8")] += 1
    return counts


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--embedder", default="wordllama", choices=["wordllama", "minilm"])
    arguments = parser.parse_args()
    feed = arguments.data / "change-stream-peps" / "feed.jsonl.gz"
    lines = feed_lines(arguments.data)
    FeedLine.model_validate(lines[0])
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as folder:
        bare = await bare_loop(lines, Path(folder) / "bare", arguments.embedder)
        print(f"bare loop: {bare.documents / bare.seconds:.1f} documents/s")
        ours = await ragline_run(feed, Path(folder) / "ours", arguments.embedder)
    rate, bare_rate = len(lines) / ours["seconds"], bare.documents / bare.seconds
    measured = {
        "embedder": arguments.embedder,
        "documents": len(lines),
        "ratio_to_bare_loop": round(rate / bare_rate, 3),
        "documents_per_s": round(rate, 2),
        "bare_documents_per_s": round(bare_rate, 2),
        "chunks_embedded": ours["embedded"],
        "contents_new_in_the_feed": len(bare.new_contents),
        "embedded_exactly_what_is_new": ours["embedded"] == len(bare.new_contents),
        "reuse": {
            "new_chunks_in_changes": bare.new_in_changes,
            "chunks_of_changed_documents": bare.whole_chunks,
            "share_embedded": round(bare.new_in_changes / bare.whole_chunks, 4),
        },
        "rejected": ours["rejected"],
        "freshness": ours["freshness"],
    }
    print(json.dumps(measured, indent=2))
    print("written to", write(f"ingest-{arguments.embedder}", measured).name)


if __name__ == "__main__":
    asyncio.run(main())
