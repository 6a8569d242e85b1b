"""Settings of ingest (`RAGLINE_INGEST__*`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ragline.settings import SettingsGroup


class IngestSettings(SettingsGroup):
    """How documents are cut, who may write for whom, when lost announcements are repeated, what may be fetched."""

    model_config = SettingsConfigDict(env_prefix="RAGLINE_INGEST__", env_file=".env", extra="ignore")

    chunk_tokens: int = Field(200, ge=16, le=8000, description="The size that chunks aim at, in tokens")
    sources: dict[str, list[str]] = Field(
        {"*": ["*"]},
        description='Which source may write which tenants, as JSON: {"wiki": ["acme"]}; * stands for any',
    )
    max_document_mb: int = Field(100, ge=1, le=1024, description="The largest content that is parsed, in MB")
    parse_workers: int = Field(2, ge=1, le=64, description="How many processes read documents")
    parse_timeout_s: float = Field(20.0, gt=0, le=600, description="The longest that reading one document may take")
    parse_memory_mb: int = Field(
        400,
        ge=256,
        le=16384,
        description="The most private memory of a process that reads documents, in MiB; the program takes about 200",
    )
    reannounce_after_s: float = Field(
        30.0,
        gt=0,
        description="After how many seconds a document that is not yet searchable is announced again",
    )
    window_documents: int = Field(
        200, ge=1, le=100_000, description="How many documents of each lane may be on their way to the index at once"
    )
    reconcile_every_s: float = Field(5.0, gt=0, description="How often to look for such documents, in seconds")
    content_roots: list[Path] = Field(
        [], description='Folders that a content_ref may read files of, as JSON: ["/srv/documents"]; empty: none'
    )
    content_buckets: list[str] = Field(
        [], description='Buckets and folders that a content_ref may read, as JSON: ["s3://bucket/folder"]; empty: none'
    )
    content_hosts: list[str] = Field(
        ["*"], description='Hosts that a content_ref may fetch from, as JSON: ["*.example.org"]; * stands for any'
    )
    content_private_hosts: list[str] = Field(
        [], description="Hosts that may be fetched from although their addresses are private, as JSON; exact names"
    )
    content_ports: list[int] = Field([80, 443], description="Ports that a content_ref may fetch from, as JSON")
    allow_http: bool = Field(False, description="Fetch http: as well as https:")
    content_max_mb: int = Field(32, ge=1, le=1024, description="The largest content that is fetched, in MiB")
    content_timeout_s: float = Field(
        20.0, gt=0, description="The longest that fetching may take, retries and redirects included, in seconds"
    )
    content_connect_timeout_s: float = Field(
        5.0, gt=0, description="The longest that resolving a host, or connecting to it, may take, in seconds"
    )
    content_at_once: int = Field(
        4, ge=1, le=100, description="How many fetched documents are held in memory at once, each up to the limit above"
    )
    content_retry_for_s: float = Field(
        120.0, gt=0, description="For how long a fetch that keeps failing holds up its partition before it is given up"
    )
    content_attempts: int = Field(3, ge=1, le=10, description="How often a fetch that may succeed later is tried")
