"""Whether an error is retried, and after which wait."""

from __future__ import annotations

from typing import Any

import pytest

from gradient_async import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APITimeoutError,
    Headers,
    RateLimit,
    RateLimits,
    Retry,
    StreamInterruptedError,
)
from gradient_async.errors import ResponseInfo, status_error_class
from gradient_async.policy.retry import (
    TokenBucket,
    backoff,
    is_appointment,
    is_refusal,
    may_retry,
    wait_before_retry,
)


def status(
    code: int, *, server_code: str | None = None, wait: float | None = None, **headers: str
) -> APIError:
    info = ResponseInfo(
        status_code=code, headers=Headers((k.replace("_", "-"), v) for k, v in headers.items())
    )
    return status_error_class(code, server_code)("", response=info, retry_after=wait)


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 521, 522, 523, 525, 529, 530])
def test_what_the_server_did_not_do_is_tried_again(code: int) -> None:
    assert may_retry(status(code), Retry())


@pytest.mark.parametrize("code", [400, 401, 402, 403, 404, 409, 413, 422, 501, 526, 307])
def test_what_will_not_change_is_not_tried_again(code: int) -> None:
    assert not may_retry(status(code), Retry())


def test_the_server_has_the_last_word() -> None:
    assert may_retry(status(400, x_should_retry="true"), Retry())
    assert not may_retry(status(500, x_should_retry=" FALSE "), Retry())
    assert may_retry(status(500, x_should_retry="maybe"), Retry())


def test_a_spent_quota_is_not_tried_again() -> None:
    assert not may_retry(status(429, server_code="insufficient_quota"), Retry())


@pytest.mark.parametrize(
    ("error", "plainly", "with_ambiguous"),
    [
        (APIConnectionError(phase="connect"), True, True),
        (APIConnectionError(phase="connect", code="tls"), False, False),
        (APIConnectionError(phase="connect", code="proxy_refused"), False, False),
        (APITimeoutError(phase="connect", code="too_many_files"), False, False),
        (APIConnectionError(phase="send"), False, True),
        (APIConnectionError(phase="response"), False, True),
        (APIConnectionError(phase="response", code="reply_begun"), False, False),
        (APIConnectionError(phase="body"), False, False),
        (StreamInterruptedError(phase="body"), False, False),
        (APIResponseValidationError(), False, False),
        (status(504), False, True),
        (status(520), False, True),
        (status(524), False, True),
    ],
)
def test_what_may_have_been_done_is_tried_again_only_if_told(
    error: APIError, plainly: bool, with_ambiguous: bool
) -> None:
    assert plainly == may_retry(error, Retry())
    assert with_ambiguous == may_retry(error, Retry(ambiguous=True))


def test_backoff_doubles_with_full_jitter_up_to_a_bound() -> None:
    assert [0.5, 1.0, 2.0, 4.0, 8.0, 8.0] == [backoff(attempt, 8.0, 1.0) for attempt in range(1, 7)]
    assert backoff(3, 8.0, 0.0) == 0.0
    assert backoff(10_000, 3.0, 1.0) == 3.0


@pytest.mark.parametrize(
    ("reset", "longest"),
    [(0.0, 60.0), (None, 8.0), (5.0, 8.0)],
)
def test_a_reset_of_0_backs_off_by_digitaloceans_rule(reset: float | None, longest: float) -> None:
    """Nobody knows when the quota is there again: half a second, doubled with each attempt, a minute at most."""
    error = status(429)
    error.rate_limits = RateLimits(requests=RateLimit(reset=4.0), tokens_per_day=RateLimit(reset=reset))
    waits = [wait(error, failures=attempt, max_retries=99) for attempt in (1, 4, 5, 6, 7, 8, 99)]
    assert [min(waited, longest) for waited in (0.5, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0)] == waits
    busy = status(503)
    busy.rate_limits = error.rate_limits
    assert wait(busy, failures=9, max_retries=9) == 8.0


