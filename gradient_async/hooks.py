"""What may watch calls from outside: for metrics, traces, budgets and logs of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from .errors import APIError
from .types import ChatCompletion, RateLimits

__all__ = ["CallInfo", "Hook", "Outcome"]

Outcome = Literal["completed", "failed", "left", "cancelled"]


class CallInfo(msgspec.Struct, kw_only=True, eq=False):
    """One call as its hooks see it: the same object from the first attempt to the end.

    Attributes:
        operation: ``"chat"``, ``"agent"`` or ``"models"``.
        method: HTTP method.
        url: Where it goes, without the query.
        params: Parameters of the request, the messages among them: take care where you show them.
        stream: Whether the reply is streamed.
        attempts: How many requests have been made so far.
        elapsed: Seconds from the call to this event.
        status_code: HTTP status of the latest reply, or None.
        request_id: The server's name for the request, or None.
        rate_limits: What the latest reply's headers said of limits, or None.
        wait: Seconds until the next attempt, at ``on_retry``.
        queued: Seconds waited for a free connection.
        first_token: Of a stream, seconds from the request sent to the first content; None before.
        outcome: How it ended; None before. ``"left"`` is a stream that its reader closed or dropped.
        error: What made the last attempt or the call fail, or None.
        completion: The completion, or what came of it; None before the end.
        state: For the hook's own use; nothing of ours is in it.
    """

    operation: str
    method: str
    url: str
    params: Mapping[str, Any]
    stream: bool
    attempts: int = 0
    elapsed: float = 0.0
    status_code: int | None = None
    request_id: str | None = None
    rate_limits: RateLimits | None = None
    wait: float | None = None
    queued: float = 0.0
    first_token: float | None = None
    outcome: Outcome | None = None
    error: BaseException | None = None
    completion: ChatCompletion | None = None
    state: dict[Any, Any] = msgspec.field(default_factory=dict[Any, Any])

    @property
    def error_type(self) -> str | None:
        """The status as text, or else the class of the error; None if there is none."""
        error = self.error
        if error is None:
            return None
        status = error.status_code if isinstance(error, APIError) else None
        return str(status) if status is not None and status >= 300 else type(error).__name__  # noqa: PLR2004  # HTTP


class Hook:
    """Watches calls; override what you need, and pass an instance in ``hooks=`` of the client.

    The methods are called in the event loop and have to be quick. What they raise is logged, and changes
    nothing for the call.
    """

    def on_request(self, call: CallInfo) -> None:
        """A request is about to be sent; for each attempt."""

    def on_response(self, call: CallInfo) -> None:
        """The headers of a reply came, of whatever status."""

    def on_retry(self, call: CallInfo) -> None:
        """An attempt failed, and another will follow after ``call.wait`` seconds."""

    def on_end(self, call: CallInfo) -> None:
        """The call is over: ``call.outcome`` says how. Of a stream, when it ended or was left."""
