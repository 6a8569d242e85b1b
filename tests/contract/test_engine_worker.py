"""Inside the embedded engine's worker: its servicer, its folder and its upkeep."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from ragline.engine.v1 import engine_pb2 as pb
from ragline.errors import FailedPrecondition
from ragline.index import wire
from ragline.index.edge_service import EdgeService
from ragline.index.edge_shard import EdgeShard
from ragline.index.edge_store import EdgeStore
from ragline.index.versions import View
from tests.contract.engine_points import DIMENSIONS, points, query

pytestmark = pytest.mark.stack


class _Aborted(Exception):
    pass


class _Call:
    """A call as the servicer sees it: a caller who waits, or has gone."""

    def __init__(self, *, active: bool = True, remaining_s: float = 10.0) -> None:
        self._active = active
        self._remaining_s = remaining_s

    def is_active(self) -> bool:
        return self._active

    def time_remaining(self) -> float:
        return self._remaining_s

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise _Aborted(code, details)


def insert_request(count: int) -> pb.InsertRequest:
    new = [wire.point_message(one) for one in points(count)]
    return pb.InsertRequest(generation="g1", sequence=1, points=new)


def test_work_that_nobody_waits_for_is_not_begun(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    store.create("g1", DIMENSIONS, None)
    service: Any = EdgeService(store)
    with pytest.raises(_Aborted, match="not begun"):
        service.Insert(insert_request(3), _Call(active=False))
    assert store.shard("g1").count_opened(1) == 0
    service.Insert(insert_request(3), _Call())
    assert store.shard("g1").count_opened(1) == 3
    store.close()


def test_a_write_waits_for_another_no_longer_than_its_caller(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    store.create("g1", DIMENSIONS, None)
    service: Any = EdgeService(store)
    with store.writing("g1", None), pytest.raises(_Aborted, match="busy with other writes"):
        service.Insert(insert_request(1), _Call(remaining_s=0.01))
    assert store.shard("g1").count_opened(1) == 0
    store.close()


async def test_what_was_written_is_flushed_on_a_timer(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    store.create("g1", DIMENSIONS, None)
    stop = threading.Event()
    intervals_s = {"flush_interval_s": 0.01, "vacuum_after_quiet_s": 3600.0}
    upkeep = threading.Thread(target=store.keep_up, args=(stop,), kwargs=intervals_s)
    with store.writing("g1", None) as shard:
        shard.insert(1, points(3))
        assert store.unflushed
    upkeep.start()
    while store.unflushed:
        await asyncio.sleep(0.01)
    stop.set()
    upkeep.join()
    store.close()


def test_a_vacuum_removes_deleted_points_and_changes_nothing_else(tmp_path: Path) -> None:
    shard = EdgeShard.create(tmp_path / "g1", DIMENSIONS)
    shard.insert(1, points(1500))
    shard.delete([one.id for one in points(700)])
    before = shard.search(View("g1", 1), query(limit=800, exact=True))
    assert shard.vacuum()
    assert not shard.vacuum()
    assert shard.search(View("g1", 1), query(limit=800, exact=True)) == before
    shard.close()


def test_a_generation_made_with_other_dimensions_is_remembered_over_a_restart(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    store.create("g1", DIMENSIONS, None)
    store.close()
    store = EdgeStore(tmp_path)
    with pytest.raises(FailedPrecondition):
        store.create("g1", DIMENSIONS + 1, None)
    store.close()
