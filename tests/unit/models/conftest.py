"""The MiniLM file is built once a session: it takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragline.models.minilm import MiniLmEmbedder


@pytest.fixture(scope="session")
def minilm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the built model."""
    folder = tmp_path_factory.mktemp("minilm")
    MiniLmEmbedder.load(folder)
    return folder


@pytest.fixture(scope="session")
def minilm(minilm_folder: Path) -> MiniLmEmbedder:
    return MiniLmEmbedder.load(minilm_folder, threads=2)
