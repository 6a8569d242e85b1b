"""The ledger of the index: generations, commits, document versions, points, and the embedding cache."""

from alembic import op

from ragline.outbox import TABLE as OUTBOX

revision = "0001"
down_revision = None

TABLES = (
    """
    CREATE TABLE index_state (
        singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
        epoch bigint NOT NULL,
        live_generation text NOT NULL
    )
    """,
    """
    CREATE TABLE generation (
        generation text PRIMARY KEY,
        embedder text NOT NULL,
        dimensions integer NOT NULL,
        last_sequence bigint NOT NULL DEFAULT 0,
        watermark bigint NOT NULL DEFAULT 0,
        horizon bigint NOT NULL DEFAULT 0,
        fingerprint text NOT NULL
    )
    """,
    """
    CREATE TABLE index_commit (
        generation text NOT NULL REFERENCES generation,
        sequence bigint NOT NULL,
        state text NOT NULL CHECK (state IN ('pending', 'complete', 'aborting', 'aborted')),
        token uuid NOT NULL,
        lease_until timestamptz NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        completed_at timestamptz,
        delta text NOT NULL,
        fingerprint text,
        traceparent text,
        PRIMARY KEY (generation, sequence)
    )
    """,
    "CREATE INDEX unresolved_commit ON index_commit (generation, sequence) WHERE state IN ('pending', 'aborting')",
    "CREATE INDEX aborted_commit ON index_commit (generation, sequence) WHERE state IN ('aborting', 'aborted')",
    """
    CREATE TABLE document_version (
        generation text NOT NULL,
        sequence bigint NOT NULL,
        tenant text NOT NULL,
        document_id text NOT NULL,
        op text NOT NULL,
        document_version bigint NOT NULL,
        revision bigint NOT NULL,
        acl text[],
        acl_revision bigint NOT NULL,
        title text NOT NULL,
        uri text NOT NULL,
        metadata jsonb NOT NULL,
        manifest jsonb NOT NULL,
        manifest_hash text NOT NULL,
        opened text[] NOT NULL,
        closed text[] NOT NULL,
        changed_at timestamptz NOT NULL,
        traceparent text,
        unresolved boolean NOT NULL DEFAULT true,
        PRIMARY KEY (generation, sequence, tenant, document_id),
        FOREIGN KEY (generation, sequence) REFERENCES index_commit
    )
    """,
    # The protocol's rule in the database's words: at most one unresolved commit per document.
    "CREATE UNIQUE INDEX one_unresolved ON document_version (generation, tenant, document_id) WHERE unresolved",
    "CREATE INDEX by_document ON document_version (generation, tenant, document_id, sequence)",
    """
    CREATE TABLE document (
        generation text NOT NULL,
        tenant text NOT NULL,
        document_id text NOT NULL,
        sequence bigint NOT NULL,
        document_version bigint NOT NULL,
        manifest_hash text NOT NULL,
        deleted boolean NOT NULL,
        acl text[],
        acl_revision bigint NOT NULL,
        PRIMARY KEY (generation, tenant, document_id)
    )
    """,
    """
    CREATE TABLE point (
        generation text NOT NULL,
        point_id uuid NOT NULL,
        tenant text NOT NULL,
        document_id text NOT NULL,
        chunk_id text NOT NULL,
        content_hash text NOT NULL,
        metadata_hash text NOT NULL,
        valid_from bigint NOT NULL,
        valid_to bigint,
        PRIMARY KEY (generation, point_id)
    )
    """,
    "CREATE INDEX open_point ON point (generation, tenant, document_id) WHERE valid_to IS NULL",
    "CREATE INDEX point_from ON point (generation, valid_from)",
    "CREATE INDEX point_to ON point (generation, valid_to) WHERE valid_to IS NOT NULL",
    """
    CREATE TABLE embedding (
        model text NOT NULL,
        content_hash text NOT NULL,
        vector bytea NOT NULL,
        PRIMARY KEY (model, content_hash)
    )
    """,
    """
    CREATE TABLE staged_part (
        tenant text NOT NULL,
        document_id text NOT NULL,
        document_version bigint NOT NULL,
        part integer NOT NULL,
        parts integer NOT NULL,
        body bytea NOT NULL,
        PRIMARY KEY (tenant, document_id, document_version, part)
    )
    """,
    OUTBOX,
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
