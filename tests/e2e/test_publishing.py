"""Publishing as a user does it: folders, patterns, feeds, watching, previews, what cannot be read, any Kafka client."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import docx
import pytest

from ragline.client import Ragline
from ragline.local.data_dir import DataDir
from tests.e2e.test_command_line import RAGLINE, environment, one_line, ragline, ragline_json, up
from tests.unit.ingest.pdf_files import column, pdf

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The data directory of a stack that runs as five processes."""
    folder = tmp_path_factory.mktemp("up")
    async with up(folder, "--processes"):
        yield folder


async def found(folder: Path, query: str) -> set[str]:
    """The ids of the documents that a search finds."""
    return {hit.document_id for hit in await hits_of(folder, query)}


async def hits_of(folder: Path, query: str) -> Sequence[Any]:
    """What a search finds, over gRPC: much faster than a command each time."""
    data_dir = DataDir(folder)
    stack = data_dir.read_stack()
    assert stack is not None
    async with Ragline(stack.addresses["gateway"], data_dir.dev_key.read_text().strip()) as client:
        return (await client.search(query)).hits


async def refused(folder: Path, *arguments: str) -> dict[str, Any]:
    """What a publication says that ended with 1 because of some of its documents."""
    code, out, err = await ragline(folder, *arguments, "--json")
    assert code == 1, (out, err)
    said: dict[str, Any] = json.loads(out)
    return said


async def eventually(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.1)


