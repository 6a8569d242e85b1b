"""`ragline publish`: documents onto the bus, and the wait until they are searchable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from ragline.cli.documents import SUFFIXES, Change, PublishOptions, change_of, deletion_of, find, read_feed
from ragline.cli.preview import preview
from ragline.cli.publishing import Outcome, Publisher, Sent, publisher
from ragline.cli.session import DataDirOption, JsonOption, Session
from ragline.cli.watching import WatchedFolder
from ragline.errors import InvalidArgument, TransientError

BULK_FROM_DOCUMENTS: Final = 50
"""From so many documents on, a publication is a bulk load: it gives way to live changes."""


def publish(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Files, folders, patterns or URLs; with --delete, document ids.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="The tenant that owns the documents: that of your key.")] = "default",
    source: Annotated[str, typer.Option(help="Who publishes; a source may be bound to tenants.")] = "cli",
    prefix: Annotated[str, typer.Option(help="Put before each document id.")] = "",
    acl: Annotated[
        list[str] | None, typer.Option(help="A group that may read (repeat it); none: all of the tenant.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete these documents instead.")] = False,
    feed: Annotated[Path | None, typer.Option(help="Replay a change feed, FILE.jsonl or FILE.jsonl.gz.")] = None,
    sync: Annotated[bool, typer.Option("--sync", help="Make the index equal to the folder: also delete.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on publishing what changes in the folder.")] = False,
    preview_only: Annotated[bool, typer.Option("--preview", help="Only say what publishing would change.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the documents are searchable.")] = True,
    timeout_s: Annotated[float, typer.Option(help="How long to wait, in seconds.")] = 3600.0,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Publish files, folders, URLs or a change feed, and wait until they are searchable."""
    session = Session(as_json, data_dir)
    options = PublishOptions(tenant, source, prefix, tuple(acl) if acl else None)
    names = paths or []

    async def work() -> None:
        _check(names, feed=feed, delete=delete, preview_only=preview_only, folder_only=sync or watch)
        if preview_only:
            changes, unreadable, _ = _changes(names, options, delete=delete)
            await preview(session, changes, options)
            _refuse(session, unreadable)
            return
        async with publisher(session) as out:
            if watch:
                await _watch(session, out, Path(names[0]), options, sync=sync, timeout_s=timeout_s)
                return
            changes, unreadable, present = _changes(names, options, feed=feed, delete=delete)
            if sync:
                changes += await _retired(out, present, options)
            sent = await out.send(changes, options, bulk=_is_bulk(changes) or feed is not None)
            outcome = await out.follow(sent, timeout_s=timeout_s) if wait else _unfollowed(sent)
        _report(session, outcome, unreadable, waited=wait)
        if unreadable or outcome.rejected:
            raise typer.Exit(1)

    session.run(work())


def _check(names: Sequence[str], *, feed: Path | None, delete: bool, preview_only: bool, folder_only: bool) -> None:
    if feed is not None and (names or delete or preview_only):
        raise InvalidArgument(
            "feed", "a feed names its documents itself: give no paths, no --delete and no --preview with it"
        )
    if feed is not None and not feed.is_file():
        raise InvalidArgument("feed", f"{feed} does not exist")
    if feed is None and not names:
        raise InvalidArgument("path", "name files, folders, patterns or URLs to publish")
    if folder_only and (len(names) != 1 or not Path(names[0]).is_dir() or delete or preview_only):
        raise InvalidArgument("path", "--sync and --watch take exactly one folder, and no --delete or --preview")


