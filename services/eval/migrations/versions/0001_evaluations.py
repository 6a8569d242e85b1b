"""The present evaluation of each answer, and the outbox."""

from alembic import op

from ragline.outbox import TABLE as OUTBOX

revision = "0001"
down_revision = None

TABLES = (
    """
    CREATE TABLE evaluation (
        answer_id text NOT NULL,
        tenant text NOT NULL,
        scorer_version integer NOT NULL,
        verdict text NOT NULL CHECK (verdict IN ('good', 'doubtful', 'bad')),
        scores jsonb NOT NULL,
        flags text[] NOT NULL,
        evaluated_at timestamptz NOT NULL,
        PRIMARY KEY (answer_id, tenant)
    )
    """,
    OUTBOX,
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
