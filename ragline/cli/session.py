"""What every command shares: settings, the running stack's addresses, the token, and how output looks."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from pydantic import Field, SecretStr
from rich.console import Console

from ragline.errors import (
    ConfigurationError,
    NotFound,
    PermissionDenied,
    RaglineError,
    ResourceExhausted,
    TransientError,
    Unauthenticated,
    missing_package,
)
from ragline.local.data_dir import DataDir
from ragline.settings import RpcSettings, Settings

T = TypeVar("T")

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="The data directory [RAGLINE_DATA_DIR, default .ragline].")
]

EXIT_CODES: Final[tuple[tuple[type[RaglineError], int], ...]] = (
    (ConfigurationError, 2),
    (NotFound, 3),
    (ResourceExhausted, 4),
    (PermissionDenied, 4),
    (Unauthenticated, 4),
    (TransientError, 5),
)


class CliSettings(Settings):
    """The services' settings and the caller's own token."""

    token: SecretStr | None = Field(None, description="The key to call with; empty: the development key")


@dataclass
class Session:
    """One run of a command."""

    as_json: bool = False
    data_dir: Path | None = None
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=False))

    @cached_property
    def settings(self) -> CliSettings:
        """The settings, with the addresses of the stack that runs on the data directory, if one does."""
        overrides = {"data_dir": self.data_dir} if self.data_dir is not None else {}
        settings = CliSettings.load(**overrides)
        stack = DataDir(settings.data_dir).read_stack()
        if stack is None:
            return settings
        rpc = {name: address for name, address in stack.addresses.items() if name in RpcSettings.model_fields}
        return settings.model_copy(
            update={
                "rpc": settings.rpc.model_copy(update=rpc),
                "bus": settings.bus.model_copy(update={"bootstrap": stack.addresses.get("bus")}),
            }
        )

    @cached_property
    def token(self) -> str:
        """The caller's token; raises ConfigurationError that says where to get one."""
        if self.settings.token is not None:
            return self.settings.token.get_secret_value()
        path = DataDir(self.settings.data_dir).dev_key
        if path.exists():
            return path.read_text().strip()
        raise ConfigurationError(f"no key: set RAGLINE_TOKEN, or start the stack with `ragline up` (it writes {path})")

    def emit(self, data: dict[str, Any]) -> None:
        """Print the result for machines: one JSON object on one line."""
        sys.stdout.write(json.dumps(data, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the command's work; a failure ends the program with one line and its exit code."""
        try:
            return asyncio.run(work)
        except RaglineError as error:
            raise self.failure(error) from error
        except ModuleNotFoundError as error:
            raise self.failure(missing_package(error)) from error
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    def failure(self, error: RaglineError) -> typer.Exit:
        """Print an error and return the exit that goes with it."""
        if self.as_json:
            body: dict[str, Any] = {"reason": error.reason, "message": str(error)}
            if isinstance(error, ResourceExhausted):
                body["retry_after_s"] = error.retry_after_s
            self.emit({"error": body})
        else:
            sys.stderr.write(f"ragline: {_mended(error, self)}\n")
        return typer.Exit(next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1))


def _mended(error: RaglineError, session: Session) -> str:
    """The error's line; for an unreachable service, with what to do."""
    if isinstance(error, TransientError) and "failed to connect" in str(error).lower():
        return (
            f"the gateway at {session.settings.rpc.gateway} cannot be reached: start it with `ragline up`, "
            "or set RAGLINE_RPC__GATEWAY (`ragline doctor` looks further)"
        )
    return str(error)
