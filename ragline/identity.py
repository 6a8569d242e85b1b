"""Who calls: bearer tokens, the identity that they prove, and the file of hashed keys.

A token is `rgl_<id>_<secret>`; the file holds only the secret's SHA-256 (the secret is 256 random
bits, so that no slow hash is needed). The file is read again when it changes: a revoked key ends at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ragline.errors import ConfigurationError, PermissionDenied, Unauthenticated

SCOPES = ("ask", "search", "publish", "admin", "internal")
"""What a key may be allowed: `internal` is for calls between services only."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a verified token proves. Tenant and groups never come from anywhere else."""

    tenant: str
    user: str
    groups: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()

    def require(self, *scopes: str) -> None:
        """Raise PermissionDenied unless the token has one of the scopes."""
        if not self.scopes.intersection(scopes):
            raise PermissionDenied(f"this key lacks the scope {' or '.join(scopes)}; create one that has it")


_current: ContextVar[Identity] = ContextVar("identity")


def current_identity() -> Identity:
    """The caller of the RPC that is being served."""
    return _current.get()


def set_current_identity(identity: Identity) -> None:
    """Called by the server's interceptor, in the context of one call."""
    _current.set(identity)


@dataclass(frozen=True, slots=True)
class Key:
    """A key as the file keeps it."""

    id: str
    secret_sha256: str
    identity: Identity
    created: datetime
    expires: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "secret_sha256": self.secret_sha256,
            "tenant": self.identity.tenant,
            "user": self.identity.user,
            "groups": sorted(self.identity.groups),
            "scopes": sorted(self.identity.scopes),
            "created": self.created.isoformat(),
            "expires": self.expires.isoformat() if self.expires else None,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Key:
        identity = Identity(data["tenant"], data["user"], frozenset(data["groups"]), frozenset(data["scopes"]))
        expires = datetime.fromisoformat(data["expires"]) if data.get("expires") else None
        return cls(data["id"], data["secret_sha256"], identity, datetime.fromisoformat(data["created"]), expires)


@dataclass
class KeyFile:
    """The file of hashed keys, and the verifier of tokens."""

    path: Path
    _stamp: tuple[int, int] | None = None
    _keys: dict[str, Key] = field(default_factory=dict)

    def verify(self, token: str) -> Identity:
        """The identity that a token proves; raises Unauthenticated, never saying which part is wrong."""
        self._reload()
        prefix, _, rest = token.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._keys.get(key_id) if prefix == "rgl" else None
        presented = hashlib.sha256(secret.encode()).hexdigest()
        if key is None or not hmac.compare_digest(presented, key.secret_sha256):
            raise Unauthenticated("the token is unknown or revoked")
        if key.expires is not None and key.expires <= datetime.now(UTC):
            raise Unauthenticated("the token has expired")
        return key.identity

    def create(self, identity: Identity, *, expires: datetime | None = None) -> str:
        """Add a key and return its token, which is shown this once and stored nowhere."""
        unknown = identity.scopes.difference(SCOPES)
        if unknown:
            raise ConfigurationError(f"unknown scope {sorted(unknown)[0]!r}; use {', '.join(SCOPES)}")
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        with self._alone():
            self._reload()
            self._write([*self._keys.values(), Key(key_id, digest, identity, datetime.now(UTC), expires)])
        return f"rgl_{key_id}_{secret}"

    def revoke(self, key_id: str) -> bool:
        """Remove a key; returns whether there was one."""
        with self._alone():
            self._reload()
            remaining = [key for key in self._keys.values() if key.id != key_id]
            found = len(remaining) < len(self._keys)
            if found:
                self._write(remaining)
        return found

    def list(self) -> tuple[Key, ...]:
        """All keys, without their secrets."""
        self._reload()
        return tuple(self._keys.values())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time, of all processes: a key made meanwhile must not be lost, a revoked one not return."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _reload(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._keys, self._stamp = {}, None
            return
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return
        try:
            data = json.loads(self.path.read_text())
            self._keys = {entry["id"]: Key.from_json(entry) for entry in data["keys"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{self.path} is not a readable key file: {error}") from error
        self._stamp = stamp

    def _write(self, keys: Iterable[Key]) -> None:
        text = json.dumps({"keys": [key.as_json() for key in keys]}, indent=2)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".keys-")
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(name).replace(self.path)
