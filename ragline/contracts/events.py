"""The pipeline's map: every event on the bus, its topic, its producer and its consumers.

    document.changed, snapshot.completed --ingest--> chunks.ready --embed--> index.committed, index.state
    Ask --generate--> answer.produced --eval--> answer.evaluated

An event is a fact, in the past. Within a major version a contract only grows: new fields have
defaults, unknown fields are ignored, and the golden examples in `tests/contract/golden` still parse.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from ragline.contracts.event import CONTRACT, AboutDocument, DocumentId, Event, Group, Revision, Scalar, Tenant

INLINE_CONTENT_BYTES = 512 * 1024
"""The most bytes of content that an event carries inline; more goes by `content_ref`."""
SNAPSHOT_DOCUMENTS = 10_000
"""The most document ids that a snapshot lists inline; more go by `content_ref`."""


class DocumentChanged(AboutDocument):
    """A document was created, updated or deleted upstream, or its access changed."""

    topic = "ragline.document.changed.v1"
    producer = "upstream"
    consumers = ("ingest",)

    source: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    op: Literal["upsert", "delete", "access"]
    revision: Revision
    acl_revision: Revision | None = None
    """Upstream's number for the access list; absent, it is `revision`."""
    uri: Annotated[str, StringConstraints(max_length=2048)] = ""
    title: Annotated[str, StringConstraints(max_length=512)] | None = None
    content: str | None = None
    """The document itself, at most 512 KiB of UTF-8; an upsert carries either this or `content_ref`."""
    content_ref: str | None = None
    """A claim check: where to fetch content that is too large to travel inline."""
    content_type: str | None = None
    acl: tuple[Group, ...] | None = None
    """The groups that may read: absent means the whole tenant, empty means nobody."""
    metadata: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _content_matches_op(self) -> DocumentChanged:
        if self.op == "upsert" and (self.content is None) == (self.content_ref is None):
            raise ValueError("an upsert carries either content or content_ref")
        if self.content is not None and len(self.content.encode()) > INLINE_CONTENT_BYTES:
            raise ValueError(f"inline content is at most {INLINE_CONTENT_BYTES} bytes; send a content_ref")
        return self


class BulkDocumentChanged(DocumentChanged):
    """A change of a document that belongs to a bulk load: it never delays a live change.

    The order between the lanes is the revision's, not the bus's.
    """

    topic = "ragline.document.changed.bulk.v1"


class SnapshotCompleted(Event):
    """A source lists all that it holds: whatever else it wrote last under the prefix, it no longer has."""

    topic = "ragline.snapshot.completed.v1"
    producer = "upstream"
    consumers = ("ingest",)

    tenant: Tenant
    source: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    revision: Revision
    """When the source was listed, by its own numbers: what it wrote later is kept, listed or not."""
    prefix: Annotated[str, StringConstraints(max_length=512)] = ""
    """Only documents whose ids begin so are spoken of."""
    document_ids: tuple[DocumentId, ...] | None = Field(None, max_length=SNAPSHOT_DOCUMENTS)
    """All ids that the source holds, at most 10,000; an empty list says that it holds none."""
    content_ref: str | None = None
    """A claim check: where the list lies, an id a line (as it is, or as JSON: a string or {"document_id": ...})."""

    @model_validator(mode="after")
    def _ids_come_one_way(self) -> SnapshotCompleted:
        if (self.document_ids is None) == (self.content_ref is None):
            raise ValueError("a snapshot carries either document_ids or content_ref")
        return self

    def key(self) -> str:
        return f"{self.tenant}/{self.source}"


class ManifestEntry(BaseModel):
    """One chunk of a document version, in order; `text` travels only when it is new."""

    model_config = CONTRACT

    chunk_id: str
    content_hash: str
    ordinal: int
    heading_path: tuple[str, ...] = ()
    """Begins with the document's title; part of what the embedder reads."""
    page: int | None = None
    line: int | None = None
    text: str | None = None


class ChunksReady(AboutDocument):
    """ingest accepted a version of a document and cut it into chunks."""

    topic = "ragline.chunks.ready.v1"
    producer = "ingest"
    consumers = ("embed",)

    op: Literal["upsert", "delete", "access"]
    document_version: int
    """ingest's own count of this document's accepted versions; never goes back."""
    revision: Revision
    acl_revision: Revision
    acl: tuple[str, ...] | None = None
    title: str = ""
    uri: str = ""
    metadata: dict[str, Scalar] = Field(default_factory=dict)
    manifest: tuple[ManifestEntry, ...] = ()
    """The whole ordered manifest (of this part, when there are several)."""
    pipeline: str = ""
    """The chunking fingerprint: how the chunks were cut."""
    part: int = 1
    parts: int = 1
    changed_at: datetime
    """When ingest accepted the change; freshness counts from here."""


