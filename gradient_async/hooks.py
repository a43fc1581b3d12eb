"""Hooks, which observe the calls of a client: for metrics, traces, budgets and logs."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from .errors import APIError
from .types import ChatCompletion, RateLimits, ToolCall

log = logging.getLogger("gradient_async")

Outcome = Literal["completed", "failed", "left", "cancelled"]

_FIRST_ERROR = 300  # redirects are errors, because they are never followed


class CallInfo(msgspec.Struct, kw_only=True, eq=False):
    """One call, as hooks see it: the same object from the first attempt to the end of the call.

    Attributes:
        operation: ``"chat"``, ``"agent"`` or ``"models"``.
        method: HTTP method.
        url: URL without its query.
        params: Parameters of the request. They include the messages, so take care where you log them.
        stream: Whether the reply is streamed.
        attempts: Number of requests made so far.
        elapsed: Seconds from the call to this event.
        status_code: HTTP status of the last reply, or None.
        request_id: The server's id of the request, or None.
        rate_limits: Rate limits in the headers of the last reply, or None.
        wait: Seconds until the next attempt; set for ``on_retry``.
        queued: Seconds that the call waited for a free connection.
        first_token: For a stream, seconds from the sent request to the first content; None before.
        gaps: For a stream, seconds between the reads that brought content; empty before the end.
        outcome: How the call ended; None before. ``"left"`` is a stream that its reader closed or dropped.
        error: The error of the last attempt or of the call, or None.
        completion: The completion, as far as it was received; None before the end.
        redact: Removes keys from a text; use it before you store what a server sent, because servers may repeat keys.
        state: A dictionary for the hook's own use.
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
    gaps: Sequence[float] = ()
    outcome: Outcome | None = None
    error: BaseException | None = None
    completion: ChatCompletion | None = None
    redact: Callable[[str], str] = str
    state: dict[Any, Any] = msgspec.field(default_factory=dict[Any, Any])

    @property
    def error_type(self) -> str | None:
        """The status as text if the server answered with an error, else the class of the error; None without one."""
        error = self.error
        if error is None:
            return None
        status = error.status_code if isinstance(error, APIError) else None
        # A stream may fail after a reply of status 200. This status would not describe the error.
        return type(error).__name__ if status is None or status < _FIRST_ERROR else str(status)


class ToolInfo(msgspec.Struct, kw_only=True, eq=False):
    """One call of a function by a run, as hooks see it: the same object from its beginning to its end.

    Attributes:
        call: The call: its id, the name of the tool, and the arguments as the model wrote them.
        description: Description of the tool, or None.
        turn: Number of the turn.
        seconds: How long the function ran; 0.0 before its end.
        error_type: The class of the exception in place of a result; None without one.
        redact: Removes keys from a text, as for `CallInfo`.
        state: A dictionary for the hook's own use.
    """

    call: ToolCall
    description: str | None = None
    turn: int = 0
    seconds: float = 0.0
    # Only the name of the class is kept: the traceback of an exception leads to a frame that refers to this object.
    error_type: str | None = None
    redact: Callable[[str], str] = str
    state: dict[Any, Any] = msgspec.field(default_factory=dict[Any, Any])


class Hook:
    """Observes calls. Override the methods that you need, and pass an instance in ``hooks=`` of the client.

    The methods are called in the event loop and must return quickly. An exception from them is logged and does not change
    the call.
    """

    def on_request(self, call: CallInfo) -> None:
        """Called before a request is sent, for each attempt."""

    def on_response(self, call: CallInfo) -> None:
        """Called when the headers of a reply were received, whatever its status."""

    def on_retry(self, call: CallInfo) -> None:
        """Called when an attempt failed and another follows after ``call.wait`` seconds."""

    def on_end(self, call: CallInfo) -> None:
        """Called when the call or its stream has ended, or the stream was left; ``call.outcome`` says how."""

    def on_tool_start(self, tool: ToolInfo) -> None:
        """Called before a run calls a function, in the task that calls it."""

    def on_tool_end(self, tool: ToolInfo) -> None:
        """Called in the same task when the function has returned, raised, or been cancelled."""


def tell(method: Callable[[Any], None], info: Any) -> None:
    """Call a method of a hook; log what it raises."""
    try:
        method(info)
    except Exception as error:  # noqa: BLE001  # a hook may raise anything, and must not change the call
        # `log.exception` would show the texts of the exception and of the call's error, and both may repeat prompts and
        # replies.
        log.error(  # noqa: TRY400
            "a hook failed: %s raised %s\n%s",
            getattr(method, "__qualname__", method),
            type(error).__name__,
            "".join(traceback.format_tb(error.__traceback__)),
        )
