"""Imports a service as its image would: `python -m tests.contract.image_imports SERVICE`.

Every package that the image does not install is hidden first, so that an import of one fails here.
"""

from __future__ import annotations

import importlib
import importlib.abc
import pkgutil
import sys
from collections.abc import Collection
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def installed(service: str) -> set[str]:
    """The packages that the service's image installs."""
    lines = (ROOT / "requirements" / f"{service}.txt").read_text().split()
    return {canonicalize_name(line.partition("==")[0]) for line in lines}


class Hidden(importlib.abc.MetaPathFinder):
    """Makes importable modules look as if they were not installed."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"{fullname} is not in the image", name=fullname)


def main(service: str) -> None:
    """Import every module of the service."""
    present = {*installed(service), "ragline"}
    hidden = {
        module
        for module, distributions in packages_distributions().items()
        if not present.intersection(map(canonicalize_name, distributions))
    }
    for module in hidden & sys.modules.keys():
        del sys.modules[module]
    sys.meta_path.insert(0, Hidden(hidden))
    for found in pkgutil.walk_packages([str(ROOT / "services" / service)], f"services.{service}."):
        if not found.name.endswith("__main__") and ".migrations" not in found.name:
            importlib.import_module(found.name)
    importlib.import_module(f"services.{service}.app")


if __name__ == "__main__":
    main(sys.argv[1])
