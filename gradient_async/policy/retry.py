"""Whether and when to retry, as pure functions of the error, the attempt and a random number."""

from __future__ import annotations

from ..config import Retry
from ..errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    GatewayTimeoutError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    StreamError,
)

_FIRST_BACKOFF = 0.5  # seconds
# Seconds. DigitalOcean's rule for a 429 whose reset is 0: the time at which the quota is available again is unknown.
_MAX_BACKOFF_OF_UNKNOWN_RESET = 60.0
# Statuses after which a retry is safe: the model has not done the work. The statuses 521, 522, 523, 525 and 530 come from a CDN
# that did not reach the server.
_RETRIED = frozenset({408, 429, 500, 502, 503, 521, 522, 523, 525, 529, 530})
_OVERLOADED = 529
# Codes of this library's connection errors that are never retried: TLS would fail again, a server that has begun to reply
# has done the work, a proxy's rules do not change, and a call for which no file could be opened has waited already.
_FINAL = frozenset({"tls", "reply_begun", "proxy_refused", "too_many_files"})

# Tokens of `TokenBucket`: 20 failed retries in a row empty a full bucket.
_TOKENS = 100.0
_COST = 5.0
_COST_AFTER_TIMEOUT = 10.0
_REWARD = 1.0


def may_retry(error: APIError, policy: Retry) -> bool:
    """Whether the same request may be sent again after this error.

    Args:
        error: The error of the attempt.
        policy: The caller's settings.
    """
    if isinstance(error, StreamError):
        return False  # a status of 2xx came: the request is paid for
    if isinstance(error, APIStatusError):
        header = error.headers.get("x-should-retry", "").strip().lower()
        if header in {"true", "false"}:
            return header == "true"
        if isinstance(error, QuotaExceededError):
            return False
        # With a GatewayTimeoutError the model may have done the work.
        return error.status_code in _RETRIED or (policy.ambiguous and isinstance(error, GatewayTimeoutError))
    if not isinstance(error, APIConnectionError) or error.code in _FINAL:
        return False
    if error.phase == "connect":
        return True
    return policy.ambiguous and error.phase in {"send", "response"}


def is_refusal(error: APIError) -> bool:
    """Whether the server did no work, because of a quota or an overload that will pass: a 429 or 529, or a 503 that names its wait.

    All requests of the same key wait as long as such an error asks.
    """
    if isinstance(error, RateLimitError):
        return not isinstance(error, QuotaExceededError)
    return isinstance(error, OverloadedError) and (
        error.status_code == _OVERLOADED or bool(error.retry_after)
    )


def is_appointment(error: APIError) -> bool:
    """Whether an error is a refusal that names its wait. For patient calls, such as the calls of `map`, it is not a failure."""
    return is_refusal(error) and bool(error.retry_after)


def backoff(failures: int, max_: float, jitter: float) -> float:
    """Return the wait in seconds if the server asks for none: random, below a bound that doubles with each failure.

    Args:
        failures: Number of attempts that failed.
        max_: Longest wait, in seconds.
        jitter: A random number from 0 to 1.
    """
    # 2.0**1024 overflows; 2.0**16 half seconds are nine hours.
    return jitter * min(_FIRST_BACKOFF * 2.0 ** min(max(failures - 1, 0), 16), max_)


def wait_before_retry(
    error: APIError,
    policy: Retry,
    *,
    failures: int,
    max_retries: int,
    spent: float,
    jitter: float,
    hold: float | None = None,
) -> float | None:
    """Return the wait before the next attempt, in seconds; None if no attempt may follow.

    Args:
        error: The error of the last attempt.
        policy: The caller's settings.
        failures: Number of attempts that failed.
        max_retries: Number of failures that may be followed by an attempt.
        spent: Seconds of the budget that earlier waits have used.
        jitter: A random number from 0 to 1.
        hold: Seconds for which all requests of the key wait, if the server refused this one and named no time.
    """
    if failures > max_retries or not may_retry(error, policy):
        return None
    asked = error.retry_after if hold is None else hold
    unknown_reset = asked is None and isinstance(error, RateLimitError) and _has_unknown_reset(error)
    wait = backoff(failures, _MAX_BACKOFF_OF_UNKNOWN_RESET if unknown_reset else policy.max_backoff, jitter)
    if asked is not None:
        # The server's wait is never shortened. It is lengthened, but not beyond the budget: a retry within the budget is
        # better than an error.
        wait = max(wait, asked, min(spread(asked, jitter), policy.budget - spent))
    return wait if spent + wait <= policy.budget else None


def _has_unknown_reset(error: RateLimitError) -> bool:
    limits = error.rate_limits
    return limits is not None and 0 in {
        limits.requests.reset,
        limits.tokens_per_minute.reset,
        limits.tokens_per_day.reset,
    }


def spread(seconds: float, jitter: float) -> float:
    """Stretch a wait that a server asks of many clients, so that they do not all return at the same moment.

    Args:
        seconds: The server's wait.
        jitter: A random number from 0 to 1.

    Returns:
        Seconds: up to a quarter more, and up to one second more.
    """
    return seconds + jitter * min(1.0, seconds / 4)


class TokenBucket:
    """Limits the retries of all calls together, so that they do not multiply the load on a failing server.

    Every retry takes tokens, and returns them if it succeeds. While most calls fail the bucket becomes empty, and calls
    fail without a retry; calls that succeed fill it again.
    """

    def __init__(self) -> None:
        self.tokens = _TOKENS

    def take(self, error: APIError) -> float:
        """Take the tokens for a retry; return their number, or 0 if there are too few.

        Args:
            error: The error of the attempt. A retry after a timeout costs more.
        """
        price = _COST_AFTER_TIMEOUT if isinstance(error, APITimeoutError) else _COST
        if price > self.tokens:
            return 0.0
        self.tokens -= price
        return price

    def succeeded(self, paid: float) -> None:
        """Return the tokens of a call that succeeded.

        Args:
            paid: The tokens that its retries took. A call without a retry returns one.
        """
        self.tokens = min(_TOKENS, self.tokens + (paid or _REWARD))
