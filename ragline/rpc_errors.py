"""Ragline's errors on the wire: google.rpc.Status with details that machines can read, and back."""

from __future__ import annotations

from typing import Any, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ragline.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermanentError,
    PermissionDenied,
    RaglineError,
    ResourceExhausted,
    TransientError,
    Unauthenticated,
    VersionUnavailable,
)

DOMAIN: Final = "ragline"

_CODES: Final[tuple[tuple[type[RaglineError], grpc.StatusCode], ...]] = (
    (InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
    (FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION),
    (ResourceExhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TransientError, grpc.StatusCode.UNAVAILABLE),
    (PermanentError, grpc.StatusCode.INVALID_ARGUMENT),
)


def status_of(error: RaglineError) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """An error as google.rpc.Status with its machine-readable details."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, InvalidArgument):
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=error.field, description=str(error))
        details.append(bad)
    if isinstance(error, ResourceExhausted):
        quota = error_details_pb2.QuotaFailure()
        for subject, description in error.violations:
            quota.violations.add(subject=subject, description=description)
        details.append(quota)
        if error.retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(max(0, round(error.retry_after_s * 1000)))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        packed.append(wrapped)
    return code, status_pb2.Status(code=code_pb2.Code.Value(code.name), message=str(error), details=packed)


def error_from(error: grpc.aio.AioRpcError) -> RaglineError:
    """The Ragline error that a failed call stands for."""
    code, message = error.code(), error.details() or error.code().name
    details = _details(error)
    info = details.get("ErrorInfo")
    reason = info.reason if info is not None and info.domain == DOMAIN else None
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            bad = details.get("BadRequest")
            if bad is not None and bad.field_violations:
                field = bad.field_violations[0].field
                return InvalidArgument(field, message.removeprefix(f"{field}: "))
            return PermanentError(message, reason=reason)
        case grpc.StatusCode.NOT_FOUND:
            return NotFound(message, reason=reason)
        case grpc.StatusCode.UNAUTHENTICATED:
            return Unauthenticated(message, reason=reason)
        case grpc.StatusCode.PERMISSION_DENIED:
            return PermissionDenied(message, reason=reason)
        case grpc.StatusCode.FAILED_PRECONDITION:
            kind = VersionUnavailable if reason == VersionUnavailable.reason else FailedPrecondition
            return kind(message, reason=reason)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            quota, retry = details.get("QuotaFailure"), details.get("RetryInfo")
            violations = tuple((v.subject, v.description) for v in quota.violations) if quota else ()
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000 if retry else None
            return ResourceExhausted(message, reason=reason, retry_after_s=retry_after_s, violations=violations)
        case grpc.StatusCode.UNIMPLEMENTED:
            return PermanentError(f"the service does not know this call ({message}): is it of an older version?")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return TransientError(message, reason="DEADLINE_EXCEEDED")
        case _:
            return TransientError(message, reason=reason)


def _details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    status = status_pb2.Status()
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status.ParseFromString(value)
    found: dict[str, Any] = {}
    for detail in status.details:
        name = detail.type_url.rsplit(".", 1)[-1]
        kind = getattr(error_details_pb2, name, None)
        if kind is not None:
            found[name] = kind.FromString(detail.value)
    return found
