"""Finds data files inside installed packages without importing the packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ragline.errors import ConfigurationError


def package_file(package: str, relative: str) -> Path:
    """The path of the file `relative` inside the installed top-level package `package`.

    The package is located and never imported: the packages that carry model weights would import
    PyTorch, or set up logging for the whole process. Raises ConfigurationError if it is not there.
    """
    pip_name = package.replace("_", "-")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigurationError(f"the package {pip_name} is not installed: pip install {pip_name}")
    path = Path(spec.origin).parent / relative
    if not path.is_file():
        raise ConfigurationError(f"{path} is missing: reinstall the package {pip_name}")
    return path
