"""What an event means for the index, given what the ledger holds: decided without any I/O."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.contracts.events import ChunksReady
from ragline.errors import PermanentError
from ragline.index.engine import WHOLE_TENANT
from ragline.index.fingerprint import Element, Fingerprint
from ragline.index.identity import content_hash
from services.embed.versions import Change, CurrentDocument, OpenPoint, Unchanged, plan_change
from tests.document_versions import access, after, applied, delete, upsert


def planned(current: CurrentDocument, event: ChunksReady) -> Change:
    plan = plan_change(current, event)
    assert isinstance(plan, Change)
    return plan


def opened(change: Change) -> list[str | None]:
    return [entry.text for entry in change.open]


def closed(change: Change) -> set[str]:
    return {point.content_hash for point in change.close}


def hashes(*texts: str) -> set[str]:
    return {content_hash(text) for text in texts}


def test_a_new_document_opens_all_its_chunks() -> None:
    change = planned(CurrentDocument(), upsert(1, ["one", "two"]))

    assert opened(change) == ["one", "two"]
    assert (change.close, change.base, change.deleted) == ((), 0, False)
    assert change.groups == (WHOLE_TENANT,)
    assert not change.access_changed


def test_an_edit_opens_and_closes_only_what_changed() -> None:
    change = planned(after(upsert(1, ["one", "two", "three"])), upsert(2, ["one", "zwei", "three"]))

    assert opened(change) == ["zwei"]
    assert closed(change) == hashes("two")


def test_a_paragraph_inserted_on_top_moves_nothing_else() -> None:
    change = planned(after(upsert(1, ["one", "two"])), upsert(2, ["zero", "one", "two"]))

    assert opened(change) == ["zero"]
    assert change.close == ()


def test_a_deletion_closes_everything() -> None:
    change = planned(after(upsert(1, ["one", "two"])), delete(2))

    assert (change.open, change.deleted) == ((), True)
    assert closed(change) == hashes("one", "two")


def test_a_document_that_comes_back_gets_new_points() -> None:
    first = after(upsert(1, ["one"]))
    again = after(upsert(1, ["one"]), delete(2), upsert(3, ["one"]))

    assert [point.chunk_id for point in again.points] == [point.chunk_id for point in first.points]
    assert again.points[0].point_id != first.points[0].point_id


def test_new_metadata_makes_new_points_of_the_same_chunks() -> None:
    before = after(upsert(1, ["one", "two"], metadata={"lang": "en"}))

    change = planned(before, upsert(2, ["one", "two"], metadata={"lang": "de"}))

    assert [entry.chunk_id for entry in change.open] == [point.chunk_id for point in before.points]
    assert change.close == before.points


@pytest.mark.parametrize("field", ["title", "uri"])
def test_title_and_uri_count_as_metadata(field: str) -> None:
    change = planned(after(upsert(1, ["one"])), upsert(2, ["one"], **{field: "Another"}))

    assert (len(change.open), len(change.close)) == (1, 1)


def test_another_access_alone_touches_no_chunk() -> None:
    change = planned(after(upsert(1, ["one"])), access(2, ["one"], acl=["staff"]))

    assert (change.open, change.close) == ((), ())
    assert change.access_changed
    assert change.groups == ("staff",)


def test_nobody_may_read_with_an_empty_access_list() -> None:
    assert planned(after(upsert(1, ["one"])), access(2, ["one"], acl=[])).groups == ()


def test_an_older_access_does_not_come_back_with_newer_content() -> None:
    before = after(upsert(1, ["one"]), access(2, ["one"], acl=["staff"], acl_revision=9))

    change = planned(before, upsert(3, ["one", "two"], acl=None, acl_revision=5))

    assert change.groups == ("staff",)
    assert not change.access_changed
    assert change.acl_revision == 9


def test_access_counts_for_the_old_versions_of_a_deleted_document_too() -> None:
    """They can still be read at an old version: who must not read them any more must not."""
    change = planned(after(upsert(1, ["one"]), delete(2)), delete(3, acl=["staff"]))

    assert change.access_changed
    assert change.groups == ("staff",)


def test_another_access_at_re_creation_reaches_the_old_versions() -> None:
    change = planned(after(upsert(1, ["one"]), delete(2, acl_revision=1)), upsert(3, ["one"], acl=["staff"]))

    assert change.access_changed


def test_an_older_version_changes_nothing() -> None:
    assert plan_change(after(upsert(3, ["one"])), upsert(2, ["two"])) == Unchanged("superseded by a newer version")


@pytest.mark.parametrize("event", [upsert(1, ["one"]), delete(1), access(1, ["one"], acl=["staff"])])
def test_a_redelivery_changes_nothing(event: ChunksReady) -> None:
    assert plan_change(after(event), event) == Unchanged("already committed")


def test_a_redelivery_without_the_texts_changes_nothing() -> None:
    """An announcement that is repeated may carry other texts: they are not what makes a version."""
    event = upsert(1, ["one"])
    without = event.model_copy(
        update={"manifest": tuple(entry.model_copy(update={"text": None}) for entry in event.manifest)}
    )

    assert plan_change(after(event), without) == Unchanged("already committed")


@pytest.mark.parametrize(
    "other",
    [
        upsert(1, ["another"]),
        upsert(1, ["one"], title="Another"),
        upsert(1, ["one"], metadata={"lang": "de"}),
        access(1, ["one"], acl=["staff"]),
        delete(1),
    ],
)
def test_the_same_version_with_another_content_is_a_contradiction(other: ChunksReady) -> None:
    with pytest.raises(PermanentError, match="another manifest") as refused:
        plan_change(after(upsert(1, ["one"])), other)

    assert refused.value.reason == "MANIFEST_CONFLICT"


def test_a_missed_version_in_between_is_made_up_for() -> None:
    """The difference is to what the ledger holds, not to what ingest believes that it holds."""
    change = planned(after(upsert(1, ["one", "two"])), upsert(3, ["one", "four"]))

    assert opened(change) == ["four"]
    assert closed(change) == hashes("two")


def test_an_access_change_makes_up_for_the_content_that_was_missed() -> None:
    change = planned(after(upsert(1, ["one"])), access(3, ["two"], acl=["staff"]))

    assert opened(change) == ["two"]
    assert closed(change) == hashes("one")


def test_equal_chunks_of_one_document_are_told_apart() -> None:
    current = after(upsert(1, ["same", "same"]))

    assert len({point.chunk_id for point in current.points}) == 2
    assert len(planned(current, upsert(2, ["same"])).close) == 1


# --- any history ---------------------------------------------------------------------------------

texts = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=5)
acls = st.none() | st.lists(st.sampled_from(["staff", "guests"]), max_size=2, unique=True)


@st.composite
def histories(draw: st.DrawFn) -> list[ChunksReady]:
    """The versions of a document as they arrive: some lost, some late, some twice."""
    versions: list[ChunksReady] = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        fields = {"metadata": {"lang": draw(st.sampled_from(["en", "de"]))}, "acl_revision": draw(st.integers(0, 5))}
        kinds = [
            upsert(number, draw(texts), acl=draw(acls), **fields),
            access(number, draw(texts), acl=draw(acls), **fields),
            delete(number, **fields),
        ]
        versions.append(draw(st.sampled_from(kinds)))
    return draw(st.lists(st.sampled_from(versions), max_size=10))


def visible(current: CurrentDocument) -> list[tuple[str, str]]:
    return sorted((point.chunk_id, point.metadata_hash) for point in current.points)


def fingerprint(event_points: Sequence[OpenPoint], event: ChunksReady) -> Fingerprint:
    return Fingerprint.of(
        Element(event.tenant, event.document_id, point.chunk_id, point.content_hash, point.metadata_hash)
        for point in event_points
    )


@given(histories())
def test_whatever_arrives_the_index_holds_exactly_the_newest_version(events: list[ChunksReady]) -> None:
    current, total, seen = CurrentDocument(), Fingerprint(), set[uuid.UUID]()
    for sequence, event in enumerate(events, start=1):
        plan = plan_change(current, event)
        if isinstance(plan, Unchanged):
            continue
        fresh = set(plan.point_ids("g1", sequence))
        assert not fresh & seen, "a point was opened twice"
        seen |= fresh
        current, total = applied(current, plan, sequence), total.plus(plan.delta())

        newest = max(events[:sequence], key=lambda one: one.document_version)
        from_nothing = planned(CurrentDocument(), newest)
        assert visible(current) == visible(applied(CurrentDocument(), from_nothing, 1))
        assert total == fingerprint(current.points, event)


@given(histories())
def test_access_is_that_of_the_newest_access_revision(events: list[ChunksReady]) -> None:
    current = after(*events)

    taken: list[ChunksReady] = []
    for event in events:
        if event.document_version > max((one.document_version for one in taken), default=0):
            taken.append(event)
    best = max(taken, key=lambda one: (one.acl_revision, one.document_version), default=None)
    assert current.acl == (best.acl if best else None)
