"""Whether to try again and when, as a pure function of the error, the attempt and the dice."""

from __future__ import annotations

from ..config import Retry
from ..errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    QuotaExceededError,
    StreamError,
)

_FIRST_BACKOFF = 0.5
_TOKENS = 100.0
_COST = 5.0
_COST_AFTER_TIMEOUT = 10.0
_REWARD = 1.0
_RETRIED = frozenset({408, 429, 500, 502, 503, 529})
_AMBIGUOUS = frozenset({504})
# Codes of our own: TLS would fail again, and a server that has begun to answer has done the work.
_FINAL = frozenset({"tls", "reply_begun"})


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
    if not isinstance(error, APIConnectionError) or error.code in _FINAL:
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
    asked = error.retry_after
    if asked is not None:
        # What a server asks for is never cut short, only stretched, and that no further than the budget.
        wait = max(wait, asked, min(spread(asked, jitter), policy.budget - spent))
    return wait if spent + wait <= policy.budget else None


def spread(seconds: float, jitter: float) -> float:
    """Stretch a wait that a server asked of many, so that they do not all come back at the same moment.

    Args:
        seconds: What was asked for.
        jitter: A random number of 0 to 1.

    Returns:
        Seconds: at most a quarter more, and at most one second more.
    """
    return seconds + jitter * min(1.0, seconds / 4)


class TokenBucket:
    """Keeps many calls that fail at once from multiplying the load on a server in trouble.

    Every retry takes tokens, and gives them back if it succeeds. While most calls fail the bucket runs dry,
    and calls fail at once in place of being tried again; those that succeed fill it up.
    """

    __slots__ = ("tokens",)

    def __init__(self) -> None:
        self.tokens = _TOKENS

    def take(self, error: APIError) -> float:
        """Pay for trying again after an error; return the price, or 0 if there is not enough.

        Args:
            error: How the attempt ended; what a timeout kept waiting costs more.
        """
        price = _COST_AFTER_TIMEOUT if isinstance(error, APITimeoutError) else _COST
        if price > self.tokens:
            return 0.0
        self.tokens -= price
        return price

    def succeeded(self, paid: float) -> None:
        """Note that a call succeeded.

        Args:
            paid: What its retries had cost.
        """
        self.tokens = min(_TOKENS, self.tokens + (paid or _REWARD))