class BulkChunksReady(ChunksReady):
    """A version that came from a bulk load."""

    topic = "ragline.chunks.ready.bulk.v1"


class CommittedDocument(BaseModel):
    """One document's part of a commit."""

    model_config = CONTRACT

    tenant: str
    document_id: str
    op: Literal["upsert", "delete", "access"]
    document_version: int
    revision: int
    opened: tuple[str, ...] = ()
    """Content hashes of the chunks that became visible."""
    closed: tuple[str, ...] = ()
    """Content hashes of the chunks that ceased to be visible."""
    traceparent: str | None = None
    """The trace of the change; answers link to it."""


class IndexCommitted(Event):
    """The watermark passed a commit: from now on every reader may see it."""

    topic = "ragline.index.committed.v1"
    producer = "embed"
    consumers = ("ingest",)

    generation: str
    sequence: int
    fingerprint: str
    documents: tuple[CommittedDocument, ...]
    committed_at: datetime

    def key(self) -> str:
        return self.generation


class GenerationState(BaseModel):
    """What a reader must know of one generation."""

    model_config = CONTRACT

    watermark: int
    fingerprint: str
    horizon: int = 0
    """The oldest sequence that can still be read."""
    aborted: tuple[int, ...] = ()
    embedder: str
    dimensions: int


class IndexState(Event):
    """What readers need: a single compacted record, the newest one wins within an epoch."""

    topic = "ragline.index.state.v1"
    producer = "embed"
    consumers = ("retrieve",)
    compacted = True

    epoch: int
    live_generation: str
    generations: dict[str, GenerationState]

    def key(self) -> str:
        return "index"


class DocumentStatus(AboutDocument):
    """What became of a document's change; upstream systems listen."""

    topic = "ragline.document.status.v1"
    producer = "ingest"
    consumers = ("upstream",)
    compacted = True

    status: Literal["indexed", "unchanged", "superseded", "rejected"]
    revision: int
    document_version: int
    index_version: str | None = None
    reason: str | None = None


class EvidenceRef(BaseModel):
    """One numbered piece of evidence of an answer, without its text."""

    model_config = CONTRACT

    number: int
    document_id: str
    chunk_id: str
    content_hash: str
    score: float
    cited: bool


class AnswerProduced(Event):
    """An answer was given; the texts of its evidence are read by RPC."""

    topic = "ragline.answer.produced.v1"
    producer = "generate"
    consumers = ("eval",)

    answer_id: str
    tenant: Tenant
    user: str
    question: str
    answer: str
    refused: bool
    evidence: tuple[EvidenceRef, ...]
    index_version: str
    index_fingerprint: str
    model: str
    prompt_version: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    latency_ms: dict[str, float]
    cache_hit: bool = False
    trace_id: str | None = None
    produced_at: datetime

    def key(self) -> str:
        return f"{self.tenant}/{self.answer_id}"


class Score(BaseModel):
    """One judgement of an answer: a value in [0, 1], how it was made, and why, in words."""

    model_config = CONTRACT

    name: str
    value: float | None = None
    """None when the score does not apply, such as the groundedness of a refusal."""
    method: str
    version: str
    reason: str


class AnswerEvaluated(Event):
    """An answer was scored, or its score changed because its evidence did."""

    topic = "ragline.answer.evaluated.v1"
    producer = "eval"
    consumers = ("generate",)

    answer_id: str
    tenant: Tenant
    scores: tuple[Score, ...]
    flags: tuple[str, ...] = ()
    verdict: Literal["good", "doubtful", "bad"]
    evaluated_at: datetime

    def key(self) -> str:
        return f"{self.tenant}/{self.answer_id}"


class DeadLetterResolved(Event):
    """A person did something about a dead letter; the dead letters themselves stay on their topic."""

    topic = "ragline.dead.letter.resolved.v1"
    producer = "operator"
    consumers = ("operator",)
    compacted = True

    dead_letter_id: str
    """`topic/partition/offset` of the original message."""
    resolution: Literal["replayed", "discarded"]
    resolved_by: str
    resolved_at: datetime

    def key(self) -> str:
        return self.dead_letter_id


EVENTS: tuple[type[Event], ...] = (
    DocumentChanged,
    BulkDocumentChanged,
    SnapshotCompleted,
    ChunksReady,
    BulkChunksReady,
    IndexCommitted,
    IndexState,
    DocumentStatus,
    AnswerProduced,
    AnswerEvaluated,
    DeadLetterResolved,
)
"""Every event there is: topics, AsyncAPI and the golden tests are made from this."""


def dead_letter_topic(topic: str) -> str:
    """Where what can never be handled goes, with the reason in its headers."""
    return f"{topic}.dlq"
