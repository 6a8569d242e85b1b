"""Every accepted version of a document, with where its original and its text lie in the blob store."""

from alembic import op

revision = "0002"
down_revision = "0001"

VERSIONS = """
CREATE TABLE document_version (
    tenant text NOT NULL,
    document_id text NOT NULL,
    document_version bigint NOT NULL,
    revision bigint NOT NULL,
    source text NOT NULL,
    op text NOT NULL,
    original_key text,
    text_key text,
    content_type text,
    etag text,
    fetched_from text,
    language text,
    links text[],
    title text NOT NULL,
    uri text NOT NULL,
    metadata jsonb NOT NULL,
    accepted_at timestamptz NOT NULL,
    traceparent text,
    PRIMARY KEY (tenant, document_id, document_version)
)
"""


def upgrade() -> None:
    op.execute(VERSIONS)
    # Before a blob is removed, whether anything still refers to it.
    op.execute("CREATE INDEX document_version_original ON document_version (original_key)")
    op.execute("CREATE INDEX document_version_text ON document_version (text_key)")
