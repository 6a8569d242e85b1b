"""The `ragline` command as a user runs it: on a real stack, and on purpose wrongly."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

RAGLINE = [sys.executable, "-m", "ragline.cli"]


def environment(folder: Path, **extra: str) -> dict[str, str]:
    free = {f"RAGLINE_RPC__{name}": "127.0.0.1:0" for name in ("GATEWAY", "INGEST", "INDEXING", "RETRIEVE", "EVAL")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAGLINE_")}
    return {**kept, **free, "RAGLINE_BUS__PORT": "0", "RAGLINE_DATA_DIR": str(folder),
            "RAGLINE_MODELS__EMBEDDER": "wordllama", "COLUMNS": "120", **extra}  # fmt: skip


async def ragline(folder: Path, *arguments: str, **extra: str) -> tuple[int, str, str]:
    """Run a command to its end: (exit code, standard output, standard error)."""
    process = await asyncio.create_subprocess_exec(
        *RAGLINE, *arguments, env=environment(folder, **extra), stdout=PIPE, stderr=PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, out.decode(), err.decode()


async def ragline_json(folder: Path, *arguments: str) -> dict:  # type: ignore[type-arg]
    code, out, err = await ragline(folder, *arguments, "--json")
    assert code == 0, (out, err)
    assert len(out.splitlines()) == 1
    return json.loads(out)


@asynccontextmanager
async def up(folder: Path, *options: str) -> AsyncIterator[Process]:
    """`ragline up --json`, ready."""
    process = await asyncio.create_subprocess_exec(
        *RAGLINE, "up", "--json", *options, env=environment(folder), stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 120)
        assert line, (await process.stderr.read()).decode() if process.stderr else ""
        assert json.loads(line)["ready"] is True
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), 30)


def one_line(err: str) -> str:
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("ragline: ")
    return err


@pytest.fixture(scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The data directory of a stack that runs as five processes."""
    folder = tmp_path_factory.mktemp("up")
    async with up(folder, "--processes"):
        yield folder


async def test_a_user_publishes_asks_and_reads_the_provenance(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "leave.md").write_text("# Leave\n\nEvery employee has 25 days of paid leave a year.")
    (tmp_path / "docs" / "notes.bin").write_bytes(b"\x00\x01")
    published = await ragline_json(folder, "publish", str(tmp_path / "docs"))
    assert published["searchable"] == 1

    answer = await ragline_json(
        folder, "ask", "How many days of paid leave are there?", "--min-version", published["index_version"]
    )
    assert "25 days" in answer["text"]
    shown = await ragline_json(folder, "answer", "show", answer["answer_id"])
    assert shown["index_version"] == answer["index_version"]
    status = await ragline_json(folder, "index", "status")
    assert int(status["documents"]) == 1
    assert (await ragline_json(folder, "index", "verify"))["matches"] is True
    assert (await ragline_json(folder, "index", "log"))["commits"][0]["version"] == published["index_version"]
    assert (await ragline_json(folder, "search", "paid leave"))["hits"][0]["document_id"] == "leave.md"

    code, out, _ = await ragline(folder, "ask", "How many days of paid leave are there?")
    assert code == 0
    assert "leave.md" in out
    assert answer["index_version"]["version"] in out
    code, out, _ = await ragline(folder, "answer", "show", answer["answer_id"])
    assert code == 0
    assert "evidence at" in out


async def test_doctor_finds_the_running_stack_healthy(folder: Path) -> None:
    code, out, _ = await ragline(folder, "doctor", "--json")
    assert code == 0, out
    assert json.loads(out)["healthy"] is True


async def test_a_second_stack_in_the_same_data_directory_is_refused_with_one_line(folder: Path) -> None:
    code, _, err = await ragline(folder, "up", "--json")
    assert code == 2 or "in use" in err, err


async def test_bad_input_gets_one_line_that_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    for arguments, expected in (
        (("ask", ""), "question"),
        (("ask", "x", "--at", "yesterday"), "g1@42"),
        (("ask", "x", "--at", "g1@999999"), "cannot be read"),
        (("answer", "show", "no-such-answer"), "answer"),
        (("publish", str(tmp_path / "missing")), "does not exist"),
        (("search", "x", "--limit", "1000"), "limit"),
        (("key", "create", "--user", "x", "--scope", "everything"), "scope"),
    ):
        code, _, err = await ragline(folder, *arguments)
        assert code != 0, arguments
        assert expected in one_line(err), arguments


async def test_without_a_stack_the_error_says_how_to_start_one(short_dir: Path) -> None:
    code, _, err = await ragline(short_dir, "ask", "anything")
    assert code == 2
    assert "ragline up" in one_line(err)
    code, out, _ = await ragline(short_dir, "ask", "anything", "--json")
    assert code == 2
    assert json.loads(out)["error"]["reason"] == "CONFIGURATION"


async def test_a_busy_port_is_named_with_its_setting(short_dir: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        code, _, err = await ragline(short_dir, "up", RAGLINE_RPC__GATEWAY=f"127.0.0.1:{port}")
    assert code == 2
    assert str(port) in one_line(err)
    assert "RAGLINE_RPC__GATEWAY" in err


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RAGLINE_BUS__PORT", "many"),
        ("RAGLINE_MODELS__EMBEDDER", "word2vec"),
        ("RAGLINE_GENERATE__MAX_TOKENS", "-1"),
    ],
)
async def test_a_broken_setting_is_named(short_dir: Path, variable: str, value: str) -> None:
    code, _, err = await ragline(short_dir, "up", **{variable: value})
    assert code == 2
    assert variable in one_line(err).replace("models.embedder", "RAGLINE_MODELS__EMBEDDER")


async def test_ctrl_c_stops_everything_within_ten_seconds(short_dir: Path) -> None:
    async with up(short_dir) as process:
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 30)
        seconds = time.monotonic() - started
    assert seconds < 10
    assert process.returncode == 0
    _, alive = psutil.wait_procs(children, timeout=3)
    assert not alive
