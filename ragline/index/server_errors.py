"""What a Qdrant server's failures mean: its own fault, to be tried again, or the request's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc
import grpc.aio
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from ragline.errors import FailedPrecondition, NotFound, PermanentError, RaglineError, TransientError

_PERMANENT_CODES: Final[dict[grpc.StatusCode, type[PermanentError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: PermanentError,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
}
_PERMANENT_STATUSES: Final[dict[int, type[PermanentError]]] = {
    400: PermanentError,
    404: NotFound,
    422: PermanentError,
}
_REFUSED_CODES: Final = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_REFUSED_STATUSES: Final = (401, 403)


@asynccontextmanager
async def server_errors(what: str, timeout_s: float) -> AsyncIterator[None]:
    """Bound a call to the server by a deadline and name its failure; `what` completes "failed to ..."."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise TransientError(
            f"the Qdrant server did not {what} within {timeout_s:g} s; its outcome is unknown"
        ) from error
    except grpc.aio.AioRpcError as error:
        code = error.code()
        raise _named(
            what, error.details() or code.name, _PERMANENT_CODES.get(code), refused=code in _REFUSED_CODES
        ) from error
    except UnexpectedResponse as error:
        status = error.status_code or 0
        raise _named(
            what,
            f"{status} {error.reason_phrase}",
            _PERMANENT_STATUSES.get(status),
            refused=status in _REFUSED_STATUSES,
        ) from error
    except (ResponseHandlingException, ResourceExhaustedResponse) as error:
        raise _named(what, str(error), None, refused=False) from error
    except ValueError as error:
        # So qdrant-client says that it cannot read an answer. What a request may get wrong is checked before.
        raise TransientError(
            f"the Qdrant server was asked to {what}, and gave an answer that this client cannot read; check its version"
        ) from error


def _named(what: str, details: str, permanent: type[PermanentError] | None, *, refused: bool) -> RaglineError:
    line = " ".join(details.split())
    if refused:
        # Transient, so that a rotated key stalls the pipeline rather than dead-letters every document.
        return TransientError(
            f"the Qdrant server refused to {what} ({line}); check RAGLINE_ENGINE__API_KEY", reason="REFUSED"
        )
    if permanent is not None:
        return permanent(f"the Qdrant server will not {what}: {line}")
    return TransientError(f"the Qdrant server failed to {what}: {line}")
