"""The document registry: one row a document, with its newest accepted version."""

from alembic import op

from ragline.outbox import TABLE as OUTBOX

revision = "0001"
down_revision = None

REGISTRY = """
CREATE TABLE document (
    tenant text NOT NULL,
    document_id text NOT NULL,
    source text NOT NULL,
    revision bigint NOT NULL,
    acl_revision bigint NOT NULL,
    acl text[],
    document_version bigint NOT NULL,
    deleted boolean NOT NULL,
    content_hash text NOT NULL,
    title text NOT NULL,
    uri text NOT NULL,
    metadata jsonb NOT NULL,
    manifest jsonb NOT NULL,
    op text NOT NULL,
    traceparent text,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lane smallint NOT NULL DEFAULT 1,
    sent_at timestamptz,
    announcements integer NOT NULL DEFAULT 1,
    indexed_version bigint NOT NULL DEFAULT 0,
    index_version text,
    rejected_revision bigint,
    rejected_reason text,
    PRIMARY KEY (tenant, document_id)
)
"""


def upgrade() -> None:
    op.execute(REGISTRY)
    op.execute("CREATE INDEX in_flight ON document (lane, sent_at) WHERE indexed_version < document_version")
    op.execute(OUTBOX)
