"""`ragline budget` and `ragline key`: what may be spent, and by whom."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.table import Table

from ragline.cli.session import DataDirOption, JsonOption, Session
from ragline.client import Ragline
from ragline.errors import InvalidArgument, NotFound
from ragline.gateway.v1 import gateway_pb2
from ragline.identity import SCOPES, Identity, KeyFile

app = typer.Typer(help="Limits on spending.", no_args_is_help=True)
key_app = typer.Typer(help="Keys: who may call, as whom, and for what.", no_args_is_help=True)


@app.command("set")
def set_limit(
    limit_usd: Annotated[float, typer.Argument(help="The limit in US dollars.")],
    user: Annotated[str, typer.Option(help="The user; empty: the whole tenant.")] = "",
    period: Annotated[str, typer.Option(help="day or month (UTC).")] = "day",
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Limit what a user or the tenant may spend."""
    session = Session(as_json, data_dir)

    async def work() -> None:
        async with Ragline(session.settings.rpc.gateway, session.token) as client:
            budget = await client.set_budget(user=user, period=period, limit_usd=limit_usd)
        show_budgets(session, [budget])

    session.run(work())


@app.command("show")
def show(
    user: Annotated[str, typer.Option(help="Another user (needs the scope admin).")] = "",
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """What is spent, held and left."""
    session = Session(as_json, data_dir)

    async def work() -> None:
        async with Ragline(session.settings.rpc.gateway, session.token) as client:
            show_budgets(session, await client.budgets(user))

    session.run(work())


def show_budgets(session: Session, budgets: Iterable[gateway_pb2.Budget]) -> None:
    """A table of budgets, or their JSON."""
    if session.as_json:
        session.emit({"budgets": [MessageToDict(b, preserving_proto_field_name=True) for b in budgets]})
        return
    table = Table(box=None)
    for column in ("level", "subject", "period", "limit", "spent", "held", "left", "resets (UTC)"):
        table.add_column(column)
    for budget in budgets:
        resets = datetime.fromtimestamp(budget.resets_unix_s, UTC).strftime("%m-%d %H:%M")
        limit, left = ("none", "any") if budget.unlimited else (_usd(budget.limit_usd), _usd(budget.left_usd))
        spent, held = _usd(budget.spent_usd), _usd(budget.held_usd)
        table.add_row(budget.level, budget.subject, budget.period, limit, spent, held, left, resets)
    session.console.print(table)


def _usd(amount: float) -> str:
    return f"${amount:.6f}"


@key_app.command("create")
def create_key(
    user: Annotated[str, typer.Option(help="The user that the key stands for.")],
    tenant: Annotated[str, typer.Option(help="The tenant.")] = "default",
    group: Annotated[list[str] | None, typer.Option(help="A group of the user (repeat it).")] = None,
    scope: Annotated[list[str] | None, typer.Option(help=f"Allowed use (repeat it): {', '.join(SCOPES)}.")] = None,
    days: Annotated[int, typer.Option(help="Valid for so many days; 0: until revoked.")] = 0,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Create a key and print its token, this once."""
    session = Session(as_json, data_dir)

    async def work() -> None:
        if days < 0:
            raise InvalidArgument("days", "must not be negative")
        expires = datetime.now(UTC) + timedelta(days=days) if days else None
        identity = Identity(tenant, user, frozenset(group or ()), frozenset(scope or ("ask", "search")))
        token = KeyFile(session.settings.keys_path).create(identity, expires=expires)
        if as_json:
            session.emit({"token": token})
        else:
            session.console.print(token, soft_wrap=True)

    session.run(work())


@key_app.command("list")
def list_keys(as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """All keys, without their secrets."""
    session = Session(as_json, data_dir)

    async def work() -> None:
        keys = KeyFile(session.settings.keys_path).list()
        if as_json:
            session.emit({"keys": [_public(key.as_json()) for key in keys]})
            return
        table = Table(box=None)
        for column in ("id", "tenant", "user", "groups", "scopes", "expires"):
            table.add_column(column)
        for key in keys:
            identity = key.identity
            expires = key.expires.strftime("%Y-%m-%d") if key.expires else "never"
            groups, scopes = " ".join(sorted(identity.groups)), " ".join(sorted(identity.scopes))
            table.add_row(key.id, identity.tenant, identity.user, groups, scopes, expires)
        session.console.print(table)

    session.run(work())


def _public(key: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name != "secret_sha256"}


@key_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, the middle part of its token.")],
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Revoke a key; it ends at once."""
    session = Session(as_json, data_dir)

    async def work() -> None:
        if not KeyFile(session.settings.keys_path).revoke(key_id):
            raise NotFound(f"there is no key {key_id!r}; `ragline key list` shows them")
        if as_json:
            session.emit({"revoked": key_id})
        else:
            session.console.print(f"{key_id} is revoked")

    session.run(work())
