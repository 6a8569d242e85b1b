"""The store of evaluations: one a answer, by the newest scorer, told to the world in the same transaction."""

from __future__ import annotations

from typing import Any, Final

from psycopg.types.json import Jsonb

from ragline.contracts.events import AnswerEvaluated, Score
from ragline.database import Database
from ragline.outbox import Outbox

_UPSERT: Final = """
INSERT INTO evaluation (answer_id, tenant, scores, flags, verdict, evaluated_at, scorer_version)
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (answer_id, tenant) DO UPDATE SET
    scores = EXCLUDED.scores, flags = EXCLUDED.flags, verdict = EXCLUDED.verdict,
    evaluated_at = EXCLUDED.evaluated_at, scorer_version = EXCLUDED.scorer_version
WHERE evaluation.scorer_version < EXCLUDED.scorer_version
RETURNING answer_id
"""
_FIND: Final = """
SELECT answer_id, tenant, scores, flags, verdict, evaluated_at FROM evaluation
WHERE answer_id = %s AND tenant = COALESCE(%s, tenant)
"""


class Evaluations:
    """PostgreSQL, schema `eval`."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def is_current(self, answer_id: str, tenant: str, *, scorer_version: int) -> bool:
        """Whether an answer has been evaluated by this scorer or a newer one."""
        row = await self._database.fetch_one(
            "SELECT 1 FROM evaluation WHERE answer_id = %s AND tenant = %s AND scorer_version >= %s",
            (answer_id, tenant, scorer_version),
        )
        return row is not None

    async def record(self, evaluation: AnswerEvaluated, *, scorer_version: int) -> bool:
        """Store an evaluation together with its event; does nothing, and returns False, when it is no news.

        An evaluation by the same scorer, or by a newer one, stays as it is.
        """
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                _UPSERT,
                (
                    evaluation.answer_id,
                    evaluation.tenant,
                    Jsonb([score.model_dump() for score in evaluation.scores]),
                    list(evaluation.flags),
                    evaluation.verdict,
                    evaluation.evaluated_at,
                    scorer_version,
                ),
            )
            if await cursor.fetchone() is None:
                return False
            await self._outbox.add(connection, [evaluation])
        self._outbox.kick()
        return True

    async def find(self, answer_id: str, *, tenant: str | None) -> AnswerEvaluated | None:
        """The present evaluation of an answer of this tenant (None: of any), or None."""
        row = await self._database.fetch_one(_FIND, (answer_id, tenant))
        return None if row is None else _evaluation(row)


def _evaluation(row: dict[str, Any]) -> AnswerEvaluated:
    scores = tuple(Score.model_validate(score) for score in row["scores"])
    return AnswerEvaluated(**{**row, "scores": scores, "flags": tuple(row["flags"])})
