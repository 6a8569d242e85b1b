"""Child processes: ready or a clear error, stopped in bounded time, gone when their parent is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ragline.errors import ConfigurationError, TransientError
from ragline.local.data_dir import DataDir
from ragline.local.processes import ChildProcess

START_A_CHILD = """
import asyncio, psutil, sys
from ragline.local.data_dir import DataDir
from ragline.local.processes import ChildProcess

async def main():
    data_dir = DataDir(sys.argv[1])
    with data_dir.lock():
        child = ChildProcess("sleeper", ("/bin/sleep", "300"), data_dir)
        await child.start()
        while not psutil.Process(child.guard_pid).children():
            await asyncio.sleep(0.01)
        print(child.guard_pid, flush=True)
        await child.wait()

asyncio.run(main())
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "state")


def shell(data_dir: DataDir, script: str, *, stop_s: float = 5.0) -> ChildProcess:
    return ChildProcess("child", ("/bin/sh", "-c", script), data_dir, stop_s=stop_s)


def logs(child: ChildProcess, text: str) -> asyncio.Task[None]:
    """Waits until the child has logged the text."""

    async def wait() -> None:
        while text not in child.log.read_text():
            await asyncio.sleep(0.01)

    return asyncio.create_task(wait())


async def program_of(child: ChildProcess) -> psutil.Process:
    """The guarded process itself, once it is there."""
    while not (found := psutil.Process(child.guard_pid).children()):
        await asyncio.sleep(0.01)
    return found[0]


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # ended, but its new parent has not looked yet
    except psutil.NoSuchProcess:
        return True


async def all_gone(processes: list[psutil.Process]) -> bool:
    async with asyncio.timeout(10):
        while not all(has_ended(process) for process in processes):
            await asyncio.sleep(0.01)
    return True


async def never() -> bool:
    return False


async def test_output_goes_to_a_log_that_only_this_user_reads(data_dir: DataDir) -> None:
    child = shell(data_dir, "echo out; echo err >&2")
    await child.run(10)
    assert child.log == data_dir.logs / "child.log"
    assert child.log.read_text() == "out\nerr\n"
    assert child.log.stat().st_mode & 0o777 == 0o600


async def test_the_child_is_waited_for_until_it_is_ready(data_dir: DataDir) -> None:
    child = shell(data_dir, f"touch {data_dir.run}/ready; sleep 300")

    async def is_ready() -> bool:
        return (data_dir.run / "ready").exists()

    await child.start()
    await child.wait_ready(is_ready, 10)
    assert child.running
    await child.stop()
    assert not child.running


async def test_an_early_end_quotes_the_error_of_this_run(data_dir: DataDir) -> None:
    await shell(data_dir, "echo FATAL: an older error").run(10)
    child = shell(data_dir, "echo FATAL: no such switch; echo DETAIL: see below; exit 3")
    await child.start()
    with pytest.raises(ConfigurationError) as caught:
        await child.wait_ready(never, 10)
    assert str(caught.value) == (
        f"child failed with exit code 3: FATAL: no such switch (see {data_dir.logs}/child.log)"
    )


async def test_a_full_disk_in_the_childs_log_says_what_to_do(data_dir: DataDir) -> None:
    with pytest.raises(ConfigurationError, match=r"disk full: free some space.*--data-dir"):
        await shell(data_dir, "echo 'No space left on device'; echo PANIC; exit 1").run(10)


async def test_a_program_that_cannot_be_run_is_named(data_dir: DataDir) -> None:
    child = ChildProcess("child", ("/nonexistent/program",), data_dir)
    with pytest.raises(ConfigurationError, match=r"cannot run /nonexistent/program: No such file"):
        await child.run(10)


async def test_a_child_that_is_not_ready_in_time_is_stopped(data_dir: DataDir) -> None:
    child = shell(data_dir, "echo still loading; sleep 300")
    await child.start()
    await logs(child, "still loading")
    processes = [psutil.Process(child.guard_pid), await program_of(child)]
    with pytest.raises(TransientError, match=r"not ready after 0\.05 s: still loading"):
        await child.wait_ready(never, 0.05)
    assert await all_gone(processes)


async def test_cancelling_the_wait_for_readiness_stops_the_child(data_dir: DataDir) -> None:
    child = shell(data_dir, "sleep 300")
    await child.start()
    processes = [psutil.Process(child.guard_pid), await program_of(child)]
    waiting = asyncio.create_task(child.wait_ready(never, 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await all_gone(processes)


async def test_stopping_asks_first(data_dir: DataDir) -> None:
    child = shell(data_dir, "trap 'echo stopped well; exit 0' TERM; echo up; while :; do sleep 0.01; done")
    await child.start()
    await logs(child, "up")
    await child.stop()
    assert child.last_log_line() == "stopped well"
    assert await child.wait() == 0


async def test_a_child_that_does_not_obey_is_killed_with_its_own_children(data_dir: DataDir) -> None:
    child = shell(data_dir, "trap '' TERM; sleep 300 & echo up; wait; sleep 300", stop_s=0.2)
    await child.start()
    await logs(child, "up")
    program = await program_of(child)
    processes = [program, *program.children()]
    assert len(processes) == 2
    await child.stop()
    assert await child.wait() == 128 + signal.SIGKILL
    assert await all_gone(processes)


async def test_stopping_twice_or_before_the_start_does_nothing(data_dir: DataDir) -> None:
    child = shell(data_dir, "sleep 300")
    await child.stop()
    await child.start()
    await asyncio.gather(child.stop(), child.stop())
    await child.stop()
    assert not child.running


async def test_the_terminals_ctrl_c_does_not_reach_the_child(data_dir: DataDir) -> None:
    child = shell(data_dir, "sleep 300")
    await child.start()
    program = await program_of(child)
    assert os.getsid(program.pid) != os.getsid(0)
    assert os.getpgid(program.pid) != os.getpgid(0)
    await child.stop()


async def test_a_server_sees_none_of_our_environment(data_dir: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    child = shell(data_dir, "env; pwd")
    await child.run(10)
    assert "secret" not in child.log.read_text()
    assert child.last_log_line() == "/"


async def test_a_killed_parent_leaves_no_child_and_then_its_lock_is_free(data_dir: DataDir) -> None:
    command = [sys.executable, "-c", START_A_CHILD, str(data_dir.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        guard = psutil.Process(int(parent.stdout.readline()))
        [program] = guard.children()
        parent.kill()
    with data_dir.lock():
        assert has_ended(program)
    assert await all_gone([guard])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_a_killed_guard_takes_its_child_along(data_dir: DataDir) -> None:
    child = shell(data_dir, "exec sleep 300")
    await child.start()
    program = await program_of(child)
    psutil.Process(child.guard_pid).kill()
    assert await all_gone([program])
    assert await child.wait() == -signal.SIGKILL


async def test_a_large_log_is_set_aside_at_the_next_start(data_dir: DataDir) -> None:
    data_dir.create()
    with (data_dir.logs / "child.log").open("wb") as file:
        file.truncate(11_000_000)
    await shell(data_dir, "echo new").run(10)
    assert (data_dir.logs / "child.log").read_text() == "new\n"
    assert (data_dir.logs / "child.log.1").stat().st_size == 11_000_000
