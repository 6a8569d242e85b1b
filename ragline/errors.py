"""Ragline's errors: what went wrong, where, and what to do about it.

Two families decide what a consumer or a caller does next (see `ragline.bus` and `ragline.rpc`):
a `TransientError` is tried again, a `PermanentError` is dead-lettered or refused.
"""

from __future__ import annotations


class RaglineError(Exception):
    """The base of all of Ragline's errors.

    `reason` is a stable UPPER_SNAKE word for machines (the `reason` of google.rpc.ErrorInfo and
    the `ragline-error-reason` header of a dead letter); the message is one line for people.
    """

    reason = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class TransientError(RaglineError):
    """Trying again later may succeed: a dependency is down, busy or slow."""

    reason = "UNAVAILABLE"


class PermanentError(RaglineError):
    """Trying again cannot succeed: the input itself is at fault."""

    reason = "INVALID"


class InvalidArgument(PermanentError):
    """A field of a request is wrong; `field` names it."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class NotFound(PermanentError):
    """What was asked for does not exist, or not for this caller."""

    reason = "NOT_FOUND"


class Unauthenticated(PermanentError):
    """No valid token came with the call."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(PermanentError):
    """The token is valid but does not allow this."""

    reason = "PERMISSION_DENIED"


class FailedPrecondition(PermanentError):
    """The system's state does not allow this now, and waiting alone will not change it."""

    reason = "FAILED_PRECONDITION"


class VersionUnavailable(FailedPrecondition):
    """The index version asked for is beyond the horizon, unknown, or not reached in time."""

    reason = "VERSION_UNAVAILABLE"


class ConfigurationError(RaglineError):
    """A setting is missing or wrong; the message says which one and how to mend it."""

    reason = "CONFIGURATION"


class ResourceExhausted(PermanentError):
    """A budget or limit is reached; the message says what is left and when that changes.

    `retry_after_s` tells when trying again may succeed; `violations` are (subject, description) pairs.
    """

    reason = "RESOURCE_EXHAUSTED"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after_s: float | None = None,
        violations: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s
        self.violations = violations


def missing_package(error: ModuleNotFoundError) -> ConfigurationError:
    """The one line for an installation that lacks a package."""
    return ConfigurationError(
        f"the package {error.name} is missing: run `make setup`, or install from requirements.lock"
    )
