"""What a reader knows of the index: it never goes back, and it waits for what it is told to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ragline.contracts.events import GenerationState, IndexState
from ragline.errors import ConfigurationError, TransientError, VersionUnavailable
from ragline.index.versions import IndexVersion, View
from services.retrieve import readers
from services.retrieve.readers import IndexFollower, require_embedder


def state(
    watermark: int,
    *,
    epoch: int = 1,
    aborted: Sequence[int] = (),
    horizon: int = 0,
    fingerprint: str = "",
    generation: str = "g1",
) -> IndexState:
    known = GenerationState(
        watermark=watermark,
        fingerprint=fingerprint or f"f{watermark}",
        horizon=horizon,
        aborted=tuple(aborted),
        embedder="wordllama",
        dimensions=256,
    )
    return IndexState(epoch=epoch, live_generation=generation, generations={generation: known})


class Index:
    """Stands for embed: counts who asks for a fingerprint."""

    def __init__(self) -> None:
        self.asked: list[IndexVersion] = []

    async def fingerprint(self, version: IndexVersion) -> str:
        self.asked.append(version)
        return f"f{version.sequence}"


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def follower(index: Index, monkeypatch: pytest.MonkeyPatch) -> IndexFollower:
    monkeypatch.setattr(readers, "ANNOUNCEMENT_DELAY_S", 0.01)
    return IndexFollower(index.fingerprint)


async def newest(follower: IndexFollower) -> View:
    return await follower.view(at_version=None, min_version=None)


async def test_before_the_first_state_a_reader_says_so(follower: IndexFollower) -> None:
    with pytest.raises(TransientError, match="not caught up"):
        await newest(follower)


async def test_a_query_gets_the_newest_version_without_what_was_aborted(follower: IndexFollower) -> None:
    await follower.take(state(5, aborted=[3]))

    assert await newest(follower) == View("g1", 5, frozenset({3}))


async def test_the_watermark_never_goes_back_within_an_epoch(follower: IndexFollower) -> None:
    await follower.take(state(5))
    await follower.take(state(4))

    assert (await newest(follower)).sequence == 5


async def test_a_higher_epoch_may_go_back(follower: IndexFollower) -> None:
    await follower.take(state(5))
    await follower.take(state(2, epoch=2))

    assert (await newest(follower)).sequence == 2


async def test_a_lower_epoch_is_ignored_however_far_it_is(follower: IndexFollower) -> None:
    await follower.take(state(5, epoch=2))
    await follower.take(state(99, epoch=1))

    assert (await newest(follower)).sequence == 5


async def test_an_abort_counts_although_the_watermark_stands_still(follower: IndexFollower) -> None:
    await follower.take(state(5))
    await follower.take(state(5, aborted=[6]))
    await follower.take(state(5))

    assert (await newest(follower)).aborted == {6}


async def test_the_horizon_never_goes_back(follower: IndexFollower) -> None:
    await follower.take(state(5, horizon=3))
    await follower.take(state(5))

    with pytest.raises(VersionUnavailable):
        await follower.view(at_version=IndexVersion("g1", 2), min_version=None)


async def test_a_query_may_go_back_to_the_horizon(follower: IndexFollower) -> None:
    await follower.take(state(5, horizon=2, aborted=[3]))

    view = await follower.view(at_version=IndexVersion("g1", 2), min_version=None)

    assert view == View("g1", 2, frozenset({3}))


@pytest.mark.parametrize(("version", "why"), [("g1@1", "g1@2 to g1@5 can"), ("g1@6", "g1@5"), ("g7@3", "g7")])
async def test_a_version_that_cannot_be_read_is_refused_by_name(
    follower: IndexFollower, version: str, why: str
) -> None:
    await follower.take(state(5, horizon=2))

    with pytest.raises(VersionUnavailable, match=version) as refused:
        await follower.view(at_version=IndexVersion.parse(version), min_version=None)

    assert why in str(refused.value)


async def test_a_query_waits_for_the_version_that_it_must_see(follower: IndexFollower) -> None:
    await follower.take(state(5))
    waiting = asyncio.create_task(follower.view(at_version=None, min_version=IndexVersion("g1", 7)))

    await follower.take(state(6))
    await asyncio.sleep(0.03)
    assert not waiting.done()

    await follower.take(state(8))
    assert (await waiting).sequence == 8


async def test_a_version_that_was_reached_is_not_waited_for(follower: IndexFollower) -> None:
    await follower.take(state(5))

    assert (await follower.view(at_version=None, min_version=IndexVersion("g1", 5))).sequence == 5


async def test_nobody_waits_for_a_generation_that_does_not_exist(follower: IndexFollower) -> None:
    await follower.take(state(5))

    with pytest.raises(VersionUnavailable, match="g2@1"):
        await asyncio.wait_for(follower.view(at_version=None, min_version=IndexVersion("g2", 1)), 1)


async def test_a_version_announced_a_moment_ago_can_be_asked_for(
    follower: IndexFollower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "ANNOUNCEMENT_DELAY_S", 5)
    await follower.take(state(5))
    waiting = asyncio.create_task(follower.view(at_version=IndexVersion("g1", 6), min_version=None))
    await asyncio.sleep(0)

    await follower.take(state(7))

    assert (await waiting).sequence == 6


async def test_a_wait_that_is_given_up_leaves_the_reader_usable(follower: IndexFollower) -> None:
    await follower.take(state(5))
    waiting = asyncio.create_task(follower.view(at_version=None, min_version=IndexVersion("g1", 9)))
    await asyncio.sleep(0.03)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    await follower.take(state(6))
    assert (await newest(follower)).sequence == 6


async def test_announced_fingerprints_need_no_question_to_embed(follower: IndexFollower, index: Index) -> None:
    await follower.take(state(5))
    await follower.take(state(6))

    assert await follower.fingerprint(IndexVersion("g1", 6)) == "f6"
    assert await follower.fingerprint(IndexVersion("g1", 5)) == "f5"
    assert index.asked == []


async def test_an_older_fingerprint_is_asked_for_once(follower: IndexFollower, index: Index) -> None:
    await follower.take(state(5))

    assert [await follower.fingerprint(IndexVersion("g1", 2)) for _ in range(2)] == ["f2", "f2"]
    assert index.asked == [IndexVersion("g1", 2)]


async def test_the_newest_fingerprint_is_known_whatever_else_was_asked(follower: IndexFollower, index: Index) -> None:
    """Searching goes on while embed is down."""
    await follower.take(state(2000))
    for sequence in range(1, 1100):
        await follower.fingerprint(IndexVersion("g1", sequence))
    index.asked.clear()

    await follower.fingerprint(IndexVersion("g1", 2000))

    assert index.asked == []


def test_a_reader_with_another_embedder_is_refused_with_what_to_set() -> None:
    require_embedder(state(5), "wordllama")

    with pytest.raises(ConfigurationError, match="RAGLINE_MODELS__EMBEDDER says minilm: set it to wordllama"):
        require_embedder(state(5), "minilm")
