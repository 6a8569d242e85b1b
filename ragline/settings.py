"""The settings that services share, read from the environment (`RAGLINE_*`), `.env` and flags.

This module and each service's `settings.py` are the only places that read the environment.
Nested fields are joined by two underscores: `RAGLINE_BUS__BOOTSTRAP=kafka:9092`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from ragline.errors import ConfigurationError

S = TypeVar("S", bound=BaseSettings)


def load_settings(kind: type[S], **overrides: Any) -> S:
    """Read any settings class; raises ConfigurationError, one line that names the variable at fault."""
    try:
        return kind(**overrides)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        prefix = str(kind.model_config.get("env_prefix", ""))
        variable = prefix + "__".join(str(part) for part in first["loc"]).upper()
        raise ConfigurationError(f"{variable}: {first['msg']}") from error
    except SettingsError as error:
        prefix = str(kind.model_config.get("env_prefix", ""))
        raise ConfigurationError(f"{prefix}*: {error}; lists and maps are written as JSON") from error


class BusSettings(BaseModel):
    """The message bus."""

    bootstrap: str | None = Field(None, description="Kafka's address, host:port; empty: the embedded broker")
    port: int = Field(9092, ge=0, le=65535, description="The embedded broker's port; 0 takes a free one")
    partitions: int = Field(8, ge=1, le=1000, description="Partitions of a topic that Ragline creates")
    replication_factor: int = Field(1, ge=1, le=9, description="Replicas of a topic that Ragline creates")
    idempotent_producer: bool = Field(
        False, description="Kafka's idempotent producer: on for Apache Kafka, off for the embedded broker"
    )
    session_timeout_s: float = Field(
        10.0, ge=1, le=60, description="After how many silent seconds a consumer's partitions go to another"
    )
    create_topics: bool = Field(True, description="Create missing topics at start")


class DatabaseSettings(BaseModel):
    """PostgreSQL."""

    url: SecretStr | None = Field(None, description="postgresql://user:password@host/db; empty: the embedded server")
    pool_size: int = Field(8, ge=2, le=200, description="Connections of one service")
    statement_timeout_s: float = Field(15.0, gt=0, description="The longest that one statement may run")


class EngineSettings(BaseModel):
    """The vector store."""

    url: str | None = Field(
        None, description="http(s)://host:6334 of a Qdrant server; empty: the embedded engine's own socket"
    )
    api_key: SecretStr | None = Field(None, description="The Qdrant server's key")


class BlobSettings(BaseModel):
    """Where documents are kept as they came, and the text that was read from them."""

    url: str | None = Field(
        None,
        description="file:///folder or a folder of a store that fsspec reaches (s3://bucket/folder); "
        "empty: blobs in the data directory",
    )


class ModelSettings(BaseModel):
    """Models by name (docs: README, section models)."""

    embedder: str = Field("minilm", description="minilm, wordllama, litellm:<provider/model> or fastembed:<name>")


class RpcSettings(BaseModel):
    """Where each service's gRPC API is: the address that it listens on and that others call."""

    gateway: str = Field("127.0.0.1:50050", description="GatewayService of generate")
    ingest: str = Field("127.0.0.1:50051", description="IngestService of ingest")
    indexing: str = Field("127.0.0.1:50052", description="IndexService of embed")
    retrieve: str = Field("127.0.0.1:50053", description="RetrieveService of retrieve")
    eval: str = Field("127.0.0.1:50054", description="EvalService of eval")
    deadline_s: float = Field(10.0, gt=0, description="The deadline of a call between services")
    max_message_mb: int = Field(16, ge=4, le=256, description="The largest gRPC message, in MiB")


class AuthSettings(BaseModel):
    """Who may call."""

    keys_file: Path | None = Field(
        None, description="Hashed keys (see `ragline key create`); empty: keys.json in the data directory"
    )
    service_token: SecretStr | None = Field(
        None, description="The token of calls between services; empty: service.key in the data directory"
    )


class TelemetrySettings(BaseModel):
    """Traces. The endpoint itself comes from the standard OTEL_EXPORTER_OTLP_* variables."""

    record_content: bool = Field(False, description="Put questions and texts on spans")
    trace_url: str | None = Field(
        None,
        description="A link to a trace with {trace_id} in it, such as http://jaeger:16686/trace/{trace_id}",
    )


class SettingsGroup(BaseSettings):
    """Settings that say in one line which variable is wrong; each service's own settings are one."""

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings; raises ConfigurationError, one line that names the variable at fault."""
        return load_settings(cls, **overrides)


class Settings(SettingsGroup):
    """What every service needs to know of its surroundings."""

    model_config = SettingsConfigDict(env_prefix="RAGLINE_", env_nested_delimiter="__", env_file=".env", extra="ignore")

    data_dir: Path = Field(Path(".ragline"), description="All state of the embedded stack")
    bus: BusSettings = BusSettings()
    database: DatabaseSettings = DatabaseSettings()
    engine: EngineSettings = EngineSettings()
    blobs: BlobSettings = BlobSettings()
    models: ModelSettings = ModelSettings()
    rpc: RpcSettings = RpcSettings()
    auth: AuthSettings = AuthSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    fault: str | None = Field(None, description="For crash tests only: the fault point to die at")

    @property
    def keys_path(self) -> Path:
        """Where the hashed keys lie."""
        return self.auth.keys_file or self.data_dir / "keys.json"

    @property
    def bootstrap(self) -> str:
        """Kafka's address."""
        return _required(self.bus.bootstrap, "RAGLINE_BUS__BOOTSTRAP", "Kafka's address")

    @property
    def database_url(self) -> str:
        """PostgreSQL's URL."""
        return _required(_reveal(self.database.url), "RAGLINE_DATABASE__URL", "PostgreSQL's URL")

    @property
    def engine_url(self) -> str:
        """The vector engine's URL."""
        return _required(self.engine.url, "RAGLINE_ENGINE__URL", "the vector engine's URL")

    @property
    def engine_api_key(self) -> str | None:
        """The Qdrant server's key."""
        return _reveal(self.engine.api_key)

    @property
    def blobs_url(self) -> str:
        """The blob store's URL."""
        return self.blobs.url or (self.data_dir.expanduser().resolve() / "blobs").as_uri()

    @property
    def service_token(self) -> str:
        """The token of calls between services."""
        token = _reveal(self.auth.service_token)
        return _required(token, "RAGLINE_AUTH__SERVICE_TOKEN", "the token of calls between services")


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _required(value: str | None, variable: str, what: str) -> str:
    if not value:
        raise ConfigurationError(f"{variable} is not set: it must hold {what} (`ragline up` sets it by itself)")
    return value
