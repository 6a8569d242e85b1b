"""Blocking calls in threads, a few at once and each with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from ragline.errors import TransientError

T = TypeVar("T")


class BlockingCalls:
    """Runs blocking calls, at most `most` at once; one that hangs keeps its place until it ends.

    The threads are daemons: unlike those of `asyncio.to_thread`, a call that never returns (a dead network
    file system) hinders neither the rest of the process nor its end.
    """

    def __init__(self, what: str, *, most: int, timeout_s: float) -> None:
        self._what = what
        self._places = asyncio.Semaphore(most)
        self._timeout_s = timeout_s

    async def run(self, function: Callable[[], T]) -> T:
        """What the call returns or raises; TransientError when it takes longer than the deadline."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._places.acquire()
                return await self._started(function)
        except TimeoutError as error:
            raise TransientError(f"{self._what} took longer than {self._timeout_s:g} s") from error

    def _started(self, function: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            self._places.release()
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # None is then what it returned

        def work() -> None:
            result, failure = None, None
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001  # handed to who waits, whatever it is
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, result, failure)

        try:
            threading.Thread(target=work, name=self._what, daemon=True).start()
        except RuntimeError as error:
            self._places.release()
            raise TransientError(f"{self._what} cannot start a thread: {error}") from error
        return future
