"""The gRPC contracts: stubs are current, every RPC says and checks what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from ragline.identity import SCOPES as KNOWN_SCOPES
from tests.contract.service_catalogue import SERVICES

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
PROTOS = sorted(path.relative_to(ROOT / "proto").as_posix() for path in (ROOT / "proto").rglob("*.proto"))
INTERNAL = "ragline.engine.v1"
"""The embedded engine's own socket on one machine: no service serves it and no token guards it."""
SERVICE, MESSAGE, METHOD = 6, 4, 2
"""Field numbers of descriptor.proto, which the paths of comments are made of."""


def _protoc(*options: str) -> None:
    environment = {**os.environ, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", *options, *PROTOS]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=60)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[FileDescriptorProto, ...]:
    """Our .proto files as protoc reads them, with their comments."""
    path = tmp_path_factory.mktemp("protos") / "descriptors"
    _protoc("--include_source_info", f"--descriptor_set_out={path}")
    return tuple(FileDescriptorSet.FromString(path.read_bytes()).file)


def _comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}


def _rpc_comments(files: tuple[FileDescriptorProto, ...]) -> Iterator[tuple[str, str]]:
    """Each RPC as (full method name, its comment)."""
    for file in files:
        comments = _comments(file)
        for i, service in enumerate(file.service):
            for j, method in enumerate(service.method):
                path = (SERVICE, i, METHOD, j)
                yield f"/{file.package}.{service.name}/{method.name}", comments.get(path, "")


def _served_scopes() -> dict[str, tuple[str, ...]]:
    """Every service's SCOPES in one map."""
    served: dict[str, tuple[str, ...]] = {}
    for name in SERVICES:
        scopes: Mapping[str, tuple[str, ...]] = import_module(f"services.{name}.servicer").SCOPES
        assert not served.keys() & scopes, f"{name} serves what another service serves"
        served |= scopes
    return served


def _guarded(files: tuple[FileDescriptorProto, ...]) -> set[str]:
    return {rpc for rpc, _ in _rpc_comments(files) if not rpc.startswith(f"/{INTERNAL}.")}


def test_the_generated_stubs_are_current(tmp_path: Path) -> None:
    _protoc(
        f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}",
        f"--mypy_out=quiet:{tmp_path}", f"--mypy_grpc_out=quiet:{tmp_path}",
    )  # fmt: skip
    generated = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*.py*")}
    kept = {path.relative_to(ROOT): path.read_bytes() for path in (ROOT / "ragline").rglob("*_pb2*.py*")}
    kept = {path: text for path, text in kept.items() if path.suffix in (".py", ".pyi")}
    assert generated.keys() == kept.keys()
    assert [str(path) for path in kept if kept[path] != generated[path]] == [], "run `make proto`"


def test_buf_finds_nothing_to_complain_about() -> None:
    lint = subprocess.run([PROGRAMS / "buf", "lint"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


def test_every_rpc_admits_callers_by_scopes_that_exist(files: tuple[FileDescriptorProto, ...]) -> None:
    served = _served_scopes()
    assert _guarded(files) == served.keys()
    for rpc, scopes in served.items():
        assert scopes and set(scopes) <= set(KNOWN_SCOPES), rpc


def test_every_rpc_says_which_scopes_it_needs(files: tuple[FileDescriptorProto, ...]) -> None:
    served = _served_scopes()
    for rpc, comment in _rpc_comments(files):
        if rpc in served:
            _, _, needs = comment.partition("Needs the scope")
            assert set(re.findall(r"`(\w+)`", needs)) & set(KNOWN_SCOPES) == set(served[rpc]), rpc


def test_every_rpc_is_implemented(files: tuple[FileDescriptorProto, ...]) -> None:
    implemented = {
        f"/{_api(kind)}/{name}"
        for service in SERVICES
        for kind in vars(import_module(f"services.{service}.servicer")).values()
        if isinstance(kind, type) and kind.__module__ == f"services.{service}.servicer"
        for name in vars(kind)
        if name[0].isupper()
    }
    assert implemented == _guarded(files)


def _api(servicer: type) -> str:
    """The full name of the API that a servicer implements: its stub's base class knows it by its module."""
    base = servicer.__mro__[1]
    return f"{base.__module__.rpartition('.')[0]}.{base.__name__.removesuffix('Servicer')}"


def test_services_and_rpcs_and_the_messages_that_they_share_are_explained(
    files: tuple[FileDescriptorProto, ...],
) -> None:
    """A request or response is explained by its RPC; what several of them carry must explain itself."""
    silent = [rpc for rpc, comment in _rpc_comments(files) if not comment]
    for file in files:
        comments = _comments(file)
        silent += [s.name for i, s in enumerate(file.service) if not comments.get((SERVICE, i))]
        silent += [
            f"{file.package}.{message.name}"
            for i, message in enumerate(file.message_type)
            if not re.search("(Request|Response)$", message.name) and not comments.get((MESSAGE, i))
        ]
    assert silent == []
