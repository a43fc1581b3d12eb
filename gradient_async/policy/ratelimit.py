"""Reads rate limits and waits from headers: pure functions of headers, clock readings and a random number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from ..types import RateLimit, RateLimits

_KINDS = {
    "requests": "requests",
    "tokens_per_minute": "tokens-per-minute",
    "tokens_per_day": "tokens-per-day",
}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
# A reset from this number on is a Unix time in seconds; a smaller one is a number of seconds from now.
_OLDEST_EPOCH = 1_000_000_000
_MIN_WAIT = 1.0  # seconds
_TOO_MANY_REQUESTS = 429


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
        for name, kind in _KINDS.items()
        if (limit := _limit(headers, "x-ratelimit-{}-" + kind, now)) is not None
    }
    platform = _limit(headers, "ratelimit-{}", now)
    if platform is not None:
        found.setdefault("requests", platform)
    return RateLimits(**found) if found else None


def _limit(headers: Mapping[str, str], pattern: str, now: float) -> RateLimit | None:
    limit, remaining, reset = (headers.get(pattern.format(part)) for part in ("limit", "remaining", "reset"))
    if limit is None and remaining is None and reset is None:
        return None
    return RateLimit(limit=_count(limit), remaining=_count(remaining), reset=_reset(reset, now))


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
    number = _number(text)
    if number is not None:
        return number if number == 0 or number >= _OLDEST_EPOCH else now + number
    seconds = parse_duration(text or "")
    return None if seconds is None else now + seconds


def parse_duration(text: str) -> float | None:
    """Read a duration such as ``17ms`` or ``1m30s``; return seconds, or None if the text is not a duration."""
    if not _DURATION.fullmatch(text.strip()):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PIECE.findall(text))


def retry_after(headers: Mapping[str, str], *, status: int, now: float, jitter: float) -> float | None:
    """Read the wait that a server asks for.

    ``retry-after-ms`` and ``Retry-After`` come first. Without them DigitalOcean's rule applies to a 429: wait until the
    soonest reset that is not 0, but at least a second, and a quarter to half a second more.

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
        seconds = _number(text)
        return seconds if seconds is not None else _until(text, headers.get("date"), now)
    limits = rate_limits(headers, now) if status == _TOO_MANY_REQUESTS else None
    if limits is None:
        return None
    resets = [
        limit.reset
        for limit in (limits.requests, limits.tokens_per_minute, limits.tokens_per_day)
        if limit.reset  # neither None nor 0, which means that the time is not known
    ]
    if not resets:
        return None
    return max(_MIN_WAIT, min(resets) - now) + 0.25 + 0.25 * jitter


def _until(text: str, date: str | None, now: float) -> float | None:
    """Return the seconds until an HTTP date, by the server's own clock if there is a ``Date`` header."""
    then = _timestamp(text)
    if then is None:
        return None
    server_now = _timestamp(date) if date is not None else None
    return max(0.0, then - (now if server_now is None else server_now))


def _timestamp(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
