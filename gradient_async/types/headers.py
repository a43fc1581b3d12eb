"""Headers of replies, and the rate limits that they state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar, overload

import msgspec

from .model import Model

T = TypeVar("T")


class Headers(Mapping[str, str]):
    """Headers of a reply. Names are case-insensitive; if a name occurs several times, its last value counts.

    Args:
        items: Pairs of name and value.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items = {name.lower(): value for name, value in items}

    def __getitem__(self, name: str) -> str:
        return self._items[name.lower()]

    # `Mapping.get` calls `__getitem__` and catches KeyError. Most headers that the library looks up are absent, so nearly
    # every lookup would raise an exception.
    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: str) -> str: ...
    @overload
    def get(self, name: str, /, default: T) -> str | T: ...
    def get(self, name: str, /, default: object = None) -> object:
        """Return the value of a header, or the default if the header is absent."""
        return self._items.get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Headers({self._items!r})"

    def __reduce__(self) -> tuple[type[Headers], tuple[list[tuple[str, str]]]]:
        return Headers, (list(self._items.items()),)


class RateLimit(Model, gc=False, kw_only=True):
    """One rate limit, as the last reply stated it.

    Attributes:
        limit: Size of the quota.
        remaining: How much of the quota is left.
        reset: When the quota is full again: Unix time in seconds. A duration such as ``1m30s`` is counted
            from the arrival of the reply.
    """

    limit: int | None = None
    remaining: int | None = None
    reset: float | None = None


class RateLimits(Model, gc=False, kw_only=True):
    """The rate limits in a reply's headers; every field of a limit that no header states is None.

    Attributes:
        requests: Requests.
        tokens_per_minute: Tokens in a minute.
        tokens_per_day: Tokens in a day.

    Source: ``x-ratelimit-*`` and ``ratelimit-*`` headers, DigitalOcean documentation.
    """

    requests: RateLimit = msgspec.field(default_factory=RateLimit)
    tokens_per_minute: RateLimit = msgspec.field(default_factory=RateLimit)
    tokens_per_day: RateLimit = msgspec.field(default_factory=RateLimit)
