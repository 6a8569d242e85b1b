"""Which changes are accepted, and that the order of their arrival does not decide it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.contracts.events import DocumentChanged
from services.ingest.acceptance import Ignored, Registered, accept
from tests.document_versions import manifest


def change(op: str, revision: int, content: str | None = None, **fields: Any) -> DocumentChanged:
    body = {"tenant": "acme", "document_id": "manual", "source": "wiki", "op": op, "revision": revision}
    return DocumentChanged.model_validate({**body, "content": content, **fields})


def upsert(revision: int, content: str = "one", **fields: Any) -> DocumentChanged:
    return change("upsert", revision, content, **fields)


def delete(revision: int, **fields: Any) -> DocumentChanged:
    return change("delete", revision, **fields)


def access(revision: int, acl: Sequence[str] | None, **fields: Any) -> DocumentChanged:
    return change("access", revision, acl=acl, **fields)


def decided(current: Registered | None, event: DocumentChanged, content: str | None = None) -> Registered | Ignored:
    """The decision on an event; `content` is what lies where its reference points."""
    content = event.content if content is None else content
    return accept(current, event, hashlib.sha256((content or "").encode()).hexdigest())


def after(*events: DocumentChanged) -> Registered:
    """The registered document after these events."""
    current: Registered | None = None
    for event in events:
        decision = decided(current, event)
        current = decision if isinstance(decision, Registered) else decision.remember or current
    assert current is not None
    return current


def accepted(current: Registered | None, event: DocumentChanged, content: str | None = None) -> Registered:
    decision = decided(current, event, content)
    assert isinstance(decision, Registered), decision
    return decision


def ignored(current: Registered | None, event: DocumentChanged, content: str | None = None) -> Ignored:
    decision = decided(current, event, content)
    assert isinstance(decision, Ignored), decision
    return decision


# --- content --------------------------------------------------------------------------------------


def test_a_first_version_is_accepted_as_version_one() -> None:
    document = accepted(None, upsert(7, title="Manual", uri="https://x", metadata={"lang": "en"}, acl=["staff"]))

    assert (document.document_version, document.revision, document.op) == (1, 7, "upsert")
    assert (document.title, document.uri, document.metadata) == ("Manual", "https://x", {"lang": "en"})
    assert (document.acl, document.acl_revision, document.deleted) == (("staff",), 7, False)


def test_newer_content_is_the_next_version() -> None:
    assert accepted(after(upsert(1)), upsert(2, "two")).document_version == 2


def test_older_content_is_superseded() -> None:
    decision = ignored(after(upsert(5)), upsert(4, "two"))

    assert (decision.status, decision.remember) == ("superseded", None)


def test_a_redelivery_alters_nothing() -> None:
    decision = ignored(after(upsert(5)), upsert(5))

    assert (decision.status, decision.remember) == ("unchanged", None)


def test_equal_content_of_a_newer_revision_is_remembered_but_not_a_version() -> None:
    document = after(upsert(5), upsert(9))

    assert (document.document_version, document.revision) == (1, 9)
    assert ignored(document, upsert(7, "late")).status == "superseded"


@pytest.mark.parametrize(
    "fields",
    [{"title": "Another"}, {"uri": "https://y"}, {"metadata": {"n": 2}}, {"content_type": "text/html"}],
)
def test_what_is_told_of_the_content_counts_as_content(fields: dict[str, Any]) -> None:
    assert accepted(after(upsert(1)), upsert(2, **fields)).op == "upsert"


def test_the_same_content_by_reference_is_no_version() -> None:
    by_reference = change("upsert", 2, content_ref="https://x/manual")

    assert ignored(after(upsert(1)), by_reference, content="one").status == "unchanged"
    assert accepted(after(upsert(1)), by_reference, content="two").document_version == 2


def test_late_content_by_reference_need_not_be_fetched_to_be_superseded() -> None:
    late = change("upsert", 4, content_ref="https://x/manual", acl=["staff"], acl_revision=9)

    decision = accept(after(upsert(5)), late, "")
    assert isinstance(decision, Registered)
    assert (decision.op, decision.revision, decision.content_hash) == ("access", 5, after(upsert(5)).content_hash)


@pytest.mark.parametrize(("before", "now"), [(1, True), (1, 1.0), (1, "1")])
def test_another_type_of_metadata_is_another_metadata(before: object, now: object) -> None:
    """The index hashes them by their spelling, so that 1 and true are not the same there."""
    accepted(after(upsert(1, metadata={"flag": before})), upsert(2, metadata={"flag": now}))


def test_new_content_comes_without_the_old_manifest() -> None:
    current = replace(after(upsert(1)), manifest=manifest(["one"]))

    assert accepted(current, upsert(2, "two")).manifest == ()
    assert accepted(current, access(2, ["staff"])).manifest == current.manifest
    assert accepted(current, delete(2)).manifest == ()


# --- deletion -------------------------------------------------------------------------------------


def test_a_deletion_is_a_version() -> None:
    document = accepted(after(upsert(1)), delete(2))

    assert (document.deleted, document.document_version, document.op) == (True, 2, "delete")


def test_a_deletion_wins_the_tie_with_content() -> None:
    assert after(upsert(3), delete(3)).deleted
    assert after(delete(3), upsert(3)).deleted


def test_content_older_than_its_deletion_does_not_come_back() -> None:
    assert ignored(after(upsert(1), delete(3)), upsert(2, "late")).status == "superseded"


def test_the_deletion_of_an_unknown_document_is_remembered() -> None:
    decision = ignored(None, delete(3))

    assert decision.status == "unchanged"
    assert decision.remember is not None and decision.remember.document_version == 0
    assert ignored(decision.remember, upsert(2)).status == "superseded"


def test_versions_count_on_through_deletion_and_re_creation() -> None:
    assert after(upsert(1), delete(2), upsert(3)).document_version == 3


def test_a_second_deletion_is_no_version() -> None:
    document = after(upsert(1), delete(2), delete(5))

    assert (document.document_version, document.revision) == (2, 5)


# --- access ---------------------------------------------------------------------------------------


def test_an_access_change_is_a_version_of_its_own_kind() -> None:
    document = accepted(after(upsert(1)), access(2, ["staff"]))

    assert (document.op, document.document_version, document.acl) == ("access", 2, ("staff",))
    assert document.revision == 1, "the content is still that of revision 1"


def test_an_older_access_revision_is_superseded() -> None:
    assert ignored(after(upsert(1), access(5, ["staff"])), access(4, None)).status == "superseded"


def test_the_same_access_in_another_order_is_no_version() -> None:
    document = after(upsert(1, acl=["b", "a"]))

    assert ignored(document, access(2, ["a", "b", "a"])).status == "unchanged"


def test_late_content_does_not_bring_back_an_older_access() -> None:
    document = after(upsert(1), access(9, ["staff"]), upsert(5, "two"))

    assert (document.acl, document.op, document.revision) == (("staff",), "upsert", 5)


def test_older_content_still_brings_its_newer_access() -> None:
    document = accepted(after(upsert(5)), upsert(4, "late", acl=["staff"], acl_revision=9))

    assert (document.acl, document.op, document.revision) == (("staff",), "access", 5)


def test_an_access_change_before_the_document_is_kept_for_it() -> None:
    first = ignored(None, access(9, ["staff"]))

    assert first.remember is not None
    assert accepted(first.remember, upsert(1)).acl == ("staff",)


def test_an_access_change_leaves_the_revision_of_a_deleted_document_alone() -> None:
    """Otherwise content between the two revisions would be lost or not, by the order of arrival."""
    assert not after(upsert(1), delete(2), access(9, ["staff"]), upsert(5)).deleted


def test_access_to_a_deleted_document_is_announced_for_its_old_versions() -> None:
    document = accepted(after(upsert(1), delete(2)), access(3, ["staff"]))

    assert (document.op, document.deleted, document.acl) == ("delete", True, ("staff",))


@pytest.mark.parametrize(("wider", "narrower"), [(None, ["a"]), (["a", "b"], ["b"]), (["a"], []), (None, [])])
def test_two_access_lists_of_one_revision_leave_the_narrower(
    wider: Sequence[str] | None, narrower: Sequence[str]
) -> None:
    for events in ((wider, narrower), (narrower, wider)):
        assert after(upsert(1), *(access(5, acl) for acl in events)).acl == tuple(narrower)


# --- any order ------------------------------------------------------------------------------------

acls = st.none() | st.lists(st.sampled_from(["a", "b", "c"]), max_size=2)
events = st.builds(
    lambda op, content, **fields: change(op, content=content if op == "upsert" else None, **fields),
    op=st.sampled_from(["upsert", "upsert", "delete", "access"]),
    content=st.sampled_from(["one", "two"]),
    revision=st.integers(0, 4),
    acl_revision=st.none() | st.integers(0, 4),
    source=st.sampled_from(["wiki", "crm"]),
    title=st.sampled_from([None, "Manual"]),
    uri=st.sampled_from(["", "https://x"]),
    metadata=st.sampled_from([{}, {"n": 1}, {"n": True}]),
    acl=acls,
)


def outcome(document: Registered) -> tuple[object, ...]:
    told = () if document.deleted else (document.title, document.uri, repr(document.metadata))
    return (document.deleted, document.content_hash, document.acl, document.acl_revision, document.revision, *told)


@given(st.lists(events, min_size=1, max_size=6), st.data())
def test_any_order_of_arrival_and_any_repetition_end_in_the_same_document(
    published: list[DocumentChanged], data: st.DataObject
) -> None:
    repeated = published + data.draw(st.lists(st.sampled_from(published), max_size=4))
    other_order = data.draw(st.permutations(repeated))

    assert outcome(after(*other_order)) == outcome(after(*published))


@given(st.lists(events, min_size=1, max_size=8))
def test_the_newest_revision_and_the_newest_access_win(published: list[DocumentChanged]) -> None:
    document = after(*published)

    contents = [event for event in published if event.op != "access"]
    if contents:
        newest = max(event.revision for event in contents)
        assert document.revision == newest
        assert document.deleted == any(event.op == "delete" and event.revision == newest for event in contents)
    lists = [event for event in published if event.op != "delete"]
    if lists:
        numbers = [event.revision if event.acl_revision is None else event.acl_revision for event in lists]
        assert document.acl_revision == max(numbers)
        of_newest = [event.acl for event, number in zip(lists, numbers, strict=True) if number == max(numbers)]
        assert document.acl in [acl if acl is None else tuple(sorted(set(acl))) for acl in of_newest]


@given(st.lists(events, min_size=1, max_size=8))
def test_versions_only_count_up_and_only_when_something_changed(published: list[DocumentChanged]) -> None:
    current: Registered | None = None
    for event in published:
        decision = decided(current, event)
        number = current.document_version if current else 0
        if isinstance(decision, Registered):
            assert decision.document_version == number + 1
            assert current is None or outcome(decision) != outcome(current)
            current = decision
        elif decision.remember is not None:
            assert decision.remember.document_version == number
            current = decision.remember
