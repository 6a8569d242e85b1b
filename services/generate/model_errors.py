"""What a failed model call means: whether to try again, and whether it may have cost something."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ragline.errors import PermanentError, TransientError

_NO_CONNECTION: Final = frozenset({"httpx.ConnectError", "httpx.ConnectTimeout", "httpx.UnsupportedProtocol"})
_NO_CLIENT: Final = "openai.OpenAIError"
"""Exactly this class: the client could not even be made, such as for want of a key."""
_ANSWERED: Final = "httpx.HTTPStatusError"
_TRY_AGAIN: Final = frozenset({409, 425})
"""Client errors that pass: a conflict, and too early."""


class ModelError(TransientError):
    """The call failed and may succeed later. `sent` is False only if it provably never left this process."""

    def __init__(self, message: str, *, reason: str = "MODEL_UNAVAILABLE", sent: bool = True) -> None:
        super().__init__(message, reason=reason)
        self.sent = sent


class ModelRejected(PermanentError):
    """The provider will never take this call as it is. `sent` as for `ModelError`."""

    reason = "MODEL_REJECTED"

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


def timed_out(model: str, timeout_s: float, *, sent: bool = True) -> ModelError:
    """The call took longer than it may."""
    return ModelError(f"{model}: no answer within {timeout_s:g} s", reason="MODEL_TIMEOUT", sent=sent)


def model_failure(
    error: Exception, model: str, *, timeout_s: float, answering: bool, unset: tuple[str, ...] = ()
) -> ModelError | ModelRejected:
    """What an error of LiteLLM, of a provider's client or of the connection means.

    `answering`: the provider had begun to answer. `unset` are variables of the provider that are missing
    in the environment. The provider's own words are left out of the message: they may repeat the key or
    the prompt.
    """
    error = getattr(error, "original_exception", None) or error
    status = getattr(error, "status_code", None) or 503
    causes = {f"{type(cause).__module__}.{type(cause).__qualname__}" for cause in _causes(error)}
    no_client = _NO_CLIENT in causes and not causes & _NO_CONNECTION
    unsent = not answering and _ANSWERED not in causes and (no_client or bool(causes & _NO_CONNECTION))
    what = f"({type(error).__name__}, status {status})" + (f"; {', '.join(unset)} is not set" if unset else "")
    if status == 408:
        return timed_out(model, timeout_s, sent=not unsent)
    if status == 429:
        message = f"{model}: the provider's rate limit is reached {what}; try again later"
        return ModelError(message, reason="MODEL_RATE_LIMITED")
    if no_client or (400 <= status < 500 and status not in _TRY_AGAIN):
        message = f"{model}: the call is rejected {what}; check the model's name, its key and its limits"
        return ModelRejected(message, sent=not unsent)
    how = "broke off its answer" if answering else "cannot be reached" if unsent else "fails"
    return ModelError(f"{model}: the provider {how} {what}; try again later", sent=not unsent)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
