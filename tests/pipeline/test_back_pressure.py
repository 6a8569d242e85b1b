"""With embed stopped, what is accepted waits on disk: the bus and ingest's memory stay small, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.back_pressure import measure
from services.ingest.settings import IngestSettings
from tests.stack import stack_settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

DOCUMENTS = 3_000
"""`python -m bench.back_pressure` does the same with 100,000."""
GROWTH_MIB = 60


async def test_thousands_of_documents_wait_for_a_stopped_embedder_and_all_become_searchable(short_dir: Path) -> None:
    measured = await measure(stack_settings(short_dir), DOCUMENTS)

    window = IngestSettings.load().window_documents
    assert 0 < measured.announced_while_stopped <= window
    assert max(sample.on_the_bus for sample in measured.samples) <= window
    assert measured.ingest_growth_mib < GROWTH_MIB
    assert measured.exact, (measured.verified, measured.end)
