"""Whether to try again and when, as a pure function of the error, the attempt and the dice."""

from __future__ import annotations

from .config import Retry
from .errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    QuotaExceededError,
    StreamError,
)

__all__ = ["backoff", "may_retry", "wait_before_retry"]

_FIRST_BACKOFF = 0.5
_RETRIED = frozenset({408, 429, 500, 502, 503, 529})
_AMBIGUOUS = frozenset({504})


def may_retry(error: APIError, policy: Retry) -> bool:
    """Whether the same request may be sent again after this error.

    Args:
        error: How the attempt ended.
        policy: The caller's settings.
    """
    if isinstance(error, StreamError):
        return False  # a 2xx came: what follows is paid for
    if isinstance(error, APIStatusError):
        said = error.headers.get("x-should-retry", "").strip().lower()
        if said in {"true", "false"}:
            return said == "true"
        if isinstance(error, QuotaExceededError):
            return False
        status = error.status_code
        return status in _RETRIED or (status in _AMBIGUOUS and policy.ambiguous)
    if not isinstance(error, APIConnectionError) or error.code == "tls":
        return False
    if error.phase == "connect":
        return True
    return policy.ambiguous and error.phase in {"send", "response"}


def backoff(attempt: int, policy: Retry, jitter: float) -> float:
    """Return a wait of our own choice, in seconds: full jitter over a doubling bound.

    Args:
        attempt: How many attempts have been made.
        policy: The caller's settings.
        jitter: A random number of 0 to 1.
    """
    return jitter * min(_FIRST_BACKOFF * 2.0 ** min(attempt - 1, 16), policy.max_backoff)


def wait_before_retry(
    error: APIError, policy: Retry, *, attempt: int, max_retries: int, spent: float, jitter: float
) -> float | None:
    """Return how long to wait before the next attempt, in seconds; None if there is to be none.

    Args:
        error: How the attempt ended.
        policy: The caller's settings.
        attempt: How many attempts have been made.
        max_retries: How many may follow the first.
        spent: Seconds waited before, of the policy's budget.
        jitter: A random number of 0 to 1.
    """
    if attempt > max_retries or not may_retry(error, policy):
        return None
    wait = backoff(attempt, policy, jitter)
    if error.retry_after is not None:
        wait = max(wait, error.retry_after)  # what a server asks for is never cut short
    return wait if spent + wait <= policy.budget else None
