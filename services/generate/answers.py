"""Where answers are kept: written once with their evidence and their event, read by whoever may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from psycopg.types.json import Jsonb

from ragline.contracts.events import AnswerEvaluated
from ragline.database import Connection, Database
from ragline.errors import NotFound
from ragline.identity import Identity
from ragline.outbox import Outbox
from services.generate.answer import Answer, Passage, StageScore

_INSERT_ANSWER = """
INSERT INTO answer (
    id, tenant, asker, asker_groups, question, parameters, text, outcome, refused, failure_reason,
    invalid_citations, index_version, index_fingerprint, embedder, model, prompt_version, prompt_hash,
    prompt_tokens, completion_tokens, usage_reported, cost_usd, price_version, latency_ms, trace_id,
    created_at
) VALUES (
    %(id)s, %(tenant)s, %(asker)s, %(asker_groups)s, %(question)s, %(parameters)s, %(text)s, %(outcome)s,
    %(refused)s, %(failure_reason)s, %(invalid_citations)s, %(index_version)s, %(index_fingerprint)s,
    %(embedder)s, %(model)s, %(prompt_version)s, %(prompt_hash)s, %(prompt_tokens)s, %(completion_tokens)s,
    %(usage_reported)s, %(cost_usd)s, %(price_version)s, %(latency_ms)s, %(trace_id)s, %(created_at)s
)
ON CONFLICT (id) DO NOTHING
"""

_INSERT_EVIDENCE = """
INSERT INTO evidence (
    answer_id, number, document_id, title, heading_path, uri, chunk_id, point_id, content_hash, score,
    dense, sparse, valid_from, cited, text
)
SELECT
    %(answer_id)s, number, document_id, title, heading_path, uri, chunk_id, point_id, content_hash, score,
    dense, sparse, valid_from, cited, text
FROM jsonb_populate_recordset(NULL::evidence, %(passages)s)
"""

_ATTACH_EVALUATION = """
UPDATE answer SET evaluation = %(evaluation)s, evaluated_at = %(evaluated_at)s
WHERE tenant = %(tenant)s AND id = %(id)s
  AND (evaluated_at IS NULL OR evaluated_at < %(evaluated_at)s)
"""


class Answers:
    """The stored answers of all tenants."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def add(self, connection: Connection, answer: Answer, *, traceparent: str | None) -> None:
        """Store an answer within the caller's transaction, with `answer.produced` if it was given.

        Repeating it does nothing. `traceparent` names the span that the event belongs to.
        """
        inserted = await connection.execute(_INSERT_ANSWER, _columns(answer))
        if inserted.rowcount == 0:
            return
        passages = Jsonb([asdict(passage) for passage in answer.passages])
        await connection.execute(_INSERT_EVIDENCE, {"answer_id": answer.id, "passages": passages})
        if answer.given:
            await self._outbox.add(connection, [answer.produced()], traceparent=traceparent)

    async def read(self, answer_id: str, reader: Identity) -> Answer:
        """An answer for one who may read it: who asked, or an admin of the tenant.

        Raises NotFound for everybody else, as for an answer that does not exist.
        """
        row = await self._database.fetch_one(
            "SELECT * FROM answer WHERE tenant = %s AND id = %s", (reader.tenant, answer_id)
        )
        if row is None or not _may_read(reader, row):
            raise _no_answer(answer_id)
        return _answer(row, await self._passages(answer_id))

    async def evidence_for_service(self, answer_id: str, tenant: str) -> tuple[Passage, ...]:
        """The evidence of any tenant's answer: for callers that were found to have the scope `internal`."""
        found = await self._database.fetch_one(
            "SELECT id FROM answer WHERE tenant = %s AND id = %s", (tenant, answer_id)
        )
        if found is None:
            raise _no_answer(answer_id)
        return await self._passages(answer_id)

    async def citing(
        self, tenant: str, document_id: str, content_hashes: Sequence[str], *, limit: int
    ) -> list[dict[str, Any]]:
        """The newest answers of a tenant that cite any of these contents of a document, newest first."""
        return await self._database.fetch(
            "SELECT id, question, index_version, extract(epoch FROM created_at)::float8 AS created_unix_s "
            "FROM answer a WHERE tenant = %s AND EXISTS (SELECT FROM evidence e WHERE e.answer_id = a.id "
            "AND e.document_id = %s AND e.cited AND e.content_hash = ANY(%s)) ORDER BY created_at DESC LIMIT %s",
            (tenant, document_id, list(content_hashes), limit),
        )

    async def attach_evaluation(self, evaluation: AnswerEvaluated) -> None:
        """Keep the newest evaluation with the answer; an older one, or the same again, changes nothing.

        Raises NotFound for an answer that is not there: the answer and the event that led to the
        evaluation left in one transaction, so that waiting would not help.
        """
        key = {"tenant": evaluation.tenant, "id": evaluation.answer_id}
        async with self._database.transaction() as connection:
            values = {
                **key,
                "evaluation": Jsonb(evaluation.model_dump(mode="json")),
                "evaluated_at": evaluation.evaluated_at,
            }
            updated = await connection.execute(_ATTACH_EVALUATION, values)
            if updated.rowcount == 0:
                found = await connection.execute("SELECT id FROM answer WHERE tenant = %(tenant)s AND id = %(id)s", key)
                if await found.fetchone() is None:
                    raise _no_answer(evaluation.answer_id)

    async def _passages(self, answer_id: str) -> tuple[Passage, ...]:
        rows = await self._database.fetch("SELECT * FROM evidence WHERE answer_id = %s ORDER BY number", (answer_id,))
        return tuple(_passage(row) for row in rows)


def _may_read(reader: Identity, row: Mapping[str, Any]) -> bool:
    """An answer quotes what its asker's groups could read then: a reader who lost one has lost it too."""
    if "admin" in reader.scopes:
        return True
    return row["asker"] == reader.user and reader.groups.issuperset(row["asker_groups"])


def _no_answer(answer_id: str) -> NotFound:
    return NotFound(f"there is no answer {answer_id[:64]!r} that you may read; check the id and whose key it is")


def _columns(answer: Answer) -> dict[str, Any]:
    values = {column.name: getattr(answer, column.name) for column in fields(answer)}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    return {
        **values,
        **lists,
        "parameters": Jsonb(dict(answer.parameters)),
        "latency_ms": Jsonb(dict(answer.latency_ms)),
    }


def _answer(row: Mapping[str, Any], passages: tuple[Passage, ...]) -> Answer:
    values = {**row, "passages": passages}
    del values["evaluated_at"]
    if values["evaluation"] is not None:
        values["evaluation"] = AnswerEvaluated.model_validate(values["evaluation"])
    for name in ("asker_groups", "invalid_citations"):
        values[name] = tuple(values[name])
    return Answer(**values)


def _passage(row: Mapping[str, Any]) -> Passage:
    values = {**row, "heading_path": tuple(row["heading_path"])}
    del values["answer_id"]
    for stage in ("dense", "sparse"):
        if values[stage] is not None:
            values[stage] = StageScore(**values[stage])
    return Passage(**values)
