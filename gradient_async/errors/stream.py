"""What ends a stream before its time."""

from __future__ import annotations

from typing import Any

from ..types import ChatCompletion
from .base import APIConnectionError, APIError, APITimeoutError
from .status import (
    APIStatusError,
    InternalServerError,
    QuotaExceededError,
    RateLimitError,
    RequestTimeoutError,
    status_error_class,
    status_of_words,
)

__all__ = [
    "StreamError",
    "StreamInterruptedError",
    "StreamLimitError",
    "StreamProtocolError",
    "StreamServerError",
    "StreamTimeoutError",
    "StreamTruncatedError",
    "refused_call",
    "refused_choice",
]


class StreamError(APIError):
    """A stream did not end as it should.

    Attributes:
        partial: Everything received before, assembled.
        events: How many events were received.
        bytes_received: How many bytes of body were received.
    """

    partial: ChatCompletion | None
    events: int
    bytes_received: int

    def __init__(
        self,
        message: str = "",
        *,
        partial: ChatCompletion | None = None,
        events: int = 0,
        bytes_received: int = 0,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.partial = partial
        self.events = events
        self.bytes_received = bytes_received


class StreamInterruptedError(StreamError, APIConnectionError):
    """The connection was lost before the stream was complete."""


class StreamTruncatedError(StreamError):
    """The stream ended cleanly, but short: neither ``[DONE]`` nor a finish_reason for every choice."""


class StreamTimeoutError(StreamError, APITimeoutError):
    """No content came within the limit; ``phase`` is first_token, idle or total."""


class StreamProtocolError(StreamError):
    """What came is not a stream of chat completion chunks."""


class StreamLimitError(StreamError):
    """What came exceeds a limit of `Limits`; the message names it."""


class StreamServerError(StreamError):
    """The server sent an error inside the stream."""

    @property
    def status_class(self) -> type[APIStatusError]:
        """The class that the same error would have as a status."""
        return status_error_class(status_of_words(self.code, self.type), self.code)

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return issubclass(
            self.status_class, (RateLimitError, InternalServerError, RequestTimeoutError)
        ) and not issubclass(self.status_class, QuotaExceededError)


def refused_choice(index: int, most: int) -> StreamError:
    """Make the error of a choice whose index is none, or that of too many.

    Args:
        index: Its index.
        most: How many choices there may be.
    """
    if index < 0:
        return StreamProtocolError(f"a choice has the index {index}")
    return StreamLimitError(
        f"a choice has the index {index}, and choices={most} are allowed; "
        "raise Limits(choices=...) if that is meant"
    )


def refused_call(choice: int, index: int, most: int) -> StreamError:
    """Make the error of a tool call whose index is none, or that of too many.

    Args:
        choice: Index of its choice.
        index: Its own.
        most: How many tool calls a choice may have.
    """
    if index < 0:
        return StreamProtocolError(f"a tool call of choice {choice} has the index {index}")
    return StreamLimitError(
        f"choice {choice} has more than tool_calls={most} tool calls (index {index}); "
        "raise Limits(tool_calls=...) if that is meant"
    )
