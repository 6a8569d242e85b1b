"""`ragline publish --watch`: whatever changes in a folder, until Ctrl-C."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from ragline.cli.documents import Change, Found, PublishOptions, change_of, deletion_of, find_in_folder
from ragline.errors import InvalidArgument

_LOOK_AGAIN_MS: Final = 5000
"""The folder is compared even when no change was noticed: some file systems tell of none."""

Signature = tuple[int, int]
"""When a file was modified, in nanoseconds, and its size: a change of either is a change of the file."""


class WatchedFolder:
    """What of a folder has been published, and what must be now."""

    def __init__(self, folder: Path, options: PublishOptions) -> None:
        self._folder = folder
        self._options = options
        self._published: dict[str, Signature] = {}

    async def moves(self) -> AsyncIterator[None]:
        """Whenever something in the folder may have changed."""
        from watchfiles import awatch

        async for _ in awatch(self._folder, yield_on_timeout=True, rust_timeout=_LOOK_AGAIN_MS):
            yield

    def present(self) -> list[Found]:
        """The files that the folder holds now."""
        return list(find_in_folder(self._folder))

    def changes(self) -> tuple[list[Change], list[str], dict[str, Signature]]:
        """What differs from what was published: changes, a line for each unreadable file, and the folder as it is.

        Whole folders are compared, for a folder that is moved tells nothing of the files in it.
        """
        now = {found.document_id: (found, _signature(found)) for found in self.present()}
        changes: list[Change] = []
        unreadable = []
        for name, (found, signature) in now.items():
            if self._published.get(name) != signature:
                try:
                    changes.append(change_of(found, self._options))
                except InvalidArgument as error:
                    unreadable.append(str(error))
        gone = [name for name in self._published if name not in now]
        changes.extend(deletion_of(name, self._options) for name in gone)
        return changes, unreadable, {name: signature for name, (_, signature) in now.items()}

    def published(self, signatures: dict[str, Signature]) -> None:
        """Remember the folder as it was when its changes were taken."""
        self._published = signatures


def _signature(found: Found) -> Signature:
    assert found.path is not None
    try:
        status = found.path.stat()
    except FileNotFoundError:
        return (0, 0)
    return status.st_mtime_ns, status.st_size
