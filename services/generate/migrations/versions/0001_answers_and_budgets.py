"""Answers with their evidence, and budgets with their windows and reservations."""

from alembic import op

from ragline.outbox import TABLE as OUTBOX

revision = "0001"
down_revision = None

BUDGETS = (
    """
    CREATE TABLE budget_limit (
        tenant text NOT NULL,
        level text NOT NULL CHECK (level IN ('user', 'tenant')),
        subject text NOT NULL,
        period text NOT NULL CHECK (period IN ('day', 'month')),
        limit_usd numeric NOT NULL CHECK (limit_usd >= 0),
        set_by text NOT NULL,
        set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant, level, subject, period)
    )
    """,
    # spent_usd holds all that was spent; overrun_usd is the part of it that no hold had covered.
    """
    CREATE TABLE budget_window (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        tenant text NOT NULL,
        level text NOT NULL CHECK (level IN ('user', 'tenant')),
        subject text NOT NULL,
        period text NOT NULL CHECK (period IN ('day', 'month')),
        window_start timestamptz NOT NULL,
        window_end timestamptz NOT NULL,
        spent_usd numeric NOT NULL DEFAULT 0 CHECK (spent_usd >= 0),
        held_usd numeric NOT NULL DEFAULT 0 CHECK (held_usd >= 0),
        overrun_usd numeric NOT NULL DEFAULT 0 CHECK (overrun_usd >= 0),
        UNIQUE (tenant, level, subject, period, window_start)
    )
    """,
    # A reservation remembers its windows and settles there, whatever the date is by then.
    """
    CREATE TABLE reservation (
        id uuid PRIMARY KEY,
        answer_id text NOT NULL,
        window_ids bigint[] NOT NULL,
        amount_usd numeric NOT NULL CHECK (amount_usd >= 0),
        settled_usd numeric CHECK (settled_usd >= 0),
        state text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'settled', 'returned', 'expired')),
        lease_until timestamptz NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at timestamptz
    )
    """,
    # The levels that a call spends from, with their UTC windows by the database's clock.
    """
    CREATE FUNCTION present_windows(tenant text, user_name text)
    RETURNS TABLE (level text, subject text, period text, window_start timestamptz, window_end timestamptz)
    LANGUAGE sql STABLE AS $$
        SELECT levels.level, levels.subject, periods.period,
               date_trunc(periods.period, now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC',
               (date_trunc(periods.period, now() AT TIME ZONE 'UTC') + periods.length) AT TIME ZONE 'UTC'
        FROM (VALUES ('tenant', tenant), ('user', user_name)) AS levels (level, subject)
        CROSS JOIN (VALUES ('day', interval '1 day'), ('month', interval '1 month'))
              AS periods (period, length)
    $$
    """,
    "CREATE INDEX reservation_lease ON reservation (lease_until) WHERE state = 'held'",
    "CREATE INDEX reservation_answer ON reservation (answer_id)",
)

ANSWERS = (
    # asker_groups: what the asker could read then; whoever reads the answer later must still have them.
    """
    CREATE TABLE answer (
        id text PRIMARY KEY,
        tenant text NOT NULL,
        asker text NOT NULL,
        asker_groups text[] NOT NULL,
        question text NOT NULL,
        parameters jsonb NOT NULL,
        text text NOT NULL,
        outcome text NOT NULL CHECK (outcome IN ('complete', 'cut', 'cancelled', 'failed')),
        refused boolean NOT NULL,
        failure_reason text,
        invalid_citations integer[] NOT NULL,
        index_version text NOT NULL,
        index_fingerprint text NOT NULL,
        embedder text NOT NULL,
        model text NOT NULL,
        prompt_version text NOT NULL,
        prompt_hash text NOT NULL,
        prompt_tokens bigint NOT NULL,
        completion_tokens bigint NOT NULL,
        usage_reported boolean NOT NULL,
        cost_usd numeric NOT NULL,
        price_version text NOT NULL,
        latency_ms jsonb NOT NULL,
        trace_id text NOT NULL,
        created_at timestamptz NOT NULL,
        evaluation jsonb,
        evaluated_at timestamptz
    )
    """,
    "CREATE INDEX answer_of_asker ON answer (tenant, asker, created_at)",
    """
    CREATE TABLE evidence (
        answer_id text NOT NULL REFERENCES answer ON DELETE CASCADE,
        number integer NOT NULL,
        document_id text NOT NULL,
        title text NOT NULL,
        heading_path text[] NOT NULL,
        uri text NOT NULL,
        chunk_id text NOT NULL,
        point_id text NOT NULL,
        content_hash text NOT NULL,
        score double precision NOT NULL,
        dense jsonb,
        sparse jsonb,
        valid_from bigint NOT NULL,
        cited boolean NOT NULL,
        text text NOT NULL,
        PRIMARY KEY (answer_id, number)
    )
    """,
    "CREATE INDEX evidence_of_document ON evidence (document_id)",
)


def upgrade() -> None:
    for statement in (*BUDGETS, *ANSWERS, OUTBOX):
        op.execute(statement)
