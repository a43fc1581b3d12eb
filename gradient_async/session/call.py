"""One call, as the client wants it made: everything the session has to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ..config import Limits, Retry, Timeout
from ..hooks import Hook
from ..secrets import Secret


class Lease(Protocol):
    """The right of a call to send requests, given by the rate limiter that the call shares with others."""

    def on_response(self, outcome: Any) -> None:
        """Note the `Reply` or the `APIError` that an attempt came to, with its rate limits."""
        ...

    async def reacquire(self) -> None:
        """Wait until another attempt may be sent."""
        ...


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call, as the client wants it made.

    Attributes:
        method: HTTP method.
        url: Where to, without the query.
        query: Parameters of the query.
        headers: Headers but for the key.
        key: Goes into ``Authorization``; None leaves that header out.
        body: JSON, or None.
        stream: Whether the body is to be read as a stream.
        timeout: Time limits.
        max_retries: How many attempts may follow the first.
        retry: When and how long to try again.
        limits: Sizes a server may send.
        secrets: Keys to take out of what servers say.
        operation: What kind of call it is, for hooks.
        params: Parameters of the request, for hooks.
        hooks: Who is told what happens.
        lease: The call's lease from a rate limiter, asked before each further attempt; or None.
        prepared: What the session made of URL, headers and key. `msgspec.structs.replace` keeps the dict, so all
            calls of one `RequestTemplate` share it.
    """

    method: str
    url: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    key: Secret | None
    body: bytes | None
    stream: bool
    timeout: Timeout
    max_retries: int
    retry: Retry
    limits: Limits
    secrets: tuple[Secret, ...] = ()
    operation: str = "chat"
    params: Mapping[str, Any] = {}
    hooks: tuple[Hook, ...] = ()
    lease: Lease | None = None
    prepared: dict[str, Any] = msgspec.field(default_factory=dict)
