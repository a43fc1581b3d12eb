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


def test_limits_of_other_providers() -> None:
    """``-tokens`` counts as ``-tokens-per-minute``, and headers without a kind as requests."""
    headers = {
        "X-RateLimit-Limit": "20",
        "x-ratelimit-reset": "2.5",
        "x-ratelimit-limit-tokens": "8000",
        "x-ratelimit-remaining-tokens": "7990",
        "x-ratelimit-reset-tokens": "450ms",
    }
    expected = RateLimits(
        requests=RateLimit(limit=20, reset=NOW + 2.5),
        tokens_per_minute=RateLimit(limit=8000, remaining=7990, reset=NOW + 0.45),
    )
    assert expected == rate_limits(Headers(headers.items()), NOW)
    both = headers | {"x-ratelimit-limit-tokens-per-minute": "9", "x-ratelimit-limit-requests": "3"}
    assert RateLimits(requests=RateLimit(limit=3), tokens_per_minute=RateLimit(limit=9)) == rate_limits(
        Headers(both.items()), NOW
    )


@pytest.mark.parametrize(
    ("text", "reset"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("0ms", 0.0),
        ("30", NOW + 30),
        ("6m0s", NOW + 360),
        ("200µs", NOW + 0.0002),
        (str(NOW + 86400), NOW + 86400),
        (str(NOW - 40), NOW - 40),
        (formatdate(NOW + 9, usegmt=True), NOW + 9),
        ("2027-01-15T08:00:07Z", NOW + 7),
        ("2027-01-15T08:00:07", NOW + 7),
        ("2027-01-15T09:30:07+01:30", NOW + 7),
        # A time in milliseconds, and what is more than a day off.
        (str(int(NOW) * 1000 + 3000), None),
        (str(NOW + 86401), None),
        (str(NOW - 86401), None),
        ("86401", None),
        ("25h", None),
        ("9999-12-31T00:00:00Z", None),
        ("1e400", None),
        ("9" * 400 + "s", None),
        ("soon", None),
    ],
)
def test_resets(text: str, reset: float | None) -> None:
    limits = rate_limits({"x-ratelimit-reset-requests": text}, NOW)
    assert limits is not None
    assert limits.requests.reset == (None if reset is None else pytest.approx(reset))
    wait = asked(x_ratelimit_reset_requests=text)
    assert wait == (pytest.approx(max(1.0, reset - NOW) + 0.25) if reset else None)


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
        ("987.5us", 0.0009875),
        ("250ns", 0.00000025),
        (" 2 S ", 2.0),
        ("2 seconds", 2.0),
        ("1 sec", 1.0),
        ("1 min 5 secs", 65.0),
        ("3 Minutes", 180.0),
        ("1 hour", 3600.0),
        ("2 days", 172800.0),
        ("2 weeks", None),
        ("2μs", None),
        ("1s, 2s", None),
        ("90", None),
        ("s", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("piece", ["1ms", "2 mins", "3s", "4 secs ", "5.5us", "6d"])
def test_long_headers_that_are_no_durations(piece: str) -> None:
    """Reading a header of 8 KiB takes linear time, whatever it holds: a server must not stop the event loop by it."""
    pieces = piece * (8000 // len(piece))
    assert parse_duration(pieces) is not None
    assert parse_duration(pieces + "!") is None
    assert asked(retry_after=pieces + "!") is None


def asked(code: int = 429, jitter: float = 0.0, **headers: Any) -> float | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return retry_after(named, status=code, now=NOW, jitter=jitter)


def test_waits_that_servers_ask_for() -> None:
    assert asked(retry_after="3") == 3.0
    assert asked(retry_after_ms="300", retry_after="3") == 0.3
    assert asked(retry_after="1e400") == float("inf")
    assert asked(retry_after="7s") == 7.0
    assert asked(retry_after="1m 1.5s") == 61.5
    assert asked(retry_after="2027-01-15T08:00:03Z") == 3.0
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
    assert asked(x_ratelimit_reset_tokens="1.5s", jitter=1.0) == 2.0
    assert asked(**resets, retry_after="3") == 3.0
    assert asked(**resets, retry_after="whenever") == 20.25
    assert asked() is None
    assert asked(503, **resets) is None
