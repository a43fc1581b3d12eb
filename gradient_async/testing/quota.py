"""Quotas that a server holds: buckets of requests and tokens that refill all the time. Pure: no clock is read here."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from ..types.model import build_tables

_STATUSES = (429, 503, 529)
_WAITS = ("reset", "retry-after", "unknown")
# A client that comes back exactly when the bucket has refilled must not be refused because of a rounding error.
_TOLERANCE = 1e-6


class Quota(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """A rate limit for `serve`, held for each key by itself, as DigitalOcean holds it.

    The limit is a bucket that is full at first and refills all the time. Give ``requests`` and ``per_second``, or
    ``tokens`` and ``tokens_per_second``, or all four. Each simulated or replayed reply takes one request and the
    ``total_tokens`` of its usage, both at the moment when the request arrives; a reply without usage, such as an error
    that the model's name asks for, takes no tokens. A request is refused if one of the buckets holds less than it
    takes; refused requests take nothing. A reply of more tokens than the bucket can hold needs a full bucket, and
    leaves a debt.

    Attributes:
        requests: Size of the bucket of requests: how many may be sent at once. None for no limit.
        per_second: How many requests flow into the bucket in a second.
        tokens: Size of the bucket of tokens. None for no limit.
        tokens_per_second: How many tokens flow into the bucket in a second.
        status: Status of a refusal: 429, 503 or 529.
        wait: How a refusal names the time until the request would be accepted: ``"reset"`` by the reset of each bucket
            that holds too little, as DigitalOcean does, in whole seconds of Unix time, rounded up; ``"retry-after"`` by
            ``Retry-After``, in whole seconds, rounded up; ``"unknown"`` not at all. The resets are 0 otherwise.

    Raises:
        ValueError: If a value is out of range, or a bucket lacks its size or its rate.

    Source: quota-specific response headers of serverless inference, DigitalOcean documentation.
    """

    requests: int | None = None
    per_second: float | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    status: Literal[429, 503, 529] = 429
    wait: Literal["reset", "retry-after", "unknown"] = "reset"

    def __post_init__(self) -> None:
        if self.requests is None and self.tokens is None:
            raise ValueError("a quota needs requests and per_second, or tokens and tokens_per_second")
        _check_bucket("requests", self.requests, "per_second", self.per_second)
        _check_bucket("tokens", self.tokens, "tokens_per_second", self.tokens_per_second)
        if self.status not in _STATUSES:
            raise ValueError(f"status={self.status}: a quota refuses with 429, 503 or 529")
        if self.wait not in _WAITS:
            raise ValueError(f"wait={self.wait!r}: a quota names its wait by {', '.join(map(repr, _WAITS))}")


build_tables(Quota)


def _check_bucket(size_name: str, size: int | None, rate_name: str, rate: float | None) -> None:
    if (size is None) != (rate is None):
        raise ValueError(f"{size_name} and {rate_name} are one bucket: give both")
    if size is not None and size < 1:
        raise ValueError(f"{size_name}={size}: a bucket holds at least 1")
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"{rate_name}={rate}: a bucket refills at a rate above 0")


class Bucket:
    """One bucket, full at first.

    Every method takes ``now``, a reading of a clock that never goes backwards, in seconds.

    Args:
        size: The most that it holds.
        per_second: What flows in, in a second.
    """

    def __init__(self, size: int, per_second: float) -> None:
        self.size = size
        self._per_second = per_second
        self._level = float(size)
        self._level_at = -math.inf

    def level(self, now: float) -> float:
        """Return what it holds; below 0 after more was taken than it held."""
        return min(self.size, self._level + (now - self._level_at) * self._per_second)

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until an amount may be taken, 0 if it may be taken now."""
        missing = min(amount, self.size) - self.level(now)
        return missing / self._per_second if missing > _TOLERANCE else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take an amount out."""
        self._level = self.level(now) - amount
        self._level_at = now


class Meter:
    """The buckets of one key.

    Args:
        quota: The quota to hold.
    """

    def __init__(self, quota: Quota) -> None:
        self._wait_by = quota.wait
        sizes = {
            "requests": (quota.requests, quota.per_second),
            "tokens-per-minute": (quota.tokens, quota.tokens_per_second),
        }
        self._buckets = {
            name: Bucket(size, rate)
            for name, (size, rate) in sizes.items()
            if size is not None and rate is not None
        }

    def admit(self, tokens: int, *, now: float, wall: float) -> tuple[bool, dict[str, str]]:
        """Take one request and its tokens, or nothing if a bucket holds too little.

        Args:
            tokens: The tokens of its reply.
            now: A reading of a clock that never goes backwards, in seconds.
            wall: Unix time in seconds.

        Returns:
            Whether the request is accepted, and headers for its reply.
        """
        costs = {name: 1 if name == "requests" else tokens for name in self._buckets}
        waits = {name: bucket.wait(costs[name], now) for name, bucket in self._buckets.items()}
        longest = max(waits.values())
        headers: dict[str, str] = {}
        for name, bucket in self._buckets.items():
            if not longest:
                bucket.take(costs[name], now)
            named = waits[name] and self._wait_by == "reset"
            headers[f"x-ratelimit-limit-{name}"] = str(bucket.size)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, int(bucket.level(now) + _TOLERANCE)))
            headers[f"x-ratelimit-reset-{name}"] = str(math.ceil(wall + waits[name])) if named else "0"
        if longest and self._wait_by == "retry-after":
            headers["retry-after"] = str(math.ceil(longest))
        return not longest, headers
