"""What every event is: a fact with a topic, a producer, consumers and a key; and the fields that many share."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Tenant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""A tenant's name: lower-case letters, digits, `-` and `_`."""
DocumentId = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Upstream's name for a document, unique within the tenant; no control characters."""
Group = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^*\x00-\x1f\x7f]+$")]
Revision = Annotated[int, Field(ge=0, lt=2**63)]
Scalar = str | bool | int | float
CONTRACT = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, allow_inf_nan=False)
"""Unknown fields are ignored, so that a contract can grow; NaN and infinity are refused, for JSON has neither."""


class Event(BaseModel):
    """The base of all events; a subclass names its topic, producer and consumers."""

    model_config = CONTRACT

    topic: ClassVar[str]
    producer: ClassVar[str]
    consumers: ClassVar[tuple[str, ...]]
    compacted: ClassVar[bool] = False

    def key(self) -> str:
        """The Kafka key: events of one key keep their order."""
        raise TypeError(f"{type(self).__name__} has no key")

    def subject(self) -> str:
        """The CloudEvents subject: what the event is about."""
        return self.key()


class AboutDocument(Event):
    """Events about one document share its key, so that they keep their order."""

    tenant: Tenant
    document_id: DocumentId

    def key(self) -> str:
        return f"{self.tenant}/{self.document_id}"
