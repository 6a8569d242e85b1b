"""The data directory: private, held by one process, and clear about what stands in its way."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ragline.errors import ConfigurationError
from ragline.local.data_dir import DataDir, replace_file, writing_to

HOLD_THE_LOCK = """
import sys
from ragline.local.data_dir import DataDir
data_dir = DataDir(sys.argv[1])
with data_dir.lock():
    data_dir.write_stack({"gateway": "127.0.0.1:50050"})
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "state")


@contextmanager
def another_process_holding(data_dir: DataDir) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(data_dir.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_naming_a_data_directory_leaves_nothing_behind(data_dir: DataDir) -> None:
    assert data_dir.read_stack() is None
    assert not data_dir.path.exists()


def test_what_it_creates_is_for_this_user_alone(data_dir: DataDir) -> None:
    data_dir.create()
    folders = (data_dir.path, data_dir.logs, data_dir.run, data_dir.blobs, data_dir.models, data_dir.engine)
    assert {mode(folder) for folder in folders} == {0o700}
    replace_file(data_dir.service_key, "secret")
    assert (data_dir.service_key.read_text(), mode(data_dir.service_key)) == ("secret", 0o600)


def test_a_second_process_is_told_who_holds_the_directory_and_what_to_do(data_dir: DataDir) -> None:
    with another_process_holding(data_dir) as holder:
        message = refusal(lambda: data_dir.lock().__enter__())
    assert f"in use by process {holder.pid}" in message
    assert f"kill {holder.pid}" in message
    assert "--data-dir" in message


def test_the_lock_of_a_killed_process_is_free(data_dir: DataDir) -> None:
    with another_process_holding(data_dir) as holder:
        holder.send_signal(signal.SIGKILL)
        with data_dir.lock():
            assert data_dir.lock_descriptor is not None
    assert data_dir.lock_descriptor is None


def test_the_lock_is_waited_for_while_children_of_a_killed_process_hold_it(data_dir: DataDir) -> None:
    with subprocess.Popen(["/bin/true"]) as dead:
        dead.wait()
    with data_dir.lock():
        child_holds = os.dup(data_dir.lock_descriptor or -1)
    (data_dir.path / "lock").write_text(str(dead.pid))
    try:
        message = refusal(lambda: data_dir.lock(wait_s=0.1).__enter__())
        assert f"in use by what the killed process {dead.pid} started" in message
    finally:
        os.close(child_holds)
    with data_dir.lock(wait_s=0.1):
        pass


def test_a_running_stack_is_found_and_a_dead_one_is_not(data_dir: DataDir) -> None:
    with another_process_holding(data_dir) as holder:
        stack = data_dir.read_stack()
        assert stack is not None
        assert (stack.pid, stack.addresses) == (holder.pid, {"gateway": "127.0.0.1:50050"})
        holder.kill()
        holder.wait()
        assert data_dir.stack.exists()
        assert data_dir.read_stack() is None


def test_a_stack_whose_pid_lives_but_holds_no_lock_is_stale(data_dir: DataDir) -> None:
    with data_dir.lock():
        data_dir.write_stack({})
        assert data_dir.read_stack() is not None
    assert data_dir.read_stack() is None


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"pid": 1}', '{"pid": "x", "addresses": {}}'])
def test_an_unreadable_stack_file_reads_as_none(data_dir: DataDir, text: str) -> None:
    with data_dir.lock():
        data_dir.stack.write_text(text)
        assert data_dir.read_stack() is None


def test_a_socket_lives_in_run_when_its_path_is_short_enough() -> None:
    with tempfile.TemporaryDirectory(prefix="rl") as folder:
        data_dir = DataDir(folder)
        assert data_dir.socket_path("part/s.sock") == data_dir.run / "part" / "s.sock"
        assert mode(data_dir.run / "part") == 0o700


def test_a_socket_with_a_long_path_gets_a_private_folder_that_goes_with_the_lock(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / ("long" * 20))
    with data_dir.lock():
        path = data_dir.socket_path("s.sock")
        assert len(os.fsencode(path)) <= 100
        assert (mode(path.parent), path.parent.stat().st_uid) == (0o700, os.geteuid())
        assert DataDir(data_dir.path).socket_path("s.sock") == path
    assert not path.parent.exists()


def test_a_private_socket_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path / ("open" * 20))
    with data_dir.lock():
        folder = data_dir.socket_path("s.sock").parent
        folder.chmod(0o755)
        assert str(folder) in refusal(lambda: data_dir.socket_path("s.sock"))


def test_too_little_space_says_how_much_is_there_and_needed(data_dir: DataDir) -> None:
    data_dir.require_free_space(1)
    message = refusal(lambda: data_dir.require_free_space(10**18))
    assert "needs 1000000000000 MB" in message
    assert "free some space" in message


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "read-only for this user"),
        (errno.EACCES, "read-only for this user"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_refusal_of_the_operating_system_says_what_to_do(tmp_path: Path, number: int, advice: str) -> None:
    def fail() -> None:
        with writing_to(tmp_path):
            raise OSError(number, os.strerror(number))

    message = refusal(fail)
    assert advice in message
    assert str(tmp_path) in message
    assert "--data-dir" in message


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    assert f"{tmp_path / 'state'} is in the way" in refusal(DataDir(tmp_path / "state").create)
    assert "is in the way" in refusal(DataDir(tmp_path / "state" / "below").create)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "read-only for this user" in refusal(DataDir(tmp_path / "state").create)
    assert "read-only for this user" in refusal(DataDir(tmp_path).create)


def test_a_full_disk_leaves_the_old_file_whole(data_dir: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir.create()
    replace_file(data_dir.keys, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "free some space" in refusal(lambda: replace_file(data_dir.keys, "new"))
    assert data_dir.keys.read_text() == "old"
    assert [path.name for path in data_dir.path.iterdir() if path.is_file()] == ["keys.json"]
