"""Rate limits and waits in the headers of replies."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest

from gradient_async import Headers, RateLimit, RateLimits
from gradient_async.policy.ratelimit import parse_duration, rate_limits, retry_after

NOW = 1_800_000_000.0


def test_limits_of_serverless_headers() -> None:
    headers = Headers(
        [
            ("X-RateLimit-Limit-Requests", "250"),
            ("x-ratelimit-remaining-requests", "249"),
            ("x-ratelimit-reset-requests", str(NOW + 12)),
            ("x-ratelimit-limit-tokens-per-minute", "1000"),
            ("x-ratelimit-reset-tokens-per-day", "1m30s"),
        ]
    )
    expected = RateLimits(
        requests=RateLimit(limit=250, remaining=249, reset=NOW + 12),
        tokens_per_minute=RateLimit(limit=1000),
        tokens_per_day=RateLimit(reset=NOW + 90),
    )
    assert expected == rate_limits(headers, NOW)


def test_limits_of_platform_headers_and_of_none() -> None:
    headers = {"ratelimit-limit": "5000", "ratelimit-remaining": "x", "ratelimit-reset": "60"}
    assert RateLimits(requests=RateLimit(limit=5000, reset=NOW + 60)) == rate_limits(headers, NOW)
    assert rate_limits({"date": "today"}, NOW) is None


@pytest.mark.parametrize("text", ["nan", "-1", "inf", "1e400", "many", ""])
def test_numbers_that_are_none_are_ignored(text: str) -> None:
    limits = rate_limits({"ratelimit-limit": text}, NOW)
    assert RateLimits(requests=RateLimit()) == limits


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("17ms", 0.017),
        ("1m30s", 90.0),
        ("2h", 7200.0),
        ("1d1s", 86401.0),
        ("1.5s", 1.5),
        ("90", None),
        ("s", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert seconds == parse_duration(text)


def asked(code: int = 429, jitter: float = 0.0, **headers: Any) -> float | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return retry_after(named, status=code, now=NOW, jitter=jitter)


def test_waits_that_servers_ask_for() -> None:
    assert asked(retry_after="3") == 3.0
    assert asked(retry_after_ms="300", retry_after="3") == 0.3
    assert asked(retry_after="1e400") == float("inf")
    assert asked(retry_after=formatdate(NOW + 5, usegmt=True)) == 5.0
    assert asked(retry_after=formatdate(NOW - 5, usegmt=True)) == 0.0
    assert asked(retry_after=formatdate(NOW + 9, usegmt=True), date=formatdate(NOW + 2, usegmt=True)) == 7.0
    for nothing in ("-5", "nan", "soon", "99999999999999999999999 Jan"):
        assert asked(retry_after=nothing) is None


def test_resets_are_obeyed_by_digitaloceans_rule() -> None:
    """The soonest reset that is not 0, at least a second, and a quarter to half a second more."""
    resets: dict[str, Any] = {
        "x_ratelimit_reset_requests": "0",
        "x_ratelimit_reset_tokens_per_minute": str(NOW + 20),
        "x_ratelimit_reset_tokens_per_day": str(NOW + 500),
    }
    assert asked(**resets) == 20.25
    assert asked(**resets, jitter=1.0) == 20.5
    assert asked(x_ratelimit_reset_requests=str(NOW - 3)) == 1.25
    assert asked(x_ratelimit_reset_requests="0") is None
    assert asked() is None
    assert asked(503, **resets) is None
