"""The SQL of budgets: each change of a window is one statement that locks its rows in the order of their ids.

Two rules keep concurrent statements from overspending under READ COMMITTED, and every statement here
follows them:

- A decision reads only what `FOR UPDATE` returned. A statement that has waited for a row gets the row as
  it is by then; everything else that it reads is as old as its own snapshot.
- Such rows are joined to the UPDATE in its FROM, never tested in a sub-select: when PostgreSQL finds the
  row changed and checks it again, it keeps the joined rows, but would run a sub-select anew, on the old
  snapshot.

The tenant's rows are always made before the user's, and locked in the order of ids, so that no two
statements ever wait for each other. A statement that also ends a reservation locks that one first.
"""

from __future__ import annotations

from typing import Final

LEVEL_COUNT: Final = 4
"""Windows of one reservation (`present_windows`): the user's and the tenant's, by day and by month."""

CREATE_WINDOWS: Final = """
INSERT INTO budget_window (tenant, level, subject, period, window_start, window_end)
SELECT %(tenant)s, level, subject, period, window_start, window_end
FROM present_windows(%(tenant)s, %(user)s) ORDER BY level, period
ON CONFLICT DO NOTHING
"""

RESERVE: Final = """
WITH locked AS MATERIALIZED (
    SELECT w.* FROM budget_window w
    JOIN present_windows(%(tenant)s, %(user)s) p ON w.tenant = %(tenant)s
         AND (w.level, w.subject, w.period, w.window_start) = (p.level, p.subject, p.period, p.window_start)
    ORDER BY w.id
    FOR UPDATE OF w
),
levels AS MATERIALIZED (
    SELECT locked.*, l.limit_usd FROM locked
    LEFT JOIN budget_limit l USING (tenant, level, subject, period)
),
decision AS MATERIALIZED (
    SELECT count(*) = 4
           AND bool_and(limit_usd IS NULL OR spent_usd + held_usd + %(amount)s <= limit_usd) AS granted
    FROM levels
),
held AS (
    UPDATE budget_window w SET held_usd = w.held_usd + %(amount)s
    FROM locked, decision
    WHERE w.id = locked.id AND decision.granted
    RETURNING w.id
),
reserved AS (
    INSERT INTO reservation (id, answer_id, window_ids, amount_usd, lease_until)
    SELECT %(id)s, %(answer_id)s, (SELECT array_agg(id ORDER BY id) FROM held), %(amount)s,
           clock_timestamp() + make_interval(secs => %(lease_s)s)
    FROM decision WHERE granted
    RETURNING lease_until
)
SELECT level, subject, period, window_end, spent_usd, held_usd, overrun_usd, limit_usd,
       granted, lease_until, clock_timestamp() AS asked_at
FROM levels CROSS JOIN decision LEFT JOIN reserved ON true
ORDER BY level DESC, period
"""

END: Final = """
WITH ending AS MATERIALIZED (
    SELECT id, window_ids, amount_usd, state,
           CASE WHEN state = 'held' THEN %(actual)s::numeric ELSE LEAST(%(actual)s::numeric, amount_usd) END
               AS actual_usd
    FROM reservation
    WHERE id = %(id)s AND state IN ('held', 'expired')
    FOR UPDATE
),
locked AS MATERIALIZED (
    SELECT w.id FROM budget_window w
    JOIN ending ON w.id = ANY (ending.window_ids)
    ORDER BY w.id
    FOR UPDATE OF w
),
booked AS (
    UPDATE budget_window w SET
        held_usd = w.held_usd - CASE WHEN ending.state = 'held' THEN ending.amount_usd ELSE 0 END,
        spent_usd = w.spent_usd + ending.actual_usd
            - CASE WHEN ending.state = 'expired' THEN ending.amount_usd ELSE 0 END,
        overrun_usd = w.overrun_usd + GREATEST(0, ending.actual_usd - ending.amount_usd)
    FROM locked, ending
    WHERE w.id = locked.id
)
UPDATE reservation r
SET state = %(state)s, settled_usd = ending.actual_usd, ended_at = clock_timestamp()
FROM ending WHERE r.id = ending.id
RETURNING GREATEST(0, ending.actual_usd - ending.amount_usd) AS overrun_usd
"""

EXPIRE: Final = """
WITH ending AS MATERIALIZED (
    SELECT id, window_ids, amount_usd FROM reservation
    WHERE state = 'held' AND lease_until < clock_timestamp()
    ORDER BY lease_until LIMIT 100
    FOR UPDATE SKIP LOCKED
),
totals AS MATERIALIZED (
    SELECT window_id, sum(amount_usd) AS amount_usd
    FROM ending CROSS JOIN unnest(window_ids) AS window_id
    GROUP BY window_id
),
locked AS MATERIALIZED (
    SELECT w.id FROM budget_window w JOIN totals ON totals.window_id = w.id
    ORDER BY w.id
    FOR UPDATE OF w
),
booked AS (
    UPDATE budget_window w SET
        held_usd = w.held_usd - totals.amount_usd,
        spent_usd = w.spent_usd + totals.amount_usd
    FROM locked JOIN totals ON totals.window_id = locked.id
    WHERE w.id = locked.id
)
UPDATE reservation r
SET state = 'expired', settled_usd = r.amount_usd, ended_at = clock_timestamp()
FROM ending WHERE r.id = ending.id
RETURNING r.id, r.answer_id, r.amount_usd
"""

SHOW: Final = """
SELECT p.level, p.subject, p.period, p.window_end, l.limit_usd,
       coalesce(w.spent_usd, 0) AS spent_usd, coalesce(w.held_usd, 0) AS held_usd,
       coalesce(w.overrun_usd, 0) AS overrun_usd
FROM present_windows(%(tenant)s, %(user)s) p
LEFT JOIN budget_limit l ON l.tenant = %(tenant)s
     AND (l.level, l.subject, l.period) = (p.level, p.subject, p.period)
LEFT JOIN budget_window w ON w.tenant = %(tenant)s
     AND (w.level, w.subject, w.period, w.window_start) = (p.level, p.subject, p.period, p.window_start)
ORDER BY p.level DESC, p.period
"""

SET_LIMIT: Final = """
INSERT INTO budget_limit (tenant, level, subject, period, limit_usd, set_by)
VALUES (%(tenant)s, %(level)s, %(subject)s, %(period)s, %(limit)s, %(set_by)s)
ON CONFLICT (tenant, level, subject, period)
DO UPDATE SET limit_usd = excluded.limit_usd, set_by = excluded.set_by, set_at = clock_timestamp()
"""
