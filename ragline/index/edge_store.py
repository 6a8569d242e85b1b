"""The embedded engine's folder: one shard a generation, one writer, and upkeep between requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from ragline.errors import FailedPrecondition, InvalidArgument, NotFound, TransientError
from ragline.index.edge_shard import EdgeShard, remove_unfinished
from ragline.index.points import checked_generation

log = structlog.get_logger(__name__)


class EdgeStore:
    """Every generation under a folder. Thread-safe: searches run side by side, writes one at a time.

    Opening it loads all shards (blocking; the write-ahead log is replayed).
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._write_lock = threading.Lock()
        self._unvacuumed = False
        self._last_request_s = time.monotonic()
        remove_unfinished(root)
        self._shards = {
            folder.name: EdgeShard.load(folder)
            for folder in sorted(root.iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
        }
        # What loading replays was written before a kill, and is not known to be on the disk yet.
        self._unflushed = bool(self._shards)

    @property
    def unflushed(self) -> bool:
        """Whether a power cut now could lose something that was written."""
        return self._unflushed

    def shard(self, generation: str) -> EdgeShard:
        """The generation's shard, to read; raises NotFound. Upkeep that blocks waits until nobody asks."""
        self._last_request_s = time.monotonic()
        try:
            return self._shards[checked_generation(generation)]
        except KeyError:
            raise NotFound(f"generation {generation} is not in the embedded engine; create it first") from None

    @contextmanager
    def writing(self, generation: str, timeout_s: float | None) -> Iterator[EdgeShard]:
        """The generation's shard, for this thread to write alone.

        Raises NotFound, and TransientError when other writes take longer than `timeout_s`.
        """
        with self._alone(timeout_s):
            shard = self.shard(generation)
            self._unflushed = self._unvacuumed = True
            yield shard

    def create(self, generation: str, dimensions: int, timeout_s: float | None) -> None:
        """Make room for a generation; raises FailedPrecondition if it is there with other dimensions."""
        checked_generation(generation)
        if dimensions < 1:
            raise InvalidArgument("dimensions", f"{dimensions} is too few; use the embedder's dimensions")
        with self._alone(timeout_s):
            there = self._shards.get(generation)
            if there is None:
                self._shards[generation] = EdgeShard.create(self._root / generation, dimensions)
            elif there.dimensions != dimensions:
                raise FailedPrecondition(
                    f"generation {generation} has {there.dimensions} dimensions, not {dimensions}; "
                    "another embedder needs a new generation"
                )

    def drop(self, generation: str, timeout_s: float | None) -> None:
        """Remove a generation and its folder, if it is there."""
        with self._alone(timeout_s):
            shard = self._shards.pop(checked_generation(generation), None)
            if shard is not None:
                shard.drop()

    def flush(self, timeout_s: float | None = None) -> None:
        """Make everything that was written survive a power cut."""
        with self._alone(timeout_s):
            if self._unflushed:
                self._flush()

    def keep_up(self, stop: threading.Event, *, flush_interval_s: float, vacuum_after_quiet_s: float) -> None:
        """Flush on a timer and vacuum in quiet times, until `stop` is set.

        A failure is logged and tried again at the next turn: requests go on meanwhile.
        """
        while not stop.wait(flush_interval_s):
            _upkeep("flush", self.flush)
            quiet_s = time.monotonic() - self._last_request_s
            if self._unvacuumed and quiet_s >= vacuum_after_quiet_s:
                _upkeep("vacuum", self._vacuum)

    def close(self) -> None:
        """Flush and release every shard."""
        with self._alone(None):
            for shard in self._shards.values():
                shard.close()
            self._shards.clear()

    def _flush(self) -> None:
        # Cleared first: nothing else writes while the lock is held, and a failed flush sets it again.
        self._unflushed = False
        try:
            for shard in self._shards.values():
                shard.flush()
        except TransientError:
            self._unflushed = True
            raise

    def _vacuum(self) -> None:
        with self._alone(None):
            self._unvacuumed = False
            for shard in self._shards.values():
                shard.vacuum()
            self._flush()

    @contextmanager
    def _alone(self, timeout_s: float | None) -> Iterator[None]:
        if not self._write_lock.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s)):
            raise TransientError("the embedded engine is busy with other writes; try again")
        try:
            yield
        finally:
            self._write_lock.release()


def _upkeep(what: str, work: Callable[[], object]) -> None:
    try:
        work()
    except TransientError as error:
        log.warning("engine_upkeep_failed", work=what, error=str(error))
