"""One call, as the client describes it to the session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..config import Limits, Retry, Timeout
from ..hooks import Hook
from ..secrets import Redactor, Secret
from .pace import Turns


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call, as the client describes it to the session.

    Attributes:
        method: HTTP method.
        url: URL without its query.
        query: Parameters of the query, as pairs of name and value.
        headers: Headers, without the key.
        key: Key for the header ``Authorization``; None leaves that header out.
        body: JSON, or None.
        stream: Whether the reply is to be read as a stream.
        timeout: Time limits.
        max_retries: Maximum number of attempts after the first.
        retry: When to retry, and how long to wait before a retry.
        limits: Limits on what a server may send.
        redactor: Removes keys from text that servers send.
        operation: Kind of the call, for hooks.
        params: Parameters of the request, for hooks.
        hooks: Hooks that observe the call.
        turns: Where each attempt of the call takes a turn; or None.
        prepared: Objects that the session made from URL, headers and key. `msgspec.structs.replace` keeps the dict, so all
            calls of one `RequestTemplate` share it.
    """

    method: str
    url: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    key: Secret | None
    body: bytes | None
    stream: bool
    timeout: Timeout
    max_retries: int
    retry: Retry
    limits: Limits
    redactor: Redactor = Redactor()
    operation: str = "chat"
    params: Mapping[str, Any] = {}
    hooks: tuple[Hook, ...] = ()
    turns: Turns | None = None
    prepared: dict[str, Any] = msgspec.field(default_factory=dict)