def write(folder: Path, **files: str) -> Path:
    """Markdown files by name; `a__b` is the file b.md in the folder a."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def word_document(text: str) -> bytes:
    document, file = docx.Document(), io.BytesIO()
    document.add_paragraph(text)
    document.save(file)
    return file.getvalue()


async def test_a_folder_is_published_with_its_subfolders_in_every_format_that_is_known(
    folder: Path, tmp_path: Path
) -> None:
    docs = write(
        tmp_path / "docs", top="# Holidays\n\nThe office closes at Easter.", deep__er="# Bikes\n\nIn the cellar."
    )
    (docs / "plan.pdf").write_bytes(pdf(column("The zeppelin is refuelled on Tuesdays.")))
    (docs / "memo.docx").write_bytes(word_document("The xylophone is kept in room seven."))
    (docs / "legacy.txt").write_bytes("Das Café öffnet um zehn.".encode("latin-1"))
    (docs / "picture.png").write_bytes(b"\x89PNG")
    write(docs, **{".hidden": "# Hidden"})

    published = await ragline_json(folder, "publish", str(docs), "--prefix", "f/")

    assert (published["published"], published["searchable"], published["rejected"]) == (5, 5, [])
    assert published["index_version"].startswith("g1@")
    assert "f/plan.pdf" in await found(folder, "When is the zeppelin refuelled?")
    assert "f/memo.docx" in await found(folder, "Where is the xylophone kept?")


async def test_a_pattern_names_files_below_the_folder_that_it_begins_with(folder: Path, tmp_path: Path) -> None:
    docs = write(
        tmp_path / "docs", a__guide="# Quokkas\n\nQuokkas smile.", b__guide="# Wombats\n\nWombats dig.", c="# C"
    )

    published = await ragline_json(folder, "publish", f"{docs}/**/guide.md", "--prefix", "g/")
    assert published["searchable"] == 2
    assert {"g/a/guide.md", "g/b/guide.md"} <= await found(folder, "quokkas and wombats")

    code, _, err = await ragline(folder, "publish", f"{docs}/*.pdf")
    assert code == 1
    assert "matches no file" in one_line(err)
    code, _, err = await ragline(folder, "publish", f"{docs}/a/guide.md", f"{docs}/b/guide.md")
    assert code == 1
    assert "--prefix" in one_line(err)


async def test_a_feed_is_replayed_with_its_deletions_and_renames(folder: Path, tmp_path: Path) -> None:
    lines = [
        {"seq": 1, "op": "upsert", "uri": "feed/old", "title": "Narwhals", "content": "Narwhals have one tusk."},
        {"seq": 2, "op": "upsert", "uri": "feed/gone", "content": "Dodos cannot fly."},
        {"seq": 3, "op": "upsert", "uri": "feed/kept", "content": "Otters hold hands."},
        {"seq": 4, "op": "delete", "uri": "feed/old"},
        {"seq": 4, "op": "upsert", "uri": "feed/new", "title": "Narwhals", "content": "Narwhals have one tusk."},
        {"seq": 5, "op": "delete", "uri": "feed/gone"},
    ]
    feed = tmp_path / "changes.jsonl.gz"
    with gzip.open(feed, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)

    for _ in range(2):  # a replay is harmless
        assert (await ragline_json(folder, "publish", "--feed", str(feed)))["searchable"] == 4

    hits = await found(folder, "narwhals, dodos and otters")
    assert {name for name in hits if name.startswith("feed/")} == {"feed/new", "feed/kept"}

    feed.write_bytes(feed.read_bytes()[:-20])
    code, _, err = await ragline(folder, "publish", "--feed", str(feed))
    assert code == 1
    assert "changes.jsonl.gz cannot be read" in one_line(err)


async def test_sync_makes_the_index_equal_to_the_folder(folder: Path, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", stays="# Stays", changes="# Lamps\n\nLamps are green.", goes="# Goes\n\nAway.")
    write(tmp_path / "other", apart="# Apart\n\nAnother prefix.")
    sync = ("publish", str(docs), "--sync", "--source", "sync", "--prefix", "s/")
    assert (await ragline_json(folder, *sync))["searchable"] == 3
    await ragline_json(folder, "publish", str(tmp_path / "other"), "--source", "sync", "--prefix", "t/")

    (docs / "goes.md").unlink()
    write(docs, changes="# Lamps\n\nLamps are purple.", comes="# Comes\n\nAnew.")
    await ragline_json(folder, *sync)

    hits = await found(folder, "stays lamps goes comes apart anew away")
    assert {name for name in hits if name[:2] in ("s/", "t/")} == {
        "s/stays.md",
        "s/changes.md",
        "s/comes.md",
        "t/apart.md",
    }
    assert "purple" in (await hits_of(folder, "lamps are purple"))[0].text


async def test_a_watched_folder_is_followed_until_ctrl_c(folder: Path, tmp_path: Path) -> None:
    docs = write(
        tmp_path / "docs", edited="# Tea\n\nTea is brown.", deleted="# Milk\n\nMilk is white.", moved__in="# Ink"
    )
    process = await asyncio.create_subprocess_exec(
        *RAGLINE, "publish", str(docs), "--watch", "--prefix", "w/", "--json",
        env=environment(folder), stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        first = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        assert first["searchable"] == 3
        write(docs, edited="# Tea\n\nTea is turquoise.", added="# Cocoa\n\nCocoa is violet.")
        (docs / "deleted.md").unlink()
        (docs / "moved").rename(docs / "to")
        (docs / "notes.tmp").write_text("no document")

        async def followed() -> bool:
            hits = await found(folder, "tea turquoise cocoa violet milk white ink")
            return {name for name in hits if name[:2] == "w/"} == {"w/edited.md", "w/added.md", "w/to/in.md"}

        await eventually(followed)
        assert "turquoise" in (await hits_of(folder, "tea is turquoise"))[0].text
    finally:
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert err == b""


async def test_a_preview_makes_nothing_visible(folder: Path, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", plan="# Moon\n\nThe moon is cheese.")
    await ragline_json(folder, "publish", str(docs), "--prefix", "p/")
    before = await ragline_json(folder, "index", "status")
    write(docs, plan="# Moon\n\nThe moon is basalt.", fresh="# Sun\n\nThe sun is plasma.")

    code, out, _ = await ragline(folder, "publish", str(docs), "--prefix", "p/", "--preview", "--json")
    assert code == 0
    plan = {line["document_id"]: line for line in map(json.loads, out.splitlines())}
    assert [chunk["text"] for chunk in plan["p/plan.md"]["opened"]] == ["The moon is basalt."]
    assert len(plan["p/plan.md"]["closed"]) == 1
    assert int(plan["p/fresh.md"]["to_embed"]) == 1
    code, out, _ = await ragline(folder, "publish", "plan.md", "--prefix", "p/", "--delete", "--preview", "--json")
    assert (code, len(json.loads(out)["closed"]), json.loads(out)["opened"]) == (0, 1, [])

    assert await ragline_json(folder, "index", "status") == before
    assert "p/fresh.md" not in await found(folder, "the sun is plasma")


async def test_documents_are_deleted_by_name(folder: Path, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", one="# Pandas\n\nPandas eat bamboo.", two="# Koalas\n\nKoalas eat eucalyptus.")
    await ragline_json(folder, "publish", str(docs), "--prefix", "d/")

    deleted = await ragline_json(folder, "publish", "--delete", "d/one.md", "d/never-was.md")

    assert deleted["searchable"] == 2
    hits = await found(folder, "pandas and koalas eat")
    assert "d/two.md" in hits
    assert "d/one.md" not in hits


async def test_what_cannot_be_read_costs_itself_alone(folder: Path, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", good="# Ferns\n\nFerns have spores.")
    (docs / "torn.pdf").write_bytes(b"%PDF-1.7\nnot really")
    (docs / "picture.png").write_bytes(b"\x89PNG")

    said = await refused(folder, "publish", str(docs), str(docs / "picture.png"), "--prefix", "u/")
    assert (said["searchable"], [name["document_id"] for name in said["rejected"]]) == (1, ["u/torn.pdf"])
    (line,) = said["unreadable"]
    assert "picture.png is not of a kind that can be read" in line
    assert "u/good.md" in await found(folder, "ferns have spores")

    code, out, _ = await ragline(folder, "publish", str(docs), str(docs / "picture.png"), "--prefix", "u/")
    assert code == 1
    assert [line.split()[0] for line in out.splitlines() if "torn.pdf" in line or "picture.png" in line] == [
        "not",
        "rejected",
    ]


async def test_a_dead_letter_is_listed_shown_replayed_and_discarded(folder: Path) -> None:
    url = "https://127.0.0.1/secret.md"  # no reference may lead to a private address
    said = await refused(folder, "publish", url)
    assert "refused" in said["rejected"][0]["reason"]

    (letter,) = (await ragline_json(folder, "dlq", "list"))["dead_letters"]
    assert (letter["reason"], letter["service"]) == ("CONTENT_REF_REFUSED", "ingest")
    shown = await ragline_json(folder, "dlq", "show", letter["id"])
    assert json.loads(shown["body"])["content_ref"] == url
    code, out, _ = await ragline(folder, "dlq", "show", letter["id"])
    assert code == 0
    assert "CONTENT_REF_REFUSED" in out

    assert (await ragline_json(folder, "dlq", "replay", letter["id"]))["replayed"] == [letter["id"]]

    async def died_again() -> bool:
        letters = (await ragline_json(folder, "dlq", "list"))["dead_letters"]
        return [each["reason"] for each in letters] == ["CONTENT_REF_REFUSED"] and letters[0]["id"] != letter["id"]

    await eventually(died_again)
    await ragline_json(folder, "dlq", "discard", "--all")
    assert (await ragline_json(folder, "dlq", "list"))["dead_letters"] == []
    code, _, err = await ragline(folder, "dlq", "show", "no/such/letter")
    assert code == 3
    assert "dlq list" in one_line(err)


async def test_without_waiting_the_documents_become_searchable_in_the_background(folder: Path, tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", later="# Herons\n\nHerons stand on one leg.")

    said = await ragline_json(folder, "publish", str(docs), "--prefix", "n/", "--no-wait")
    assert (said["published"], said["searchable"], said["index_version"]) == (1, 0, "")

    async def searchable() -> bool:
        return "n/later.md" in await found(folder, "herons stand on one leg")

    await eventually(searchable)


async def test_reconciling_a_healthy_index_finds_nothing_to_do(folder: Path) -> None:
    assert await ragline_json(folder, "index", "reconcile") == {"found_searchable": 0, "announced_again": 0}
    code, out, _ = await ragline(folder, "index", "reconcile")
    assert (code, "announced again" in out) == (0, True)


async def test_the_example_of_a_plain_kafka_producer_runs(folder: Path) -> None:
    stack = DataDir(folder).read_stack()
    assert stack is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "examples/publish_from_kafka.py"), "--bootstrap", stack.addresses["bus"],
        stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert [line.split()[:2] for line in out.decode().splitlines()] == [
        ["wiki/leave", "indexed"], ["wiki/canteen", "indexed"], ["wiki/leave", "indexed"], ["wiki/canteen", "indexed"],
    ]  # fmt: skip
    hits = await found(folder, "paid leave canteen noon")
    assert not hits.intersection({"wiki/leave", "wiki/canteen"})  # one is for the group board alone, one is retired
