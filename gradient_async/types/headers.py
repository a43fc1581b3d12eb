"""What replies say of rate limits."""

from __future__ import annotations

import msgspec

from .model import Model


class RateLimit(Model, gc=False, kw_only=True):
    """One limit, as the last reply told it.

    Attributes:
        limit: How much a window allows.
        remaining: How much of it is left.
        reset: When the window starts anew: Unix time in seconds. A duration such as ``1m30s`` counts
            from the reply.
    """

    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None


class RateLimits(Model, gc=False, kw_only=True):
    """The limits a reply's headers told; those it did not tell are empty.

    Attributes:
        requests: Requests in a window.
        tokens_per_minute: Tokens in a minute.
        tokens_per_day: Tokens in a day.

    Source: ``x-ratelimit-*`` and ``ratelimit-*`` headers, DigitalOcean documentation.
    """

    requests: RateLimit = msgspec.field(default_factory=RateLimit)
    tokens_per_minute: RateLimit = msgspec.field(default_factory=RateLimit)
    tokens_per_day: RateLimit = msgspec.field(default_factory=RateLimit)