def _changes(
    names: Sequence[str], options: PublishOptions, *, feed: Path | None = None, delete: bool
) -> tuple[list[Change], list[str], list[str]]:
    """The changes to publish, a line for each file that cannot be read, and the ids of all that was named."""
    if feed is not None:
        return list(read_feed(feed, options)), [], []
    if delete:
        return [deletion_of(name, options) for name in names], [], []
    changes: list[Change] = []
    unreadable = []
    places: dict[str, str] = {}
    for found in find(names):
        place = str(found.path or found.url)
        if places.setdefault(found.document_id, place) != place:
            raise InvalidArgument(
                "path",
                f"{place} and {places[found.document_id]} would be one document, {found.document_id}: "
                "publish them one by one, each with its own --prefix",
            )
        try:
            changes.append(change_of(found, options))
        except InvalidArgument as error:
            unreadable.append(str(error))
    if not places:
        raise InvalidArgument("path", f"{', '.join(names)} holds no file that can be read ({', '.join(SUFFIXES)})")
    return changes, unreadable, [options.prefix + name for name in places]


def _is_bulk(changes: Sequence[Change]) -> bool:
    return len(changes) >= BULK_FROM_DOCUMENTS


def _unfollowed(sent: Sent) -> Outcome:
    return Outcome(sent=len(sent.newest), rejected=sent.rejected)


async def _retired(out: Publisher, present: Sequence[str], options: PublishOptions) -> list[Change]:
    """Deletions of what this source published under the prefix and the folder no longer holds."""
    kept = set(present)
    held = [
        document.document_id
        async for document in out.client.list_documents(prefix=options.prefix, source=options.source)
        if not document.deleted
    ]
    return [
        deletion_of(document_id.removeprefix(options.prefix), options)
        for document_id in held
        if document_id not in kept
    ]


async def _watch(
    session: Session, out: Publisher, folder: Path, options: PublishOptions, *, sync: bool, timeout_s: float
) -> None:
    """Publish the folder, then whatever changes in it, until Ctrl-C; what fails for now is tried again."""
    watched = WatchedFolder(folder, options)

    async def catch_up(retired: Sequence[Change] = (), *, quiet: bool = True) -> None:
        changes, unreadable, signatures = watched.changes()
        changes += retired
        if not changes and not unreadable and quiet:
            return
        sent = await out.send(changes, options, bulk=_is_bulk(changes))
        _report(session, await out.follow(sent, timeout_s=timeout_s), unreadable, waited=True)
        watched.published(signatures)

    present = [options.prefix + found.document_id for found in watched.present()]
    await catch_up(await _retired(out, present, options) if sync else (), quiet=False)
    if not session.as_json:
        session.console.print(f"watching {folder} (Ctrl-C ends it)")
    async for _ in watched.moves():
        try:
            await catch_up()
        except TransientError as error:
            session.failure(error)


def _refuse(session: Session, unreadable: Sequence[str]) -> None:
    """Say which files cannot be read, and end with 1 if there are any."""
    if unreadable and session.as_json:
        session.emit({"unreadable": list(unreadable)})
    elif unreadable:
        _print_unreadable(session, unreadable)
    if unreadable:
        raise typer.Exit(1)


def _print_unreadable(session: Session, unreadable: Sequence[str]) -> None:
    for line in unreadable:
        session.console.print(f"[red]not published[/] {escape(line)}", soft_wrap=True)


def _report(session: Session, outcome: Outcome, unreadable: list[str], *, waited: bool) -> None:
    if session.as_json:
        session.emit(_json(outcome, unreadable))
        return
    _print_unreadable(session, unreadable)
    for name, reason in outcome.rejected:
        session.console.print(f"[red]rejected[/] {escape(name)}: {escape(reason)}", soft_wrap=True)
    if not waited:
        session.console.print(f"{outcome.sent} documents published; they become searchable in the background")
    elif outcome.searchable:
        rate = outcome.searchable / max(outcome.seconds, 1e-9)
        session.console.print(
            f"[green]{outcome.searchable} documents[/] are in the index at [bold]{outcome.index_version}[/] "
            f"after {outcome.seconds:.1f} s ({rate:.1f} documents/s)"
        )


def _json(outcome: Outcome, unreadable: list[str]) -> dict[str, Any]:
    return {
        "published": outcome.sent,
        "searchable": outcome.searchable,
        "index_version": outcome.index_version,
        "seconds": round(outcome.seconds, 3),
        "rejected": [{"document_id": name, "reason": reason} for name, reason in outcome.rejected],
        "unreadable": unreadable,
    }