def wait(error: APIError, **changes: Any) -> float | None:
    facts: dict[str, Any] = {"failures": 1, "max_retries": 2, "spent": 0.0, "jitter": 1.0}
    return wait_before_retry(error, Retry(), **(facts | changes))


def test_a_servers_wait_is_honoured_upward_only() -> None:
    assert wait(status(429, wait=7.0), jitter=0.0) == 7.0
    assert wait(status(429, wait=7.0)) == 8.0
    assert wait(status(429, wait=2.0)) == 2.5
    assert wait(status(429, wait=0.1)) == 0.5
    # A wait that just fits is not stretched beyond the budget.
    assert wait(status(429, wait=59.5)) == 60.0


def test_no_attempt_beyond_the_number_or_the_budget() -> None:
    assert wait(status(500), failures=3) is None
    assert wait(status(400)) is None
    assert wait(status(429, wait=61.0)) is None
    assert wait(status(429, wait=30.0), spent=31.0) is None
    assert wait(status(429, wait=30.0), spent=30.0) == 30.0


def test_a_bucket_runs_dry_while_calls_fail_and_fills_while_they_succeed() -> None:
    bucket = TokenBucket()
    assert [5.0] * 20 == [bucket.take(status(503)) for _ in range(20)]
    assert bucket.take(status(503)) == 0.0
    bucket.succeeded(5.0)  # a call that succeeded at its second attempt
    assert bucket.take(APITimeoutError(phase="connect")) == 0.0
    for _ in range(5):
        bucket.succeeded(0.0)
    assert (bucket.take(APITimeoutError(phase="connect")), bucket.tokens) == (10.0, 0.0)
    for _ in range(200):
        bucket.succeeded(0.0)
    assert bucket.tokens == 100.0


def test_without_a_servers_wait_the_backoff_counts() -> None:
    waits = [
        wait_before_retry(status(500), Retry(), failures=attempt, max_retries=3, spent=0.0, jitter=1.0)
        for attempt in (1, 2, 3, 4)
    ]
    assert [0.5, 1.0, 2.0, None] == waits


@pytest.mark.parametrize(
    ("error", "refusal", "appointment"),
    [
        (status(429), True, False),
        (status(429, wait=0.0), True, False),
        (status(429, wait=1.0), True, True),
        (status(429, server_code="insufficient_quota", wait=1.0), False, False),
        (status(503), False, False),
        (status(503, wait=2.0), True, True),
        (status(529), True, False),
        (status(529, wait=2.0), True, True),
        (status(500, wait=2.0), False, False),
        (APIConnectionError(phase="connect"), False, False),
    ],
)
def test_a_refusal_that_names_its_wait_is_an_appointment(
    error: APIError, refusal: bool, appointment: bool
) -> None:
    """A 503 without a wait says nothing of a quota, and a spent quota will not pass."""
    assert (refusal, appointment) == (is_refusal(error), is_appointment(error))


def test_a_hold_is_waited_for_like_a_servers_wait() -> None:
    """All requests of the key wait for it: no call may come back sooner, or wait beyond its budget."""
    assert wait(status(429), hold=3.0, failures=0, jitter=0.0) == 3.0
    assert wait(status(429), hold=3.0, failures=0) == 3.75
    assert wait(status(429, wait=9.0), hold=3.0, failures=0, jitter=0.0) == 3.0
    assert wait(status(429), hold=0.0, failures=0, jitter=0.0) == 0.0
    assert wait(status(429), hold=3.0, failures=0, spent=57.5) is None
    assert wait(status(429), hold=3.0, failures=0, spent=57.0) == 60.0 - 57.0
    assert wait(status(429, x_should_retry="false"), hold=3.0, failures=0) is None


def test_refusals_that_are_no_failures_do_not_count() -> None:
    """A call that was refused a hundred times without a failure is tried again, also without any retry of failures."""
    assert wait(status(429, wait=1.0), failures=0, max_retries=0, jitter=0.0) == 1.0
    assert wait(status(429, wait=1.0), failures=1, max_retries=0) is None
