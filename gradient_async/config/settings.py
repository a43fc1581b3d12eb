"""Time limits, retries, and limits on what a server may send."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import ConfigurationError

__all__ = ["DEFAULT_MAX_RETRIES", "DEFAULT_TIMEOUT", "Limits", "Retry", "Timeout"]

_MIB = 1024 * 1024


class Timeout(msgspec.Struct, frozen=True, kw_only=True):
    """Time limits in seconds; None is no limit.

    Attributes:
        connect: To make a connection: name lookup, TCP and TLS.
        first_token: Of a stream, from the request sent to the first content, headers included.
        idle: Of a stream, between two pieces of content. What the consumer takes does not count.
        response: Of an awaited call, from the request sent to the whole reply; for each attempt.
        total: Of the whole call on the wall, with retries and waits; checked while we wait.
    """

    connect: float | None = 5.0
    first_token: float | None = 180.0
    idle: float | None = 120.0
    response: float | None = 600.0
    total: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < float("inf")):
                raise ConfigurationError(
                    f"timeout: {name}={value!r} is not a positive number of seconds or None"
                )

    @classmethod
    def of(cls, value: Any) -> Timeout:
        """Read a timeout as users of other clients write it.

        Args:
            value: A `Timeout`; seconds (connect at most 5, total unlimited, the others that long); None,
                which turns all limits off; or an object with ``connect`` and ``read`` in seconds.

        Raises:
            ConfigurationError: If it is none of these.
        """
        if isinstance(value, cls):
            return value
        if value is None:
            return cls(connect=None, first_token=None, idle=None, response=None)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return cls(connect=min(5.0, value), first_token=value, idle=value, response=value)
        connect: Any = getattr(value, "connect", value)
        read: Any = getattr(value, "read", value)
        if connect is not value and read is not value:
            return cls(connect=connect, first_token=read, idle=read, response=read)
        raise ConfigurationError(
            f"timeout={value!r} is not understood: give seconds, None, Timeout(...), "
            "or an object with .connect and .read"
        )


DEFAULT_TIMEOUT = Timeout()
DEFAULT_MAX_RETRIES = 2


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """When and how long to try again; how often is ``max_retries`` of the client.

    Attributes:
        budget: Most seconds to spend on waits of one call; a longer wait is an error at once.
        max_backoff: Longest wait of our own choice, in seconds; a server may ask for a longer one.
        ambiguous: Try again also where the server may already have worked: no answer after the request
            was sent, and 504. It may cost twice.
    """

    budget: float = 60.0
    max_backoff: float = 8.0
    ambiguous: bool = False

    def __post_init__(self) -> None:
        for name in ("budget", "max_backoff"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigurationError(f"retry: {name}={getattr(self, name)!r} is not a number of seconds")


_MAY_BE_UNLIMITED = frozenset({"event_bytes", "line_bytes", "body_bytes", "completion_bytes"})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Most that a server may send; what exceeds a limit is an error that names it.

    None is no limit for the sizes of events, lines, bodies and completions.

    Attributes:
        event_bytes: Data of one event of a stream, in bytes.
        line_bytes: One line of a stream, in bytes.
        body_bytes: Body of an awaited reply, in bytes.
        error_body_bytes: Body of an error, in bytes; the rest is not read.
        error_body_seconds: Time to read the body of an error, in seconds.
        completion_bytes: Text, reasoning, refusals and arguments of an assembled completion, in characters.
        buffered_bytes: What an iterator that lags behind may leave queued in one stream, in characters.
        choices: Choices of a reply; a request's own n counts if it is larger.
        tool_calls: Tool calls of one choice.
        drain_seconds: Time to wait for the end of the HTTP body after ``[DONE]``, in seconds.
        drain_bytes: Bytes to read for the same.
        decompression_ratio: Bytes that a compressed body may become for each byte received, once they are
            more than 1 MiB.
        gzip_members: Parts that a gzip body may consist of.
        headers: Headers of a reply.
        header_bytes: One header, name and value, in bytes.
        interim_responses: Interim (1xx) responses before a reply.
    """

    event_bytes: int | None = 16 * _MIB
    line_bytes: int | None = 16 * _MIB + 1024  # the longest event fits on one line
    body_bytes: int | None = 64 * _MIB
    error_body_bytes: int = 64 * 1024
    error_body_seconds: float = 5.0
    completion_bytes: int | None = 64 * _MIB
    buffered_bytes: int = 16 * _MIB
    choices: int = 128
    tool_calls: int = 1024
    drain_seconds: float = 0.1
    drain_bytes: int = 64 * 1024
    decompression_ratio: int = 200
    gzip_members: int = 64
    headers: int = 128
    header_bytes: int = 8 * 1024
    interim_responses: int = 16

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None and name in _MAY_BE_UNLIMITED:
                continue
            if not (isinstance(value, (int, float)) and value > 0):
                none = " or None" if name in _MAY_BE_UNLIMITED else ""
                raise ConfigurationError(f"limits: {name}={value!r} is not a positive number{none}")
