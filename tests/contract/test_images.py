"""The Dockerfile and the lists of packages: an image holds what its service needs, pinned, and no more."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contract.image_imports import installed
from tests.contract.service_catalogue import SERVICES

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = {line.split()[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if line[:1].isalnum()}
IMAGE_PLATFORM = {
    "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix",
    "python_version": "3.11", "python_full_version": "3.11.9", "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}  # fmt: skip
each_service = pytest.mark.parametrize("service", SERVICES)


def _stage(name: str) -> str:
    """The lines of one stage of the Dockerfile."""
    (lines,) = re.findall(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    return str(lines)


def _instruction(stage: str, word: str) -> str:
    (argument,) = re.findall(rf"^{word} (.*)$", _stage(stage), re.MULTILINE)
    return str(argument)


def test_every_service_has_a_stage_and_the_argument_chooses_it() -> None:
    stages = set(re.findall(r"^FROM runtime AS (\w+)$", DOCKERFILE, re.MULTILINE))
    assert stages == set(SERVICES)
    assert DOCKERFILE.rstrip().endswith("FROM ${SERVICE}")


@each_service
def test_its_image_runs_the_service_on_the_port_of_its_deployment(service: str) -> None:
    deployment = next(yaml.safe_load_all((ROOT / f"deploy/k8s/base/{service}.yaml").read_text()))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert json.loads(_instruction("runtime", "ENTRYPOINT")) == ["python", "-m"]
    assert json.loads(_instruction(service, "CMD")) == [f"services.{service}"]
    assert int(_instruction(service, "EXPOSE")) == container["ports"][0]["containerPort"]
    user = deployment["spec"]["template"]["spec"]["securityContext"]
    assert _instruction("runtime", "USER") == f"{user['runAsUser']}:{user['runAsGroup']}"


def test_the_base_image_is_the_python_that_the_lists_are_made_for() -> None:
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert image.startswith(f"python:{IMAGE_PLATFORM['python_version']}-")
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}", "runtime", "${SERVICE}"}


@each_service
def test_what_the_dockerfile_copies_is_there_and_let_through(service: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    for source in " ".join(copies).replace("${SERVICE}", service).split():
        assert (ROOT / source).exists(), source
        assert f"!{source.partition('/')[0]}" in ignored, source


@each_service
def test_its_list_pins_what_the_lock_has_hashes_for(service: str) -> None:
    lines = (ROOT / "requirements" / f"{service}.txt").read_text().splitlines()
    assert lines
    assert set(lines) - PINS == set(), "run `make lock`"


@each_service
def test_its_list_is_exactly_what_its_extra_needs(service: str) -> None:
    assert installed(service) == _closure(service), "run `make lock`"


def _closure(service: str) -> set[str]:
    """Every package that the service's extra brings, by the metadata of what is installed here."""
    never = {Requirement(line).name for line in PROJECT["tool"]["uv"]["override-dependencies"]}
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    waiting = [*map(Requirement, PROJECT["project"]["dependencies"]), *map(Requirement, extras[service])]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        wanted = {(name, extra) for extra in ("", *requirement.extras)} - seen
        seen |= wanted
        for _, extra in wanted if name not in never else ():
            needs = extras.get(extra, []) if name == "ragline" else requires(name) or []
            waiting += [r for r in map(Requirement, needs) if _applies(r, extra)]
    return {name for name, _ in seen} - never - {"ragline"}


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**IMAGE_PLATFORM, "extra": extra})


@each_service
def test_its_modules_import_with_the_images_packages_alone(service: str) -> None:
    command = [sys.executable, "-m", "tests.contract.image_imports", service]
    imported = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert imported.returncode == 0, imported.stderr[-2000:]


@each_service
def test_what_it_imports_late_is_in_its_image_too(service: str) -> None:
    present, owners = installed(service), packages_distributions()
    for path in (ROOT / "services" / service).rglob("*.py"):
        for module in _imports(path):
            distributions = set(map(canonicalize_name, owners.get(module, ())))
            if distributions and module not in ("ragline", "services"):
                assert distributions & present, f"{path} imports {module}"


def _imports(path: Path) -> Iterator[str]:
    """The top-level modules that a file imports, within functions as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
