"""Settings of ingest (`RAGLINE_INGEST__*`)."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ragline.settings import SettingsGroup


class IngestSettings(SettingsGroup):
    """How documents are cut, who may write for whom, and when lost announcements are repeated."""

    model_config = SettingsConfigDict(env_prefix="RAGLINE_INGEST__", env_file=".env", extra="ignore")

    chunk_tokens: int = Field(200, ge=16, le=8000, description="The size that chunks aim at, in tokens")
    sources: dict[str, list[str]] = Field(
        {"*": ["*"]},
        description='Which source may write which tenants, as JSON: {"wiki": ["acme"]}; * stands for any',
    )
    reannounce_after_s: float = Field(
        30.0,
        gt=0,
        description="After how many seconds a document that is not yet searchable is announced again",
    )
    reconcile_every_s: float = Field(
        5.0, gt=0, description="How often to look for such documents, in seconds"
    )
