"""Reads rate limits and waits from headers: pure functions of headers, clock readings and a random number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ..types import RateLimit, RateLimits

# The headers of each limit, where "{}" stands for limit, remaining or reset. The first pattern that matches a header of the
# reply counts. The headers of DigitalOcean come first; those with "-tokens", or "x-ratelimit-{}" alone, come from other
# providers.
_HEADERS = {
    "requests": ("x-ratelimit-{}-requests", "ratelimit-{}", "x-ratelimit-{}"),
    "tokens_per_minute": ("x-ratelimit-{}-tokens-per-minute", "x-ratelimit-{}-tokens"),
    "tokens_per_day": ("x-ratelimit-{}-tokens-per-day",),
}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# A number and a unit, which may be written out: 17ms, 5min, 2 seconds. The group is atomic: `ms` could also be minutes in
# the plural, and to try both for each piece of a long header would take exponential time.
_PIECE = r"(?>([0-9]+(?:\.[0-9]+)?) *(ns|[uµm]s|[smhd])(?:ec(?:ond)?|in(?:ute)?|our|ay)?s? *)"
_DURATION = re.compile(f"(?:{_PIECE})+")
_PIECES = re.compile(_PIECE)
# A reset from this number on is a Unix time in seconds; a smaller one is a number of seconds from now.
_OLDEST_EPOCH = 1_000_000_000
# Seconds. A reset that is further away is an error: it is a time in milliseconds, or the clock of the server is wrong.
_MAX_DISTANCE = 86400.0
_MIN_WAIT = 1.0  # seconds
_TOO_MANY_REQUESTS = 429
_REFUSALS = frozenset({_TOO_MANY_REQUESTS, 503, 529})


def rate_limits(headers: Mapping[str, str], now: float) -> RateLimits | None:
    """Read the rate limits in the headers of a reply.

    Args:
        headers: Headers of the reply, with names compared without case.
        now: Unix time in seconds, for resets given as durations.

    Returns:
        The limits, or None if no header states one.
    """
    # Most replies have no such header, and one search is cheaper than the twelve look-ups below.
    if "ratelimit" not in "\n".join(headers).lower():
        return None
    found = {
        name: limit
        for name, patterns in _HEADERS.items()
        if (limit := _limit(headers, patterns, now)) is not None
    }
    return RateLimits(**found) if found else None


def _limit(headers: Mapping[str, str], patterns: tuple[str, ...], now: float) -> RateLimit | None:
    for pattern in patterns:
        limit, remaining, reset = (
            headers.get(pattern.format(part)) for part in ("limit", "remaining", "reset")
        )
        if limit is not None or remaining is not None or reset is not None:
            return RateLimit(limit=_count(limit), remaining=_count(remaining), reset=_reset(reset, now))
    return None


def _count(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None or not math.isfinite(number) else int(number)


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) or number < 0 else number


def _reset(text: str | None, now: float) -> float | None:
    """Return a reset as Unix time; 0 as it is, and None if the header states no time that can be meant."""
    if text is None:
        return None
    number = _number(text)
    if number is None:
        number = parse_duration(text)
    if number is None:
        number = _timestamp(text)
    if not number:
        return number
    then = number if number >= _OLDEST_EPOCH else now + number
    return then if abs(then - now) <= _MAX_DISTANCE else None


def parse_duration(text: str) -> float | None:
    """Read a duration such as ``17ms`` or ``1m30s``; return seconds, or None if the text is not a duration."""
    text = text.strip().lower()
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PIECES.findall(text))


def retry_after(headers: Mapping[str, str], *, status: int, now: float, jitter: float) -> float | None:
    """Read the wait that a server asks for.

    ``retry-after-ms`` and ``Retry-After`` come first, in seconds, with a unit (``2s``) or as a date. Without them
    DigitalOcean's rule applies to a 429: wait until the soonest reset that is not 0, but at least a second, and a quarter
    to half a second more. It applies to a 503 or 529 too, but only with limits of which nothing is left.

    Args:
        headers: Headers of the reply, with names compared without case.
        status: HTTP status.
        now: Unix time in seconds.
        jitter: A random number from 0 to 1.

    Returns:
        Seconds, or None if the headers state no wait.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    if text is not None:
        for seconds in (_number(text), parse_duration(text), _until(text, headers.get("date"), now)):
            if seconds is not None:
                return seconds
    limits = rate_limits(headers, now) if status in _REFUSALS else None
    if limits is None:
        return None
    resets = [
        limit.reset
        for limit in (limits.requests, limits.tokens_per_minute, limits.tokens_per_day)
        # A reset of None or 0 means that the time is not known, so it does not count.
        if limit.reset and (status == _TOO_MANY_REQUESTS or limit.remaining == 0)
    ]
    if not resets:
        return None
    return max(_MIN_WAIT, min(resets) - now) + 0.25 + 0.25 * jitter


def _until(text: str, date: str | None, now: float) -> float | None:
    """Return the seconds until a date, by the server's own clock if there is a ``Date`` header."""
    then = _timestamp(text)
    if then is None:
        return None
    server_now = _timestamp(date) if date is not None else None
    return max(0.0, then - (now if server_now is None else server_now))


def _timestamp(text: str) -> float | None:
    """Return the Unix time of an HTTP date or an ISO date; None if the text is neither."""
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            then = parse(text)
            return (then if then.tzinfo is not None else then.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            pass
    return None
