"""What this reader knows of the index, and which view a query gets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from ragline.contracts.cloudevents import Received
from ragline.contracts.events import GenerationState, IndexState
from ragline.errors import ConfigurationError, TransientError, VersionUnavailable
from ragline.index.versions import IndexVersion, View

LookUpFingerprint = Callable[[IndexVersion], Awaitable[str]]
_REMEMBERED_FINGERPRINTS = 1000
ANNOUNCEMENT_DELAY_S = 1.0
"""How long a version may be on its way from embed to a reader before it is called unknown."""


class IndexFollower:
    """Keeps the newest `index.state` and lets queries wait for a version.

    Within an epoch the watermark never goes back; a lower one is taken only with a higher epoch (a
    restored backup).
    """

    def __init__(self, look_up_fingerprint: LookUpFingerprint) -> None:
        self._look_up_fingerprint = look_up_fingerprint
        self._fingerprints: dict[IndexVersion, str] = {}
        self._state: IndexState | None = None
        self._moved = asyncio.Condition()

    async def on_index_state(self, received: Received[IndexState]) -> None:
        """Take a newer state from the bus."""
        await self.take(received.event)

    async def take(self, state: IndexState) -> None:
        """Take a state unless a newer one is known."""
        async with self._moved:
            if self._state is not None and not _newer(state, self._state):
                return
            self._state = state
            for name, generation in state.generations.items():
                self._remember(IndexVersion(name, generation.watermark), generation.fingerprint)
            self._moved.notify_all()

    @property
    def state(self) -> IndexState:
        """The newest known state; raises TransientError before the first one."""
        if self._state is None:
            raise TransientError("this reader has not caught up with the index yet; try again in a moment")
        return self._state

    async def view(self, *, at_version: IndexVersion | None, min_version: IndexVersion | None) -> View:
        """The view that a query gets: the newest version, or `at_version`; waits until `min_version` is reached.

        The caller bounds the wait by its deadline. Raises VersionUnavailable for a version of an unknown
        generation, beyond the horizon, or later than the newest.
        """
        if min_version is not None:
            await self._wait_briefly_for(min_version)
            self._generation(min_version)
            await self._wait_for(min_version)
        if at_version is None:
            state = self.state
            return _view(state.live_generation, state.generations[state.live_generation])
        await self._wait_briefly_for(at_version)
        known = self._generation(at_version)
        if not known.horizon <= at_version.sequence <= known.watermark:
            raise VersionUnavailable(
                f"{at_version} cannot be read: versions {at_version.generation}@{known.horizon} to "
                f"{at_version.generation}@{known.watermark} can"
            )
        return _view(at_version.generation, known, at_version.sequence)

    async def fingerprint(self, version: IndexVersion) -> str:
        """The fingerprint of a version: remembered, or asked of embed once (it never changes)."""
        newest = self._state.generations.get(version.generation) if self._state else None
        if newest is not None and newest.watermark == version.sequence:
            return newest.fingerprint
        known = self._fingerprints.get(version)
        if known is None:
            known = await self._look_up_fingerprint(version)
            self._remember(version, known)
        return known

    def _generation(self, version: IndexVersion) -> GenerationState:
        state = self.state
        known = state.generations.get(version.generation)
        if known is None:
            raise VersionUnavailable(
                f"{version}: there is no generation {version.generation}; live is {state.live_generation}"
            )
        return known

    def _remember(self, version: IndexVersion, fingerprint: str) -> None:
        self._fingerprints[version] = fingerprint
        while len(self._fingerprints) > _REMEMBERED_FINGERPRINTS:
            self._fingerprints.pop(next(iter(self._fingerprints)))

    async def _wait_briefly_for(self, version: IndexVersion) -> None:
        """Announced a moment ago, it may not have reached this reader yet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANNOUNCEMENT_DELAY_S):
                await self._wait_for(version)

    async def _wait_for(self, version: IndexVersion) -> None:
        def reached() -> bool:
            known = self._state.generations.get(version.generation) if self._state else None
            return known is not None and known.watermark >= version.sequence

        async with self._moved:
            await self._moved.wait_for(reached)


def require_embedder(state: IndexState, embedder: str) -> None:
    """Raise ConfigurationError unless this reader embeds as the index was embedded.

    Vectors of another model would be compared without an error, and mean nothing.
    """
    made_with = state.generations[state.live_generation].embedder
    if made_with != embedder:
        raise ConfigurationError(
            f"the live generation {state.live_generation} was made with {made_with}, RAGLINE_MODELS__EMBEDDER says "
            f"{embedder}: set it to {made_with}"
        )


def _view(name: str, generation: GenerationState, sequence: int | None = None) -> View:
    watermark = generation.watermark if sequence is None else sequence
    return View(name, watermark, frozenset(generation.aborted))


def _newer(state: IndexState, than: IndexState) -> bool:
    """Whether a state supersedes another: by epoch, then by what only grows within one."""
    if state.epoch != than.epoch:
        return state.epoch > than.epoch
    for name, generation in than.generations.items():
        other = state.generations.get(name)
        if other is None or other.watermark < generation.watermark:
            return False
        if other.watermark == generation.watermark and _progress(other) < _progress(generation):
            return False
    return True


def _progress(generation: GenerationState) -> tuple[int, int]:
    """What only grows while the watermark stands still."""
    return generation.horizon, len(generation.aborted)
